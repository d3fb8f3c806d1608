"""FASTA: a document for each entry, named by the first word of its header."""

from collections.abc import Iterator

from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.delimited import entries_of
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.records import Records
from reformer_dist.data.reading.slices import FileSlice
from reformer_dist.data.tokenizers.tokenizer import BadDocument

SEQUENCE, NAME = "sequence", "name"
"""The columns of an entry: its residues, and the first word of its header."""


def read_fasta(piece: FileSlice, wanted: Wanted) -> Iterator[Records]:
    """The entries that begin in a slice; the sequence, unless the name is wanted. White space in sequences is left out."""
    for offsets, entries in entries_of(piece, b"\n>"):
        if offsets[0] == 0:
            if not entries[0].startswith(b">"):
                raise BadDocument("it does not begin with '>', as FASTA does; data.format = text reads it as it is")
            entries[0] = entries[0][1:]
        names, sequences = [], []
        for offset, entry in zip(offsets, entries, strict=True):
            header, _, sequence = entry.partition(b"\n")
            names.append((header.split(maxsplit=1) or [b"%d" % offset])[0].decode("utf-8", "replace"))
            sequences.append(sequence.translate(None, b" \t\r\n"))
        columns: dict[str, list[str] | list[bytes]] = {SEQUENCE: sequences, NAME: names}
        yield Records(
            [f"{piece.file.name}#{name}" for name in names],
            [list(columns[column.name or SEQUENCE]) for column in wanted.columns],
        )


READER = Reader(
    suffixes=(".fasta", ".fa", ".faa", ".fna"),
    contents=("text",),
    read=read_fasta,
    columns=(SEQUENCE, NAME),
    is_sliced=True,
)
