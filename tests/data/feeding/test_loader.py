"""Shards of sequences: complete, rightly labelled, and the same for any grid of workers."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from reformer_dist.config import Config, DataConfig
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.data.feeding.loader import training_batches, validation_batches
from reformer_dist.data.feeding.sequences import split_plan
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.objectives.choice import OBJECTIVES, make_objective
from tests.corpora import NEXT_TOKEN, grid_config, prepare_here, random_documents, write_documents

LENGTHS = {"a": 1, "b": 36, "c": 37, "d": 38, "e": 5, "f": 100, "g": 74, "h": 3, "i": 20, "j": 111, "k": 9, "l": 64}
SEQUENCE_LENGTH = 37
GRIDS = [(1, 1), (2, 1), (1, 2), (3, 1), (2, 3), (1, 4), (3, 2)]
FIELDS = ("tokens_BT", "labels_BT", "positions_BT", "documents_BT")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    return prepare_here(write_documents(folder / "source", random_documents(LENGTHS)), folder, 0.3)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """One whose texts have a prefix, up to seven letters long, a source, a third as long as they are, and labels."""
    folder = tmp_path_factory.mktemp("several")
    records = [
        {"prefix": "p" * (n % 8), "source": "s" * (n // 3 + 1), "text": chr(97 + n % 26) * n, "labels": ("xyz" * n)[:n]}
        for n in LENGTHS.values()
    ]
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    fields = {"prefix": {}, "source": {}, "text": {}, "labels": {"aligned_with": "text"}}
    return prepare_here(folder / "records.jsonl", folder, 0.3, fields=fields)


def whole_steps(corpus: Corpus, config: Config, start_step: int = 0) -> list[dict[str, torch.Tensor]]:
    """Each step's global batch, put together from what every worker got."""
    shards = config.parallel.sequence_shards
    workers = {
        (group, shard): list(
            training_batches(corpus, config, make_objective(config.objective), group, shard, start_step)
        )
        for group in range(config.data_groups)
        for shard in range(shards)
    }
    return [
        whole_batch({place: steps[step] for place, steps in workers.items()}, config)
        for step in range(config.train.steps - start_step)
    ]


