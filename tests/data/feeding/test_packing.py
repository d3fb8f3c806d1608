"""Every position of every document is in exactly one sequence, and little is padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_dist.data.feeding.packing import SequencePlan, plan_sequences


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=60), sequence_length=st.integers(1, 64))
def test_every_position_lies_in_exactly_one_segment(lengths: list[int], sequence_length: int) -> None:
    plan = plan_sequences(np.array(lengths), sequence_length)
    seen = [np.zeros(length, int) for length in lengths]
    for sequence in range(plan.num_sequences):
        segments = plan.segments(sequence)
        assert 0 < sum(length for _, _, length in segments) <= sequence_length
        for document, offset, length in segments:
            seen[document][offset : offset + length] += 1
            assert len(seen[document][offset:]) >= length
    assert all((counts == 1).all() for counts in seen)


def test_long_documents_are_cut_in_order_and_their_ends_share_a_sequence() -> None:
    plan = plan_sequences(np.array([10, 23, 5]), 10)
    assert [plan.segments(i) for i in range(plan.num_sequences)] == [
        [(0, 0, 10)],
        [(1, 0, 10)],
        [(1, 10, 10)],
        [(1, 20, 3), (2, 0, 5)],
    ]
    assert plan.padding_share == pytest.approx(2 / 40)


def test_remainders_are_packed_as_tightly_as_best_fit_decreasing_can() -> None:
    # In the order given, 3 and 3 would share a sequence and each 5 would need one of its own.
    plan = plan_sequences(np.array([3, 3, 5, 5]), 8)
    assert plan.num_sequences == 2
    assert plan.padding_share == 0.0


def test_short_documents_leave_almost_no_padding() -> None:
    lengths = np.random.default_rng(0).lognormal(5.7, 0.6, 20_000).astype(np.int64) + 1
    plan = plan_sequences(lengths, 2048)
    assert plan.padding_share < 0.002


def test_a_split_smaller_than_a_sequence_is_one_padded_sequence() -> None:
    plan: SequencePlan = plan_sequences(np.array([3]), 100)
    assert plan.num_sequences == 1
    assert plan.padding_share == pytest.approx(0.97)


def test_runs_are_the_sequences_of_one_document() -> None:
    assert plan_sequences(np.array([10, 23, 5]), 10).run_lengths().tolist() == [
        1,
        2,
        1,
    ]  # 3 of the 23 are packed with 5
    assert plan_sequences(np.array([25, 20]), 10).run_lengths().tolist() == [3, 2]
    assert plan_sequences(np.array([3]), 10).run_lengths().tolist() == [1]
