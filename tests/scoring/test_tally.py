"""Sums of scores by what came before and by source."""

import torch

from reformer_dist.scoring.tally import bucket_ends, context, tally


def test_what_came_before_begins_anew_with_each_document_and_in_padding() -> None:
    documents_BT = torch.tensor([[0, 0, 0, 1, 1, 2, -1, -1], [0] * 8])
    assert context(documents_BT).tolist() == [[0, 1, 2, 0, 1, 0, 0, 1], list(range(8))]


def test_buckets_double_up_to_the_length() -> None:
    assert bucket_ends(100) == [16, 32, 64, 100]
    assert bucket_ends(64) == [16, 32, 64]
    assert bucket_ends(10) == [10]


def test_every_score_is_in_one_bucket_and_of_one_source() -> None:
    generator = torch.Generator().manual_seed(0)
    scores_BTk = torch.rand(3, 100, 2, generator=generator, dtype=torch.float64)
    documents_BT = torch.zeros(3, 100, dtype=torch.int64)
    documents_BT[1, 40:] = 1
    sources_BT = torch.randint(3, (3, 100), generator=generator)
    one = tally(scores_BTk, documents_BT, sources_BT, 100, 3, num_bytes=300)
    torch.testing.assert_close(one.by_context.sum(0), scores_BTk.sum((0, 1)))
    for source in range(3):
        torch.testing.assert_close(one.by_source[source], scores_BTk[sources_BT == source].sum(0))
    near = [scores_BTk[0, 16:32], scores_BTk[1, 16:32], scores_BTk[1, 56:72], scores_BTk[2, 16:32]]
    torch.testing.assert_close(one.by_context[1], torch.cat(near).sum(0))
    twice = one + one
    assert torch.equal(twice.by_context, 2 * one.by_context)
    assert torch.equal(twice.by_source, 2 * one.by_source)
    assert twice.num_bytes == 600