def whole_batch(workers: dict[tuple[int, int], list[Batch]], config: Config) -> dict[str, torch.Tensor]:
    length = config.parallel.sequence_shards * -(-SEQUENCE_LENGTH // config.parallel.sequence_shards)
    whole = {name: torch.full((config.train.batch_size, length), -7) for name in FIELDS}
    for batch in (batch for batches in workers.values() for batch in batches):
        num_rows, num_positions = batch.tokens_BT.shape
        place = (
            slice(batch.first_row, batch.first_row + num_rows),
            slice(batch.first_position, batch.first_position + num_positions),
        )
        for name in FIELDS:
            assert (whole[name][place] == -7).all(), "two workers hold the same place"
            whole[name][place] = getattr(batch, name)
    assert not any((tensor == -7).any() for tensor in whole.values()), "a place that no worker holds"
    return whole


@pytest.mark.parametrize(("data_groups", "shards"), GRIDS)
@pytest.mark.parametrize("micro_batch_size", [1, 4])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_any_grid_sees_the_same_examples_in_the_same_steps(
    corpus: Corpus, several: Corpus, data_groups: int, shards: int, micro_batch_size: int, objective: str
) -> None:
    corpus = several if objective in ("prefix", "labels", "pairs") else corpus
    options = {"data__sequence_length": SEQUENCE_LENGTH, "train__batch_size": 6, "train__steps": 5}
    options |= {"objective__name": objective, "objective__masked_share": 0.4}
    alone = whole_steps(corpus, grid_config(1, 1, **options))
    config = grid_config(data_groups, shards, train__micro_batch_size=micro_batch_size, **options)
    for expected, step in zip(alone, whole_steps(corpus, config), strict=True):
        for name in FIELDS:
            assert torch.equal(step[name][:, :SEQUENCE_LENGTH], expected[name])
        assert (step["labels_BT"][:, SEQUENCE_LENGTH:] == -100).all()
        assert (step["documents_BT"][:, SEQUENCE_LENGTH:] == -1).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_resuming_continues_with_the_steps_that_were_left(corpus: Corpus, several: Corpus, objective: str) -> None:
    corpus = several if objective in ("prefix", "labels", "pairs") else corpus
    options = {"data__sequence_length": SEQUENCE_LENGTH, "train__batch_size": 2, "train__steps": 9}
    config = grid_config(2, 2, objective__name=objective, **options)
    whole, resumed = whole_steps(corpus, config), whole_steps(corpus, config, start_step=4)
    for a, b in zip(whole[4:], resumed, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in FIELDS)


def test_an_epoch_scores_every_token_and_every_document_end_once(corpus: Corpus) -> None:
    plan = split_plan(corpus, "train", DataConfig(sequence_length=SEQUENCE_LENGTH))
    config = grid_config(1, 1, data__sequence_length=SEQUENCE_LENGTH, train__steps=plan.num_sequences)
    labels = torch.cat([step["labels_BT"].flatten() for step in whole_steps(corpus, config)])
    expected = Counter({token: n for token, n in enumerate(corpus.manifest.split("train").unigram_counts) if n})
    expected[0] += corpus.manifest.split("train").documents
    assert Counter(labels[labels != -100].tolist()) == expected


def test_inputs_and_labels_are_the_documents_between_boundaries(corpus: Corpus) -> None:
    config = grid_config(1, 1, data__sequence_length=SEQUENCE_LENGTH)
    batches = list(validation_batches(corpus, config, NEXT_TOKEN, 0, 0, 1))
    plan = split_plan(corpus, "validation", DataConfig(sequence_length=SEQUENCE_LENGTH))
    found = {name: np.full(LENGTHS[name] + 2, -1) for name in corpus.document_names("validation")}
    contents = list(found.values())
    for sequence, batch in enumerate(batches):
        start = 0
        for document, offset, length in plan.segments(sequence):
            contents[document][offset : offset + length] = batch.tokens_BT[0, start : start + length]
            assert batch.labels_BT[0, start + length - 1] != -100
            contents[document][offset + length] = batch.labels_BT[0, start + length - 1]
            assert torch.equal(
                batch.labels_BT[0, start : start + length - 1], batch.tokens_BT[0, start + 1 : start + length]
            )
            start += length
    written = random_documents(LENGTHS)
    assert {name: bytes(x.tolist()) for name, x in found.items()} == {
        name: b"\0" + written[name] + b"\0" for name in found
    }


def test_positions_and_documents_follow_the_configuration(corpus: Corpus) -> None:
    def first(**options: object) -> Batch:
        config = grid_config(1, 1, data__sequence_length=300, **options)
        return next(validation_batches(corpus, config, NEXT_TOKEN, 0, 0, 1))

    lengths = [length for _, _, length in split_plan(corpus, "validation", DataConfig(sequence_length=300)).segments(0)]
    assert len(lengths) > 2
    padding = 300 - sum(lengths)
    assert padding > 0
    within = [i for length in lengths for i in range(length)] + [0] * padding
    through = [*range(sum(lengths)), *[0] * padding]
    numbers = [k for k, length in enumerate(lengths) for _ in range(length)] + [-1] * padding

    apart = first()
    assert apart.positions_BT[0].tolist() == within
    assert apart.documents_BT[0].tolist() == numbers
    assert first(data__reset_positions=False).positions_BT[0].tolist() == through
    together = first(data__attend_across_documents=True).documents_BT[0].tolist()
    assert together == [min(number, 0) for number in numbers]


@pytest.mark.parametrize(("data_groups", "shards"), GRIDS)
def test_validation_scores_everything_once_in_as_many_batches_on_every_group(
    corpus: Corpus, data_groups: int, shards: int
) -> None:
    config = grid_config(
        data_groups, shards, data__sequence_length=SEQUENCE_LENGTH, train__micro_batch_size=2, train__batch_size=6
    )
    places = [(group, shard) for group in range(data_groups) for shard in range(shards)]
    batches = {place: list(validation_batches(corpus, config, NEXT_TOKEN, *place, data_groups)) for place in places}
    assert len({len(of_worker) for of_worker in batches.values()}) == 1
    assert all(batch.tokens_BT.shape[0] == 2 for of_worker in batches.values() for batch in of_worker)
    scored = sum(batch.num_tokens for of_worker in batches.values() for batch in of_worker)
    assert scored == corpus.manifest.split("validation").tokens + corpus.manifest.split("validation").documents


def test_max_sequences_are_spread_over_the_split(corpus: Corpus) -> None:
    config = grid_config(1, 1, data__sequence_length=SEQUENCE_LENGTH)
    every = list(validation_batches(corpus, config, NEXT_TOKEN, 0, 0, 1))
    assert len(every) > 3
    for few in (1, 2, 3):
        some = list(validation_batches(corpus, config, NEXT_TOKEN, 0, 0, 1, max_sequences=few))
        expected = [every[index * len(every) // few] for index in range(few)]
        assert [batch.tokens_BT.tolist() for batch in some] == [batch.tokens_BT.tolist() for batch in expected]


def test_a_document_over_many_row_groups_reads_back(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "source", random_documents({"long": 300_000}))
    corpus = prepare_here(source, tmp_path, 0.1)
    assert corpus.manifest.held_out == "ends"
    whole = (source / "long").read_bytes()
    assert corpus.read(0, 270_000).tobytes() == whole[:270_000]
    assert corpus.read(270_000, 300_000).tobytes() == whole[270_000:]
    assert corpus.read(65_530, 131_080).tobytes() == whole[65_530:131_080]
