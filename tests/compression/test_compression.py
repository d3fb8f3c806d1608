"""Files come back byte for byte, whatever the batch and the threads, and what cannot come back is told beforehand."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_dist import checkpoints
from reformer_dist.compression import container, files
from reformer_dist.compression.coding import Progress, decode, encode, probe
from reformer_dist.compression.files import Outcome, compress, cut, decompress
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.model.reformer import ReformerLM
from tests.checkpoints import untrained
from tests.model.models import make_model

LONGEST = 128


@pytest.fixture(scope="module")
def model() -> ReformerLM:
    """With every kind of layer; its probabilities are far from even."""
    model = make_model(vocab_size=256, max_length=LONGEST).float().eval()
    model.tokenizer = BytesTokenizer()
    return model


def quietly(total: int) -> Progress:
    return lambda number: None


def packed(model: ReformerLM, folder: Path, content: bytes, stretch: int = 0, batch: int = 3) -> tuple[Path, Outcome]:
    (folder / "in").write_bytes(content)
    return folder / "packed", compress(model, "run", folder / "in", folder / "packed", stretch, batch, quietly)


def unpacked(model: ReformerLM, path: Path, batch: int = 2) -> bytes:
    decompress(model, path, path.with_name("out"), batch, quietly)
    return path.with_name("out").read_bytes()


def content(length: int) -> bytes:
    """Every byte, NUL too, and runs that are easy to tell."""
    generator = np.random.default_rng(length)
    return bytes(generator.integers(256, size=length - length // 2, dtype=np.uint8)) + (b"ab" * length)[: length // 2]


@pytest.mark.parametrize("length", [0, 1, 2, 127, 128, 129, 700, 17 * 128 - 5])
def test_a_file_comes_back(model: ReformerLM, tmp_path: Path, length: int) -> None:
    path, outcome = packed(model, tmp_path, content(length))
    assert unpacked(model, path) == content(length)
    assert outcome.num_bytes == length
    assert outcome.num_stretches == math.ceil(length / LONGEST)
    assert outcome.compressed_bytes == path.stat().st_size
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in", "out", "packed"], "nothing is left over"


@given(st.binary(max_size=60), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_any_bytes_come_back(model: ReformerLM, some: bytes, stretch: int, batch: int, other_batch: int) -> None:
    parts = [some[part] for part in cut(len(some), stretch)]
    if parts:
        stream = encode(model, 0, parts, batch, quietly(0)).stream
        assert decode(model, 0, stream, [*map(len, parts)], other_batch, quietly(0)) == parts
    assert b"".join(parts) == some


def test_other_threads_and_batches_write_the_same_file(model: ReformerLM, tmp_path: Path) -> None:
    found, before = set(), torch.get_num_threads()
    for threads, batch in ((1, 1), (2, 3), (2, 16)):
        torch.set_num_threads(threads)
        path, _ = packed(model, tmp_path, content(400), batch=batch)
        found.add(path.read_bytes())
    torch.set_num_threads(before)
    assert len(found) == 1


def test_size_is_what_the_model_says(model: ReformerLM, tmp_path: Path) -> None:
    """Its own bits a byte, by the whole sequence at once; the code is within half a percent and what frames it."""
    text = content(LONGEST)
    path, outcome = packed(model, tmp_path, text)
    tokens = torch.tensor([[0, *text[:-1]]])
    with torch.no_grad():
        loss, count = model.loss(tokens, torch.tensor([[*text]]))
    assert outcome.model_bits == pytest.approx(float(loss) / math.log(2), rel=1e-4)
    assert int(count) == LONGEST
    header, streams = container.read(path)
    assert 8 * sum(map(len, streams)) <= 1.005 * outcome.model_bits + 64
    assert header.sizes == tuple(map(len, streams))
    assert outcome.compressed_bytes - sum(header.sizes) < 250


def test_what_stretches_cost_is_told(model: ReformerLM, tmp_path: Path) -> None:
    _, whole = packed(model, tmp_path, content(120))
    _, parts = packed(model, tmp_path, content(120), stretch=30)
    assert (whole.num_stretches, parts.num_stretches) == (1, 4)
    assert whole.beginnings_bits == 0
    assert abs(parts.beginnings_bits) < parts.model_bits


def test_stretches_are_few_and_even() -> None:
    assert cut(0, 5) == []
    for length in (1, 5, 6, 99):
        parts = cut(length, 5)
        sizes = [part.stop - part.start for part in parts]
        assert len(parts) == math.ceil(length / 5)
        assert sum(sizes) == length
        assert 1 <= min(sizes) <= max(sizes) <= min(5, min(sizes) + 1)
        assert sizes == sorted(sizes, reverse=True)
        assert cut(length, math.ceil(length / len(parts))) == parts, "a reader finds them by their number"


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda data: data[:-1], "cut short or altered"),
        (lambda data: data[:40], "cut short or altered"),
        (lambda data: data[:5], "was not compressed by reformer_dist"),
        (lambda data: b"", "was not compressed by reformer_dist"),
        (lambda data: b"PK" + data, "was not compressed by reformer_dist"),
        (lambda data: data[:-50] + bytes([data[-50] ^ 1]) + data[-49:], "cut short or altered"),
        (lambda data: data[:8] + b"\x02" + data[9:], "is of version 2, and this reformer_dist reads 1"),
    ],
)
def test_a_damaged_file_is_refused(model: ReformerLM, tmp_path: Path, damage: object, line: str) -> None:
    path, _ = packed(model, tmp_path, content(200))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=line):
        unpacked(model, path)
    assert not path.with_name("out").exists()


def test_another_model_is_told_before_the_work(model: ReformerLM, tmp_path: Path) -> None:
    path, _ = packed(model, tmp_path, content(50))
    other = make_model(vocab_size=256, max_length=LONGEST, seed=1).float().eval()
    other.tokenizer = BytesTokenizer()
    with pytest.raises(ConfigError, match=r"was compressed by another model, of run .* works$"):
        unpacked(other, path)


def test_a_machine_with_other_sums_is_told_before_the_work(
    model: ReformerLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = packed(model, tmp_path, content(50))
    assert probe(model, 0) == probe(model, 0)
    monkeypatch.setattr(files, "probe", lambda model, boundary: b"other")
    with pytest.raises(ConfigError, match=r"on another kind of machine .* works$"):
        unpacked(model, path)


def test_a_wrong_result_is_never_written(model: ReformerLM, tmp_path: Path) -> None:
    path, _ = packed(model, tmp_path, content(50))
    header, streams = container.read(path)
    values = {**vars(header), "content": container.digest_of(b"other")}
    container.write(path, container.Header(**values), streams)
    with pytest.raises(ConfigError, match="does not give its original here"):
        unpacked(model, path)
    assert not path.with_name("out").exists()


def test_models_that_cannot_compress_are_told() -> None:
    chunked = make_model(lsh_mode="chunked")
    chunked.tokenizer = BytesTokenizer()
    with pytest.raises(ConfigError, match="sees what is ahead"):
        files.check_model(chunked)
    words = make_model()
    words.tokenizer = SimpleNamespace(name="bpe")
    with pytest.raises(ConfigError, match=r"^data\.tokenizer = bpe .* a model of bytes works$"):
        files.check_model(words)


@pytest.mark.usefixtures("one_worker")
def test_the_command_compresses_and_gives_back(tmp_path: Path) -> None:
    storage = str(tmp_path / "runs")
    config = untrained.make_config(
        storage, **{"train.run_name": "a", "model.max_length": 64, "data.sequence_length": 64}
    )
    untrained.write(checkpoints.new_folder(storage, "a"), 1, config)
    text = tmp_path / "text"
    text.write_bytes(b"one two three, one two three\n" * 4)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "reformer_dist.compression", *map(str, arguments), "--storage", storage]
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )

    done = run("compress", "--checkpoint", "a", text, tmp_path / "packed", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "116 bytes became" in done.stdout
    assert "2 stretches" in done.stdout
    back = run("decompress", "--checkpoint", "a", tmp_path / "packed", tmp_path / "back", "--batch", 1)
    assert back.returncode == 0, back.stderr
    assert (tmp_path / "back").read_bytes() == text.read_bytes()
    for arguments, line in (
        (("compress", "--checkpoint", "a", tmp_path / "none", tmp_path / "x"), "none: no such file"),
        (("compress", "--checkpoint", "b", text, tmp_path / "x"), "no checkpoint under"),
        (("compress", "--checkpoint", "a", text, text), "is the input; another name works"),
        (("compress", "--checkpoint", "a", text, tmp_path / "none/x"), "there is no folder"),
        (("compress", "--checkpoint", "a", text, tmp_path / "runs"), "cannot be written"),
        (("compress", "--checkpoint", "a", text, tmp_path / "x", "--stretch", 65), "--stretch 65 is more than"),
        (("decompress", "--checkpoint", "a", text, tmp_path / "x"), "was not compressed by reformer_dist"),
    ):
        failed = run(*arguments)
        assert failed.returncode == 2
        assert line in failed.stderr
        assert len(failed.stderr.splitlines()) == 1
        assert failed.stderr.startswith("reformer_dist.compression: ")
        assert not (tmp_path / "x").exists()
    header, _ = container.read(tmp_path / "packed")
    assert header.checkpoint == "a"
