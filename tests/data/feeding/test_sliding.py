"""Sliding windows score each position once, after as much as they promise."""

import numpy as np
import pytest

from reformer_dist.data.feeding.packing import plan_sequences
from reformer_dist.data.feeding.sliding import slide


@pytest.mark.parametrize("stride", [1, 3, 8, 16])
def test_each_position_is_scored_once_after_what_is_promised(stride: int) -> None:
    lengths = np.array([5, 16, 17, 40, 1, 31, 64, 100])
    length, found = 16, slide(np.array(lengths), 16, stride)
    scored: dict[tuple[int, int], int] = {}
    for sequence in range(found.plan.num_sequences):
        known = int(found.num_known[sequence])
        assert sum(n for _, _, n in found.plan.segments(sequence)) <= length
        for document, offset, number in found.plan.segments(sequence):
            for place in range(offset + known, offset + number):
                assert (document, place) not in scored
                scored[document, place] = place - offset
    assert len(scored) == lengths.sum()
    for (_, place), context in scored.items():
        assert context == place or context >= length - stride, (
            "all of its document that is before, or what the stride leaves"
        )


def test_documents_that_fit_are_packed_as_in_training() -> None:
    lengths = np.array([5, 16, 7, 3, 1])
    found, packed = slide(lengths, 16, 4), plan_sequences(lengths, 16)
    assert not found.num_known.any()
    assert [found.plan.segments(i) for i in range(found.plan.num_sequences)] == [
        packed.segments(i) for i in range(packed.num_sequences)
    ]
