"""Sliding windows: document lengths in, a plan whose sequences overlap out, to score each position after many others."""

from dataclasses import dataclass

import numpy as np

from reformer_dist.data.feeding.packing import Int64s, SequencePlan, join_plans, plan_sequences


@dataclass(frozen=True)
class SlidingPlan:
    """Sequences, of which some begin with what is only read.

    Attributes:
        plan: which segments make up each sequence.
        num_known: int64 [sequences], positions at the beginning of each that an earlier one scores.
    """

    plan: SequencePlan
    num_known: Int64s


def slide(document_lengths: Int64s, sequence_length: int, stride: int) -> SlidingPlan:
    """Windows of `sequence_length` positions over each longer document; those that fit into one are packed as in training.

    Each position is scored once: by the first window that holds it, after `sequence_length - stride` others at least, or
    after all of its document that is before it. The last window of a document ends with it.

    Args:
        document_lengths: int64 [documents], positions of each document.
        sequence_length: positions in a window.
        stride: from one window's start to the next, at most `sequence_length`.
    """
    is_long = document_lengths > sequence_length
    short, long = np.flatnonzero(~is_long), np.flatnonzero(is_long)
    packed = plan_sequences(document_lengths[short], sequence_length).of_documents(short)
    lengths = document_lengths[long]
    num_windows = 1 + -(-(lengths - sequence_length) // stride)
    documents = np.repeat(long, num_windows)
    numbers = np.arange(len(documents)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    offsets = np.minimum(numbers * stride, document_lengths[documents] - sequence_length)
    scored_before = np.where(numbers > 0, (numbers - 1) * stride + sequence_length, 0)
    windows = SequencePlan(
        documents,
        offsets,
        np.full(len(documents), sequence_length),
        np.arange(len(documents) + 1),
        sequence_length,
    )
    plan = join_plans([packed, windows])
    known = np.maximum(scored_before - offsets, 0)
    return SlidingPlan(plan, np.concatenate([np.zeros(packed.num_sequences, np.int64), known]))
