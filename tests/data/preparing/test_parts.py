"""Parts: what travels to a task comes back the same; rows, counts and notes do not depend on how documents come."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from reformer_dist.data.preparing import documents as reading
from reformer_dist.data.preparing import preparation as preparing
from reformer_dist.data.preparing import token_rows
from reformer_dist.data.preparing.manifest import SPLITS
from reformer_dist.data.preparing.parts import Part
from reformer_dist.data.preparing.token_rows import ROW_TOKENS, TokenRows
from reformer_dist.data.reading.finding.sources import SourceFile
from reformer_dist.data.reading.slices import FileSlice
from reformer_dist.data.tokenizers.pixels import PixelTokenizer
from reformer_dist.data.tokenizers.residues import AminoAcidTokenizer
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.storage.hashed_files import HashingFile
from reformer_dist.storage.stores import open_store
from tests.corpora import prepare_here, write_documents

FILES = [SourceFile(f"{i}.txt", f"s3://b/{i}.txt?x=y", None if i == 2 else i, 7, i == 1, i) for i in range(4)]
PART = Part(3, (FileSlice(FILES[0], "text", 5, None), *(FileSlice(file, "jsonl", 0, 9) for file in FILES[1:])))


def test_a_part_travels_as_it_is() -> None:
    assert Part.from_json(PART.to_json()) == PART
    assert len(PART.to_row()["part"]) < len(PART.to_json())


def test_files_are_left_out_and_noted_where_they_begin() -> None:
    assert PART.without({"elsewhere": "why"}) is PART
    left = PART.without({FILES[0].url: "began before", FILES[2].url: "bad"})
    assert left.slices == (PART.slices[1], PART.slices[3])
    assert left.left_out == ("bad",)
    assert Part.from_json(left.to_json()) == left


@pytest.mark.parametrize("tokenizer", [BytesTokenizer(), AminoAcidTokenizer(), PixelTokenizer("rgb")])
def test_rows_and_counts_are_those_of_the_tokens(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    lengths = [0, 1, 5 * ROW_TOKENS + 3, *generator.integers(0, 3000, 200).tolist(), ROW_TOKENS + 1]
    splits = generator.integers(0, len(SPLITS), len(lengths)).tolist()
    tokens = generator.integers(0, tokenizer.vocab_size, sum(lengths)).astype(tokenizer.dtype)
    ends = np.cumsum(lengths)
    files = []
    for at_a_time in (1, 50):
        name = f"{at_a_time}.parquet"
        with HashingFile(open_store(str(tmp_path)), name) as file, TokenRows(file, tokenizer) as rows:
            for first in range(0, len(lengths), at_a_time):
                some = slice(first, first + at_a_time)
                begin, end = ends[first] - lengths[first], ends[min(some.stop, len(ends)) - 1]
                rows.write(tokens[begin:end], lengths[some], splits[some])
        of_token = np.repeat(splits, lengths)
        expected = [np.bincount(tokens[of_token == split], minlength=tokenizer.vocab_size) for split in range(3)]
        assert rows.counts() == np.stack(expected).tolist()
        assert rows.num_tokens == len(tokens)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    stored = pq.ParquetFile(tmp_path / "1.parquet")
    assert stored.num_row_groups == -(-len(tokens) // ROW_TOKENS)
    written = [stored.read_row_group(group)["tokens"].to_pylist() for group in range(stored.num_row_groups)]
    assert all(len(group) == 1 for group in written)
    assert b"".join(group[0] for group in written) == tokens.tobytes()


def test_small_documents_are_the_same_together_as_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {f"{i // 10}/{i:03d}.txt": b"MKV" * (i % 7) + b"1" * (i % 11 == 0) + b"A\n" for i in range(100)}
    source = write_documents(tmp_path / "s", contents)
    fields = {"tokenizer": "amino_acids", "on_bad": "skip"}
    together = prepare_here(source, tmp_path / "together", **fields)
    assert together.manifest.bad == 10
    assert together.manifest.split("train").documents + together.manifest.split("validation").documents == 90
    monkeypatch.setattr(reading, "BATCH_BYTES", 1)
    monkeypatch.setattr(token_rows, "BUFFERED_TOKENS", 1)
    assert prepare_here(source, tmp_path / "alone", **fields).manifest == together.manifest


def test_tiny_files_are_divided_by_what_opening_them_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "MIN_PART_BYTES", 40 * preparing.FILE_BYTES)
    source = write_documents(tmp_path / "s", {f"{i:03d}.txt": b"tiny" for i in range(100)})
    assert len(prepare_here(source, tmp_path).manifest.fields["text"].token_files) == 3
