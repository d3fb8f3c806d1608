"""Texts that are rewritten: how many tokens documents have in; plans of sources and targets, and these themselves, out.

A document is cut into stretches, the longest whose source and target fit into a sequence, and one with the rest. As their
lengths are known before they are made, stretches are packed as whole documents with a source are.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reformer_dist.config import DataConfig
from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.feeding.entries import EntryReader
from reformer_dist.data.feeding.examples import Place, Rewriting, Rewritten, Stretch
from reformer_dist.data.feeding.packing import Int64s, JointPlan, SequencePlan, pack_together
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError

MOST_TOKENS = 1 << 40
"""No stretch is so long."""


def longest_stretch(rewriting: Rewriting, limits: Sequence[float]) -> int:
    """Tokens of the longest stretch whose target and source have no more positions than `limits` says; 0 if none has."""

    def is_too_long(num_tokens: int) -> bool:
        return bool((rewriting.lengths(np.array([num_tokens])) > limits).any())

    return bisect_left(range(1, MOST_TOKENS), True, key=is_too_long)


def plan_rewritten(num_tokens: Int64s, rewriting: Rewriting, sequence_lengths: Sequence[int]) -> JointPlan:
    """Cut documents into stretches and pack them.

    Args:
        num_tokens: int64 [documents], tokens of each document.
        rewriting: makes a source and a target of a stretch.
        sequence_lengths: positions of the target and of the source of a sequence.

    Returns:
        Three tracks: targets, sources, and the stretches of text that they are made of, whose offsets and lengths count
        the document's tokens. Every token of every document lies in exactly one stretch; a document without any is in none.
    """
    most = longest_stretch(rewriting, sequence_lengths)
    assert most, "check_lengths tells it"
    numbers = -(-num_tokens // most)
    documents = np.repeat(np.arange(len(num_tokens)), numbers)
    offsets = (np.arange(len(documents)) - np.repeat(np.cumsum(numbers) - numbers, numbers)) * most
    lengths = np.minimum(num_tokens[documents] - offsets, most)
    target, source = pack_together(rewriting.lengths(lengths), sequence_lengths).tracks
    stretches = target.documents
    text = replace(
        target, offsets=offsets[stretches], lengths=lengths[stretches], sequence_length=sum(sequence_lengths)
    )
    tracks = tuple(track.of_documents(documents) for track in (target, source, text))
    return JointPlan(tracks, np.zeros(0, np.int64))


@dataclass(frozen=True)
class RewrittenText:
    """The sources and targets of any sequence of a split.

    Attributes:
        rewriting: makes them.
        plan: stretches of text, the third track of `plan_rewritten`.
        entries: reads the split.
        tokenizer: of the text.
    """

    rewriting: Rewriting
    plan: SequencePlan
    entries: EntryReader
    tokenizer: Tokenizer

    def of(self, sequence: int, place: Place) -> list[Rewritten]:
        """What became of each stretch of a sequence, in order, whichever shard asks."""
        made, position = [], 0
        for document, offset, length in self.plan.segments(sequence):
            tokens = self.entries.read(TEXT, document, offset + 1, length)  # entry 0 is the boundary
            made.append(self.rewriting.rewrite(tokens, self.tokenizer, place, position))
            position += len(made[-1].target) - 1
        return made

    def stretch(self, made: Rewritten, offset: int, positions: range) -> Stretch:
        """What a target has from `offset` on, for these positions of a sequence."""
        entries = made.target[offset : offset + len(positions) + 1]
        return Stretch(entries, offset, len(made.target) - 1, positions.start, self.tokenizer)


def check_lengths(rewriting: Rewriting, data: DataConfig) -> None:
    """Whether sequences have room for the target of whatever fills their source.

    Raises:
        ConfigError: the source has no room for a token, or its target would be longer than `data.sequence_length`.
    """
    _, least = rewriting.lengths(np.array([1]))[0].tolist()
    name = "data.sequence_length" if data.source_length is None else "data.source_length"
    if data.longest_source < least:
        raise ConfigError(f"{name} = {data.longest_source} is less than the source of one token needs; {least} works")
    longest = longest_stretch(rewriting, (math.inf, data.longest_source))
    needed, _ = rewriting.lengths(np.array([longest]))[0].tolist()
    if data.sequence_length < needed:
        raise ConfigError(
            f"data.sequence_length = {data.sequence_length} is less than is written of a source of"
            f" {data.longest_source} tokens (data.source_length); {needed} works, with data.source_length ="
            f" {data.longest_source}"
        )
