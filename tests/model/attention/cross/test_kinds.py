"""Cross-attention: exact against a softmax spelled out, LSH against one query at a time; a query sees its own document."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reformer_dist import ModelConfig
from reformer_dist.model.attention.cross.full import FullCross
from reformer_dist.model.attention.cross.kind import CrossKind, SourceHeads
from reformer_dist.model.attention.cross.lsh import LSHCross
from reformer_dist.model.attention.lsh.hashing import draw_rotations, hash_buckets
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.randomness import Use, make_key

B, T, S, H, D = 2, 23, 37, 3, 6


def _config(**changes: Any) -> ModelConfig:
    settings: dict[str, Any] = {"embed_dim": H * D, "num_heads": H, "max_length": 64, "encoder_layers": ("lsh",)}
    return ModelConfig(**{**settings, "num_buckets": 4, "num_hashes": 3, "lsh_window": 5, **changes})


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _heads(documents: Tensor | None = None, positions: Tensor | None = None) -> SourceHeads:
    return SourceHeads(_draw(B, S, H, D, seed=1), _draw(B, S, H, D, seed=2), documents, positions)


def _packed() -> tuple[Context, SourceHeads]:
    """Three documents of a target and two of their sources; the third has none. Row 1 is one document. Ends are padding."""
    target, source = torch.zeros(2, B, T, dtype=torch.int64), torch.zeros(2, B, S, dtype=torch.int64)
    target[0, 0] = torch.tensor([0] * 9 + [1] * 8 + [2] * 3 + [-1] * 3)
    source[0, 0] = torch.tensor([0] * 20 + [1] * 15 + [-1] * 2)
    target[1] = torch.stack([torch.tensor([*range(9), *range(8), *range(3), 0, 0, 0]), torch.arange(T)])
    source[1] = torch.stack([torch.tensor([*range(20), *range(15), 0, 0]), torch.arange(S)])
    return Context(target[0], positions_BT=target[1]), _heads(source[0], source[1])


def _attend(kind: CrossKind, heads: SourceHeads, context: Context, training: bool = False) -> Tensor:
    q_BTHD = _draw(B, T, H, D, seed=0)
    index, found = kind.index(heads, context, training), kind.find(q_BTHD, context, training)
    return kind.attend(q_BTHD, heads, index, found, context, training)


def _one_by_one(heads: SourceHeads, context: Context, seen: Any) -> Tensor:
    """Each query by itself over the keys that `seen(row, head, query)` lists."""
    q_BTHD, out = _draw(B, T, H, D, seed=0), torch.zeros(B, T, H, D, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            for h in range(H):
                keys = seen(b, h, t)
                if keys:
                    weights = (heads.k_BSHD[b, keys, h] @ q_BTHD[b, t, h] * D**-0.5).softmax(0)
                    out[b, t, h] = weights @ heads.v_BSHD[b, keys, h]
    return out


def _of_document(heads: SourceHeads, context: Context, b: int, t: int) -> list[int]:
    if heads.documents_BS is None or context.documents_BT is None:
        return [*range(S)]
    own = int(context.documents_BT[b, t])
    return [] if own < 0 else [s for s in range(S) if heads.documents_BS[b, s] == own]


@pytest.mark.parametrize("is_packed", [False, True])
def test_full_is_a_softmax_over_the_documents_source(is_packed: bool) -> None:
    context, heads = _packed() if is_packed else (Context(), _heads())
    expected = _one_by_one(heads, context, lambda b, h, t: _of_document(heads, context, b, t))
    torch.testing.assert_close(_attend(FullCross(_config(), 0, Budget()), heads, context), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("is_packed", [False, True])
def test_lsh_sees_its_buckets_keys_nearest_in_position(is_packed: bool) -> None:
    context, heads = _packed() if is_packed else (Context(), _heads())
    config = _config(lsh_window=4)
    key = make_key(config.seed, 0, 1, Use.CROSS_ROTATIONS)
    rotations = draw_rotations(key, D, config.num_hashes, (4,))
    of_queries, of_keys = (hash_buckets(x, rotations, (4,)).long() for x in (_draw(B, T, H, D, seed=0), heads.k_BSHD))

    def seen(b: int, h: int, t: int) -> list[int]:
        keys = []
        at = t if context.positions_BT is None else int(context.positions_BT[b, t])
        for r in range(config.num_hashes):
            own = [s for s in _of_document(heads, context, b, t) if of_keys[b, h, r, s] == of_queries[b, h, r, t]]
            places = [s if heads.positions_BS is None else int(heads.positions_BS[b, s]) for s in own]
            first = max(0, min(sum(place < at for place in places) - 2, len(own) - 4))
            keys += own[first : first + 4]
        return keys

    found = _attend(LSHCross(config, 1, Budget()), heads, context)
    torch.testing.assert_close(found, _one_by_one(heads, context, seen), atol=1e-12, rtol=0)
    buckets = [len(seen(b, h, t)) for b in range(B) for h in range(H) for t in range(T)]
    assert max(buckets) == 12
    assert min(buckets) < 12


@pytest.mark.parametrize("num_buckets", [1, 4])
def test_lsh_is_exact_where_its_window_covers_the_bucket(num_buckets: int) -> None:
    """One bucket whose window holds the source is full attention; of several, a softmax over whole buckets."""
    context, heads = _packed()
    config = _config(num_buckets=num_buckets, num_hashes=2, lsh_window=S)
    found = _attend(LSHCross(config, 0, Budget()), heads, context)
    exact = _attend(FullCross(config, 0, Budget()), heads, context)
    if num_buckets == 1:
        torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)
    else:
        assert (found - exact).abs().max() > 0.1


@pytest.mark.parametrize("kind", [FullCross, LSHCross])
def test_dropout_takes_the_weights_of_the_same_pairs_in_any_piece(kind: type[CrossKind]) -> None:
    context, heads = _packed()
    made = kind(_config(attention_dropout=0.3), 0, Budget())
    whole = _attend(made, heads, context, training=True)
    assert not torch.allclose(whole, _attend(made, heads, context))
    q_BTHD, index = _draw(B, T, H, D, seed=0), made.index(heads, context, True)
    for piece in (slice(0, 10), slice(10, T)):
        here = context.of_tokens(piece)
        part = made.attend(q_BTHD[:, piece], heads, index, made.find(q_BTHD[:, piece], here, True), here, True)
        torch.testing.assert_close(part, whole[:, piece], atol=1e-12, rtol=0)
