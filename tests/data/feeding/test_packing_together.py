"""Documents of several tracks: each is whole in one sequence, none is too long in any track, and little is padding."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_dist.data.feeding.packing import JointPlan, pack_together, plan_sequences

LIMITS = st.lists(st.integers(1, 40), min_size=1, max_size=3)


@st.composite
def documents_of_tracks(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    limits = draw(LIMITS)
    row = st.tuples(*(st.integers(1, limit + 3) for limit in limits))
    return np.array(draw(st.lists(row, min_size=1, max_size=60)), np.int64), limits


def members(plan: JointPlan, track: int = 0) -> list[list[int]]:
    return [[document for document, _, _ in plan.tracks[track].segments(i)] for i in range(plan.num_sequences)]


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(given=documents_of_tracks())
def test_every_document_is_whole_in_one_sequence_that_is_long_enough(given: tuple[np.ndarray, list[int]]) -> None:
    lengths, limits = given
    plan = pack_together(lengths, limits)
    too_long = np.flatnonzero((lengths > limits).any(axis=1)).tolist()
    assert plan.left_out.tolist() == too_long
    found = [document for sequence in members(plan) for document in sequence]
    assert sorted([*found, *too_long]) == list(range(len(lengths)))
    for track, limit in enumerate(limits):
        assert members(plan, track) == members(plan)
        for sequence in range(plan.num_sequences):
            segments = plan.tracks[track].segments(sequence)
            assert all((offset, n) == (0, lengths[document, track]) for document, offset, n in segments)
            assert 0 < sum(n for _, _, n in segments) <= limit
    firsts = [sequence[0] for sequence in members(plan)]
    assert firsts == sorted(firsts)
    assert all(sequence == sorted(sequence) for sequence in members(plan))
    again = pack_together(lengths.copy(), list(limits))
    assert members(again) == members(plan), "a function of the lengths"


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_one_track_takes_as_many_sequences_as_documents_that_need_no_cut(lengths: list[int]) -> None:
    some = np.array(lengths)
    assert pack_together(some[:, None], [30]).num_sequences == plan_sequences(some, 30).num_sequences


def test_a_long_source_shares_a_sequence_with_a_long_target() -> None:
    plan = pack_together(np.array([[9, 1], [1, 19], [9, 18]]), [10, 20])
    assert members(plan) == [[0, 1], [2]]
    assert [track.sequence_length for track in plan.tracks] == [10, 20]
    assert plan.tracks[1].lengths.tolist() == [1, 19, 18]


def test_documents_too_long_are_left_out_and_no_others() -> None:
    plan = pack_together(np.array([[3, 3], [11, 3], [3, 21], [10, 20]]), [10, 20])
    assert plan.left_out.tolist() == [1, 2]
    assert members(plan) == [[0], [3]]
    assert pack_together(np.array([[2, 2]]), [1, 1]).num_sequences == 0


def test_translations_leave_little_padding() -> None:
    generator = np.random.default_rng(0)
    source = generator.lognormal(3.5, 0.7, 20_000)
    target = source * generator.lognormal(0.1, 0.2, len(source))
    lengths = np.stack([source, target], axis=1).astype(np.int64) + 1
    plan = pack_together(lengths, [1024, 1280])
    assert not len(plan.left_out)
    least = max(-(-lengths.sum(axis=0) // [1024, 1280]))
    assert least <= plan.num_sequences <= 1.02 * least
