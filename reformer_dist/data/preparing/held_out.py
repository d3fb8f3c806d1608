"""Which documents, or which parts of them, are held out: lengths in, lengths in each split out."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reformer_dist.config import DataConfig
from reformer_dist.data.preparing.manifest import SPLITS, HeldOut
from reformer_dist.data.preparing.token_rows import TokenReader
from reformer_dist.errors import ConfigError

COUNTED_TOKENS = 1 << 20
Int64s = NDArray[np.int64]
SplitLengths = Mapping[str, Sequence[Int64s]]
"""For each field and each split the tokens of every document, int64 [documents]; 0 where it is not in the split."""


def hold_out(lengths: Mapping[str, Int64s], splits: NDArray[np.int8], data: DataConfig) -> tuple[SplitLengths, HeldOut]:
    """Tokens that each split has of each document: all or none, or where there are too few documents for that, a part.

    Args:
        lengths: for each field the tokens of every document, int64 [documents].
        splits: index in SPLITS of the split that a document's name or group puts it in.
        data: the splits' shares.

    Raises:
        ConfigError: too few documents or groups for whole ones in each split, where they cannot be cut.
    """
    fractions = {"validation": data.validation_fraction, "test": data.test_fraction}
    shares = [1 - sum(fractions.values()), *(share for share in fractions.values() if share)]
    whole = {
        name: [np.where(splits == index, of_field, 0) for index in range(len(SPLITS))]
        for name, of_field in lengths.items()
    }
    expects_one_in_each = len(splits) * min(shares) >= 1 or data.split_by is not None
    wanted = [index for index, name in enumerate(SPLITS) if fractions.get(name, 1)]
    if expects_one_in_each and all((splits == index).any() for index in wanted):
        return whole, "documents"
    if data.split_by is not None and len(splits):
        raise ConfigError(
            f"data.split_by = {data.split_by}: its values put all documents in too few splits; leave it out"
        )
    if len(lengths) > 1 and len(splits):
        what = "lines are of too few documents" if data.split_lines else "documents are too few"
        raise ConfigError(
            f"data.sources: {len(splits)} {what} to hold some of them out, and those of several fields"
            " cannot be cut; name more of them, or set a larger data.validation_fraction"
        )
    return {name: _cut(of_field, fractions) for name, of_field in lengths.items()}, "ends"


def _cut(lengths: Int64s, fractions: Mapping[str, float]) -> list[Int64s]:
    """Tokens of the beginning of each document for train, and of its end for what is held out."""
    ends = {}
    left = lengths
    for name in reversed(SPLITS[1:]):
        wanted = np.maximum(1, np.round(lengths * fractions[name]).astype(np.int64)) if fractions[name] else 0 * lengths
        ends[name] = np.minimum(wanted, left)
        left = left - ends[name]
    return [left, *(ends[name] for name in SPLITS[1:])]


def count_ends(reader: TokenReader, counts: Int64s, lengths_by_split: Sequence[Int64s]) -> Int64s:
    """How often each token occurs in each split where splits are parts of documents; `counts` has the right sum."""
    found = np.zeros_like(counts)
    starts = np.cumsum(np.stack(lengths_by_split).T.ravel()) - np.stack(lengths_by_split).T.ravel()
    for index in range(1, len(SPLITS)):
        for start, length in zip(starts[index :: len(SPLITS)], lengths_by_split[index], strict=True):
            for first in range(int(start), int(start + length), COUNTED_TOKENS):
                tokens = reader.read(first, min(first + COUNTED_TOKENS, int(start + length)))
                found[index] += np.bincount(tokens, minlength=counts.shape[1])
    found[0] = counts.sum(axis=0) - found.sum(axis=0)
    return found
