"""The references themselves, on cases small enough to work out by hand.

With qk = 0 all scores are equal and with v = 1 (the identity) the output is the attention matrix itself, so that most
cases read as a table: row i lists the share of each token j in the output of token i.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model import references
from tests.model.references import ATOL, lsh_chunked, lsh_paper, lsh_window

Row = Sequence[float]


def shares(attention: Callable[..., Tensor], buckets: Sequence[Row], window: int, **options: Any) -> Tensor:
    """Attention matrix [T, T] of equal scores; `buckets` is one row a round."""
    buckets_BHRT = torch.tensor(buckets)[None, None]
    num_tokens = buckets_BHRT.shape[-1]
    qk_BTHD = torch.zeros(1, num_tokens, 1, num_tokens, dtype=torch.float64)
    v_BTHD = torch.eye(num_tokens, dtype=torch.float64)[None, :, None]
    return attention(qk_BTHD, v_BTHD, buckets_BHRT, window, **options)[0, :, 0]


def local_shares(attention: Callable[..., Tensor], num_tokens: int, *args: int, **options: Any) -> Tensor:
    """As `shares`, for attention with separate queries and keys."""
    zeros_BTHD = torch.zeros(1, num_tokens, 1, num_tokens, dtype=torch.float64)
    v_BTHD = torch.eye(num_tokens, dtype=torch.float64)[None, :, None]
    return attention(zeros_BTHD, zeros_BTHD, v_BTHD, *args, **options)[0, :, 0]


def assert_shares(actual: Tensor, *rows: Row) -> None:
    """Compare with rows of relative weights."""
    expected = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(actual, expected / expected.sum(dim=1, keepdim=True), rtol=0, atol=ATOL)


def documents(*ids: int) -> Tensor:
    return torch.tensor(ids)[None]


# Hashing and scores.


def test_buckets_are_the_nearest_of_plus_and_minus_each_column() -> None:
    qk = torch.tensor([[1.0, 0.5], [0.5, 1.0], [-1.0, 0.5], [0.5, -1.0]])[None, :, None]
    assert references.hash_buckets(qk, torch.eye(2)[:, None], 4).tolist() == [[[[0, 1, 2, 3]]]]


def test_first_bucket_factor_is_the_least_significant() -> None:
    qk = torch.tensor([[1.0, 0.5], [0.5, 1.0], [-1.0, 0.5], [0.5, -1.0]])[None, :, None]
    rotations = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])[:, None]  # columns 0, 1: factor 4; column 2: factor 2
    assert references.hash_buckets(qk, rotations, (4, 2)).tolist() == [[[[0, 1, 2 + 4, 3 + 4]]]]
    assert references.hash_buckets(qk, rotations[..., [2, 0, 1]], (2, 4)).tolist() == [[[[0, 2, 1 + 4, 1 + 6]]]]


def test_rotations_may_differ_by_head_and_round() -> None:
    qk = torch.tensor([1.0, 0.5]).expand(1, 1, 2, 2)
    rotations_HDRC = torch.tensor([[[[1.0], [-1.0]], [[0.0], [0.0]]], [[[0.0], [0.0]], [[-1.0], [1.0]]]])
    assert references.hash_buckets(qk, rotations_HDRC, 2).tolist() == [[[[0], [1]], [[1], [0]]]]


def test_one_bucket_needs_no_columns() -> None:
    assert references.hash_buckets(torch.randn(1, 3, 2, 4), torch.randn(4, 5, 0), 1).shape == (1, 2, 5, 3)


def test_shared_scores_normalise_keys_and_not_queries() -> None:
    qk = torch.tensor([[3.0, 4.0], [8.0, 6.0]], dtype=torch.float64)[None, :, None]
    expected = torch.tensor([[5.0, 4.8], [9.6, 10.0]], dtype=torch.float64)  # unit keys (0.6, 0.8) and (0.8, 0.6)
    torch.testing.assert_close(references.shared_scores(qk)[0, 0], expected, rtol=1e-6, atol=0)


def test_weights_are_softmax_of_score_plus_log_count() -> None:
    """Row 2 sees token 0 in one round and token 1 in two: weights 1 exp(s_20) and 2 exp(s_21)."""
    qk = torch.tensor([[3.0, 4.0], [8.0, 6.0], [0.6, -0.8]], dtype=torch.float64)[None, :, None]
    v = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)[None, :, None, None]
    buckets = torch.tensor([[0, 0, 0], [1, 0, 0]])[None, None]
    first, second = math.exp(0.36 - 0.64), 2 * math.exp(0.48 - 0.48)
    for attention, weight in ((lsh_window, second), (lsh_paper, second / 2)):
        window = 2 if attention is lsh_window else 4
        out = attention(qk, v, buckets, window)[0, :, 0, 0]
        expected = [1.0, 1.0, (first + 10 * weight) / (first + weight)]
        torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


# window


def test_window_sees_the_last_predecessors_of_its_bucket() -> None:
    assert_shares(
        shares(lsh_window, [[0, 1, 0, 0, 1, 0]], 2),
        [1, 0, 0, 0, 0, 0],  # nothing before it: itself
        [0, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],  # the last two of 0, 2, 3
    )


def test_window_sees_both_sides_when_not_causal() -> None:
    assert_shares(
        shares(lsh_window, [[0, 1, 0, 0, 2, 0]], 1, causal=False),
        [0, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0, 1],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 1, 0, 0],
    )


def test_window_counts_a_pair_once_for_each_round_it_meets_in() -> None:
    assert_shares(
        shares(lsh_window, [[0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 0, 2]], 2),
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [3, 1, 0, 0],
        [0, 1, 0, 0],  # alone in rounds 0 and 2, and yet not with itself
    )


def test_window_stays_in_its_document_and_leaves_padding_alone() -> None:
    """The window of token 5 reaches past the padding: order counts the tokens of one document only."""
    assert_shares(
        shares(lsh_window, [[0] * 6], 2, documents_BT=documents(0, 0, 1, 1, -1, 1)),
        [1, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 1, 1, 0, 0],
    )


# chunked


def test_chunked_sees_its_chunk_and_the_one_before_across_buckets() -> None:
    """Sorted: 1 3 | 0 2 | 4 5. What the first chunk finds in the last one is in its future."""
    assert_shares(
        shares(lsh_chunked, [[1, 0, 1, 0, 2, 2]], 2),
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 0, 1, 0, 1, 0],
    )


def test_chunked_joins_the_rounds_in_a_circle_and_weighs_them_by_their_mass() -> None:
    """The list is 0 1 | 2 3 | 1 3 | 0 2. Token 3 sees 2, 0, 1 in one round and 1, 2 in the other.

    Token 1 sees only itself in round 1, which then weighs nothing.
    """
    assert_shares(
        shares(lsh_chunked, [[0, 0, 0, 0], [1, 0, 1, 0]], 2),
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 2, 2, 0],
    )


def test_chunked_pads_the_end_of_every_round() -> None:
    """The list is 0 1 | 2 3 | 4 p | 2 3 | 4 0 | 1 p, where p is padding."""
    assert_shares(
        shares(lsh_chunked, [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0]], 2, causal=False),
        [0, 2, 1, 1, 1],
        [2, 0, 0, 0, 1],
        [1, 1, 0, 2, 1],
        [1, 1, 2, 0, 1],
        [1, 0, 2, 2, 0],
    )


def test_chunked_puts_padding_last_and_hides_other_documents() -> None:
    """Sorted: 0 2 | 3 1, where 1 is padding. Token 2 is alone in its document, and so is left with itself."""
    assert_shares(
        shares(lsh_chunked, [[0, 0, 0, 1]], 2, causal=False, documents_BT=documents(0, -1, 1, 0)),
        [0, 0, 0, 1],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [1, 0, 0, 0],
    )


def test_chunked_meets_a_chunk_twice_when_it_is_before_and_after() -> None:
    assert_shares(
        shares(lsh_chunked, [[0, 0, 0, 0]], 2, causal=False, chunks_after=1),
        [0, 1, 2, 2],
        [1, 0, 2, 2],
        [2, 2, 0, 1],
        [2, 2, 1, 0],
    )


# paper


def test_paper_sees_its_bucket_in_its_chunk_and_the_one_before() -> None:
    """Sorted: 0 1 | 2 4 | 5 3, the bucket changes before 3. Token 5 is too far from 0 and 1."""
    assert_shares(
        shares(lsh_paper, [[0, 0, 0, 1, 0, 0]], 2),
        [1, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 1, 0, 1, 0],
    )


def test_paper_does_not_look_at_the_chunk_after() -> None:
    assert_shares(
        shares(lsh_paper, [[0, 0, 0, 0]], 2, causal=False),
        [0, 1, 0, 0],
        [1, 0, 0, 0],
        [1, 1, 0, 1],
        [1, 1, 1, 0],
    )


def test_paper_counts_a_pair_once_over_all_rounds() -> None:
    assert_shares(
        shares(lsh_paper, [[0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 0, 2]], 4),
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 0, 0],
    )


def test_paper_sorts_padding_out_of_the_chunks() -> None:
    """Sorted without padding: 0 2 | 3 5; with it in place, token 5 would be a chunk further from token 0."""
    assert_shares(
        shares(lsh_paper, [[0] * 6], 2, documents_BT=documents(0, -1, 0, 0, -1, 0)),
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [1, 0, 1, 1, 0, 0],
    )


# local and full


def test_local_window_counts_itself_when_causal_and_each_side_when_not() -> None:
    assert_shares(
        local_shares(references.local_window, 4, 2, documents_BT=documents(0, 0, 0, -1)),
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 1],
    )
    assert_shares(
        local_shares(references.local_window, 4, 1, causal=False, documents_BT=documents(0, 0, 0, 1)),
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 1],
    )


def test_local_chunks_end_at_the_ends_of_the_sequence() -> None:
    assert_shares(
        local_shares(references.local_chunked, 5, 2),
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
    )
    assert_shares(
        local_shares(references.local_chunked, 5, 2, causal=False),
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
        [0, 0, 1, 1, 1],
    )


def test_full_attention_sees_its_document() -> None:
    ids = documents(0, 0, 1, -1)
    assert_shares(
        local_shares(references.full_attention, 4, documents_BT=ids),
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    )
    assert_shares(
        local_shares(references.full_attention, 4, documents_BT=ids, causal=False),
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    )


def test_separate_scores_are_scaled_by_the_root_of_the_width() -> None:
    q = torch.tensor([[0.0] * 4, [1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)[None, :, None]
    k = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)[None, :, None]
    v = torch.tensor([1.0, 0.0], dtype=torch.float64)[None, :, None, None]
    share = 1 / (1 + math.exp(2 / 2 - 3 / 2))
    assert references.full_attention(q, k, v)[0, 1, 0, 0].item() == pytest.approx(share, rel=1e-12)


# dropout


@pytest.mark.parametrize("attention", [lsh_window, lsh_chunked, lsh_paper])
def test_dropout_scales_weights_and_leaves_their_sum_as_it_was(attention: Callable[..., Tensor]) -> None:
    """Twice the weight here, none there; other tokens keep their share, and a lonely row keeps M_ii of its value."""
    keep = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    keep[0, 0, 0, 0], keep[0, 0, 3, 0], keep[0, 0, 3, 2] = 0.25, 0, 2
    plain = shares(attention, [[0] * 4, [0] * 4], 4)
    assert_shares(plain, [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0])
    torch.testing.assert_close(shares(attention, [[0] * 4, [0] * 4], 4, keep_BHTT=keep), plain * keep[0, 0])


# The rest of a block.


def test_axial_positions_count_in_row_major_order() -> None:
    weights = [torch.tensor([[1.0], [2.0]]), torch.tensor([[10.0, 11.0], [20.0, 21.0], [30.0, 31.0]])]
    rows = references.reference_axial_positions(weights, (2, 3), (1, 2), torch.tensor([[0, 2, 3, 5]]))
    assert rows.tolist() == [[[1, 10, 11], [1, 30, 31], [2, 10, 11], [2, 30, 31]]]


def test_three_axial_factors_count_the_last_fastest() -> None:
    weights = [torch.arange(n, dtype=torch.float64)[:, None] for n in (2, 3, 4)]
    rows = references.reference_axial_positions(weights, (2, 3, 4), (1, 1, 1), torch.tensor([[1, 4, 12, 23]]))
    assert rows.tolist() == [[[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 2, 3]]]


def test_reversible_streams_start_equal_and_feed_each_other() -> None:
    """x = 1: y1 = 1 + 2 * 1 = 3, y2 = 1 + 3 * 3 = 10; then y1 = 3 + 5 * 10 = 53, y2 = 10 + 7 * 53 = 381."""
    fs, gs = [lambda x: 2 * x, lambda x: 5 * x], [lambda x: 3 * x, lambda x: 7 * x]
    y1, y2 = references.reference_reversible(torch.ones(()), fs, gs)
    assert (y1.item(), y2.item()) == (53, 381)
