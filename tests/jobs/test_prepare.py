"""Preparing and feeding through Ray Data: the same bytes as one process makes, beside busy workers, and quietly."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data
import torch

from reformer_dist.config import DataConfig, ObjectiveConfig
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.data.feeding.loader import batches_at_once, batches_from, training_batches, training_dataset
from reformer_dist.data.preparing import preparation as preparing
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.preparation import plan_preparation, prepare
from reformer_dist.objectives.choice import make_objective
from reformer_dist.ray_session import ray_session
from tests.corpora import grid_config, prepare_here, random_documents, run_here, write_documents

ROOT = Path(__file__).parents[2]
DOCUMENTS = random_documents({f"{i:03d}.txt": 20 + 97 * i % 1999 for i in range(150)})


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "source", DOCUMENTS)


def contents(corpus: Corpus) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(corpus.folder).iterdir()}


def prepare_job(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "prepare_data.py"), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_parallel_tasks_write_the_same_files_as_one_process(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "MIN_PART_BYTES", 20_000)
    data = DataConfig(sources=(str(source),))
    alone = run_here(plan_preparation(data, str(tmp_path / "alone")))
    lines: list[str] = []
    together = prepare(data, str(tmp_path / "together"), lines.append)
    assert len(alone.manifest.fields["text"].token_files) > 4
    assert contents(together) == contents(alone)
    assert lines[0] == "preparing 150 files, 0.1 MB"


def test_what_is_prepared_is_opened_and_what_was_interrupted_is_redone(source: Path, tmp_path: Path) -> None:
    data = DataConfig(sources=(str(source),))
    expected = contents(prepare_here(source, tmp_path / "alone", data.validation_fraction))
    folder = Path(plan_preparation(data, str(tmp_path)).folder)
    write_documents(Path(f"{folder}.partial"), {"tokens-00000.parquet": b"half", "tokens-00009.parquet": b"old"})
    corpus = prepare(data, str(tmp_path))
    assert contents(corpus) == expected
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    (folder / "tokens-00000.parquet").chmod(0o400)
    assert prepare(data, str(tmp_path)).folder == str(folder)
    write_documents(source, {"another.txt": b"text"})
    assert prepare(data, str(tmp_path)).folder != str(folder)
    assert prepare(DataConfig(prepared=str(folder)), str(tmp_path)).hash == corpus.hash


def test_a_document_that_cannot_be_read_is_named(source: Path, tmp_path: Path) -> None:
    preparation = plan_preparation(DataConfig(sources=(str(source),)), str(tmp_path))
    (source / "040.txt").unlink()
    with pytest.raises(OSError, match=r"data\.sources: .*040\.txt cannot be read"):
        preparation.run()
    assert not Path(preparation.folder).exists()


class Worker:
    """Holds a CPU, as a train worker does, and takes its batches from an iterator that was sent to it."""

    def batches(self, iterator: ray.data.DataIterator) -> list[list[Batch]]:
        return list(batches_from(iterator))


def same(some: list[list[Batch]], others: list[list[Batch]]) -> bool:
    def facts(batch: Batch) -> tuple[int, ...]:
        return batch.first_row, batch.first_position, batch.num_tokens

    def equal(a: Batch, b: Batch) -> bool:
        tensors = ("tokens_BT", "labels_BT", "positions_BT", "documents_BT")
        return facts(a) == facts(b) and all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)

    return [len(step) for step in some] == [len(step) for step in others] and all(
        equal(a, b) for step, other in zip(some, others, strict=True) for a, b in zip(step, other, strict=True)
    )


def test_ray_data_feeds_the_same_batches_while_workers_hold_every_cpu(source: Path, tmp_path: Path) -> None:
    corpus = prepare_here(source, tmp_path)
    actor: Any = ray.remote(num_cpus=1)(Worker)
    workers = [actor.remote() for _ in range(2)]
    ray.get([worker.__ray_ready__.remote() for worker in workers])
    assert ray.available_resources().get("CPU", 0) == 0
    for data_groups, shards, start_step, name in [(2, 1, 0, "next_token"), (1, 2, 7, "masked"), (1, 2, 60, "copy")]:
        config = grid_config(
            data_groups,
            shards,
            data__sequence_length=501,
            train__batch_size=6,
            train__micro_batch_size=2,
            train__steps=60,
        )
        objective = make_objective(ObjectiveConfig(name=name))
        places = [(group, shard) for group in range(data_groups) for shard in range(shards)]
        iterators = [training_dataset(corpus, config, objective, *place, start_step).iterator() for place in places]
        fed = ray.get([worker.batches.remote(i) for worker, i in zip(workers, iterators, strict=True)])
        for place, batches in zip(places, fed, strict=True):
            assert same(batches, list(training_batches(corpus, config, objective, *place, start_step)))
    here = (corpus, config, objective, *places[0])
    for start_step in (40, 52, 56):
        assert same(list(batches_at_once(*here, start_step)), list(training_batches(*here, start_step)))
    for worker in workers:
        ray.kill(worker)


def test_the_job_prints_what_it_made_and_nothing_else(source: Path, tmp_path: Path) -> None:
    options = ("--data.sources", source, "--train.storage", tmp_path / "runs", "--data.sequence_length", 500)
    first, again = prepare_job(*options), prepare_job(*options)
    assert (first.returncode, again.returncode) == (0, 0)
    assert (first.stderr, again.stderr) == ("", "")
    # A slow machine also reports how far it is: "prepared 1 of 2 files".
    lines = [line for line in first.stdout.splitlines() if not line.endswith(" files")]
    assert [re.split(r"\W", line)[0] for line in lines] == ["preparing", "prepared", "corpus", "train", "validation"]
    assert again.stdout.splitlines() == lines[2:]
    assert "padding" in first.stdout


def test_a_users_mistake_is_one_line_on_stderr(source: Path, tmp_path: Path) -> None:
    job = prepare_job("--data.sources", tmp_path / "nowhere", "--train.storage", tmp_path)
    assert (job.returncode, job.stdout) == (2, "")
    assert job.stderr.startswith(f"prepare_data.py: data.sources = {tmp_path}/nowhere: no such file")
    assert job.stderr.count("\n") == 1

    write_documents(tmp_path, {"file": b"x"})
    job = prepare_job("--data.sources", source, "--train.storage", tmp_path / "file")
    assert (job.returncode, job.stdout) == (2, "")
    assert job.stderr == (
        f"prepare_data.py: train.storage = {tmp_path}/file: is a file; a folder works, it need not exist\n"
    )
