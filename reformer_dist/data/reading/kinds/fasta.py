"""FASTA: a document for each entry, named by the first word of its header."""

import re
from collections.abc import Iterator

from reformer_dist.data.reading.columns import Wanted
from reformer_dist.data.reading.delimited import entries_of
from reformer_dist.data.reading.reader import Reader
from reformer_dist.data.reading.records import Records
from reformer_dist.data.reading.slices import FileSlice
from reformer_dist.data.tokenizers.tokenizer import BadDocument

COMMENTS = re.compile(rb"^;[^\n]*", re.MULTILINE)
SEQUENCE, NAME = "sequence", "name"
"""The columns of an entry: its residues, and the first word of its header."""


def read_fasta(piece: FileSlice, wanted: Wanted) -> Iterator[Records]:
    """The entries that begin in a slice; the sequence, unless the name is wanted.

    White space in sequences, lines that begin with ";" (comments) and empty lines before the first entry are left out.
    """
    for offsets, entries in entries_of(piece, b"\n>"):
        if offsets[0] == 0:
            entries[0] = COMMENTS.sub(b"", entries[0]).lstrip()
            if not entries[0]:  # nothing but comments and empty lines before the first entry
                offsets, entries = offsets[1:], entries[1:]
            elif not entries[0].startswith(b">"):
                line = entries[0].partition(b"\n")[0].strip().decode("utf-8", "replace")[:40]
                raise BadDocument(f"its first entry begins with {line!r}; FASTA has '>' and a name there")
            else:
                entries[0] = entries[0][1:]
        names, sequences = [], []
        for offset, entry in zip(offsets, entries, strict=True):
            header, _, sequence = entry.partition(b"\n")
            names.append((header.split(maxsplit=1) or [b"%d" % offset])[0].decode("utf-8", "replace"))
            if b";" in sequence:
                sequence = COMMENTS.sub(b"", sequence)
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
