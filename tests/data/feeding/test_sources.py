"""Pairs: every text lies beside its own source, by any grid of workers; what is too long is told."""

import json
from collections import Counter

import pytest
import torch

from reformer_dist.config import ObjectiveConfig
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.data.feeding.loader import training_batches, validation_batches
from reformer_dist.data.feeding.sequences import source_plans
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.objectives.choice import make_objective
from tests.corpora import grid_config, prepare_here

PAIRS = [(f"number {i} " * (i % 5 + 1), f"Nummer {i}, groß. " * (i % 4 + 1)) for i in range(60)]
LENGTHS = {"data__sequence_length": 150, "data__source_length": 61, "model__encoder_layers": "local"}
OBJECTIVE = make_objective(ObjectiveConfig(name="pairs"))
COLUMNS = ("tokens_BS", "positions_BS", "documents_BS")


@pytest.fixture(scope="module", params=["text", "target"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """What is written may be called text or target."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "a.jsonl").write_text("".join(json.dumps({"en": en, "de": de}) + "\n" for en, de in PAIRS))
    fields = {"source": {"column": "en"}, request.param: {"column": "de"}}
    return prepare_here(folder / "a.jsonl", folder, 0.2, fields=fields)


def _documents(tokens: torch.Tensor, documents: torch.Tensor) -> list[bytes]:
    """The texts of a row of whole documents, each behind its boundary."""
    texts = []
    for number in range(int(documents.max()) + 1):
        of_document = tokens[documents == number].tolist()
        assert of_document[0] == 0
        texts.append(bytes(of_document[1:]))
    return texts


def test_an_epoch_has_every_pair_once(corpus: Corpus) -> None:
    (plan,) = source_plans(corpus, "train", grid_config(1, 1, **LENGTHS).data, OBJECTIVE.others)
    assert not len(plan.left_out)
    config = grid_config(1, 1, **LENGTHS, train__steps=plan.num_sequences)
    found: Counter[tuple[bytes, bytes]] = Counter()
    for (batch,) in training_batches(corpus, config, OBJECTIVE, 0, 0):
        assert batch.source is not None
        sources = _documents(batch.source.tokens_BS[0], batch.source.documents_BS[0])
        texts = _documents(batch.tokens_BT[0], batch.documents_BT[0])
        found.update(zip(sources, texts, strict=True))
        ends = batch.labels_BT[0] == 0
        assert int(ends.sum()) == len(texts), "each text's end is scored, and no source"
        assert batch.num_read == int((batch.documents_BT >= 0).sum() + (batch.source.documents_BS >= 0).sum())
    wanted = Counter((source.encode(), text.encode()) for source, text in PAIRS)
    assert sum(found.values()) == corpus.manifest.split("train", "source").documents < len(PAIRS)
    assert found <= wanted


@pytest.mark.parametrize(("data_groups", "shards"), [(1, 2), (2, 1), (1, 4), (3, 2)])
def test_any_grid_reads_the_same_sources(corpus: Corpus, data_groups: int, shards: int) -> None:
    def whole(groups: int, num_shards: int) -> list[dict[str, torch.Tensor]]:
        config = grid_config(groups, num_shards, **LENGTHS, train__batch_size=6, train__steps=3)
        rows: list[list[dict[str, torch.Tensor]]] = [[], [], []]
        for group in range(groups):
            by_shard = [training_batches(corpus, config, OBJECTIVE, group, shard) for shard in range(num_shards)]
            for step, of_shards in enumerate(zip(*by_shard, strict=True)):
                rows[step] += [_joined(list(micro_batch)) for micro_batch in zip(*of_shards, strict=True)]
        return [{name: torch.cat([part[name] for part in parts]) for name in COLUMNS} for parts in rows]

    for expected, step in zip(whole(1, 1), whole(data_groups, shards), strict=True):
        for name in COLUMNS:
            assert torch.equal(step[name][:, :61], expected[name])
        assert (step["documents_BS"][:, 61:] == -1).all()


def _joined(shards: list[Batch]) -> dict[str, torch.Tensor]:
    """The sources of one micro-batch, whose shards these are."""
    sources = [shard.source for shard in shards if shard.source is not None]
    assert [source.first_position for source in sources] == [
        i * sources[0].tokens_BS.shape[1] for i in range(len(sources))
    ]
    return {name: torch.cat([getattr(source, name) for source in sources], dim=1) for name in COLUMNS}


def test_held_out_pairs_are_read_whole(corpus: Corpus) -> None:
    batches = [*validation_batches(corpus, grid_config(1, 1, **LENGTHS), OBJECTIVE, 0, 0, 1)]
    number = sum(int(batch.documents_BT.max()) + 1 for batch in batches)
    assert number == corpus.manifest.split("validation").documents > 0


def test_documents_that_attend_to_each_other_have_one_number_on_both_sides(corpus: Corpus) -> None:
    config = grid_config(1, 1, **LENGTHS, data__attend_across_documents=True)
    for batch in validation_batches(corpus, config, OBJECTIVE, 0, 0, 1):
        assert batch.source is not None
        for documents in (batch.documents_BT, batch.source.documents_BS):
            assert set(documents.flatten().tolist()) <= {0, -1}
