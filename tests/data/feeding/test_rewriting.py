"""Texts that are rewritten into sources and targets: nothing is lost, nothing mixes, and any grid makes the same."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from reformer_dist.config import Config, ObjectiveConfig
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.data.feeding.loader import training_batches, validation_batches
from reformer_dist.data.feeding.rewriting import longest_stretch, plan_rewritten
from reformer_dist.data.feeding.sequences import source_plans
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.objectives.choice import make_objective
from reformer_dist.objectives.spans import SpanCorruption
from tests.corpora import grid_config, prepare_here
from tests.objectives.spans import put_back

LENGTHS = [*range(1, 30), 64, 65, 66, 130, 131, 200, 777]
OBJECTIVE = make_objective(ObjectiveConfig(name="spans"))
T5 = SpanCorruption(0.15, 3.0, 100)
SEQUENCE_LENGTH, SOURCE_LENGTH = 31, 61


def settings(groups: int = 1, shards: int = 1, **fields: object) -> Config:
    lengths = {"data__sequence_length": SEQUENCE_LENGTH, "data__source_length": SOURCE_LENGTH}
    given = {"objective__name": "spans", "model__encoder_layers": "local"}
    return grid_config(groups, shards, **{**lengths, **given, **fields})


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draw = np.random.default_rng(0)
    return ["".join(draw.choice([*"abcdefghij"], length)) for length in LENGTHS]


@pytest.fixture(scope="module")
def corpus(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return prepare_here(folder / "a.jsonl", folder, 0.3)


def pairs_of(batch: Batch, row: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The sources and targets, boundary to boundary, of a whole sequence."""
    assert batch.source is not None
    numbers = range(int(batch.documents_BT[row].max()) + 1)
    assert {*numbers} == {*batch.source.documents_BS[row].tolist()} - {-1}, "the same on both sides"
    pairs = []
    for number in numbers:
        there, here = batch.source.documents_BS[row] == number, batch.documents_BT[row] == number
        for positions, of_document in ((batch.source.positions_BS, there), (batch.positions_BT, here)):
            assert positions[row][of_document].tolist() == [*range(int(of_document.sum()))]
        tokens, labels = batch.tokens_BT[row][here], batch.labels_BT[row][here]
        assert torch.equal(tokens[1:], labels[:-1])
        assert (labels >= 0).all(), "sentinels, spans and the end are scored"
        pairs.append((batch.source.tokens_BS[row][there].numpy(), torch.cat([tokens, labels[-1:]]).numpy()))
    assert (batch.labels_BT[row][batch.documents_BT[row] < 0] == -100).all()
    return pairs


def test_a_plan_has_every_token_in_one_stretch() -> None:
    lengths = np.random.default_rng(0).integers(0, 900, 300)
    limits = (114, 512)
    assert longest_stretch(T5, limits) == 568
    target, source, text = plan_rewritten(lengths, T5, limits).tracks
    taken: defaultdict[int, list[int]] = defaultdict(list)
    for sequence in range(text.num_sequences):
        tracks = [track.segments(sequence) for track in (target, source, text)]
        assert sum(n for _, _, n in tracks[0]) <= 114
        assert sum(n for _, _, n in tracks[1]) <= 512
        for of_target, of_source, (document, offset, length) in zip(*tracks, strict=True):
            assert of_target[:2] == of_source[:2] == (document, 0)
            assert [of_target[2], of_source[2]] == T5.lengths(np.array([length]))[0].tolist()
            taken[document] += range(offset, offset + length)
    assert {document: sorted(tokens) for document, tokens in taken.items()} == {
        document: [*range(length)] for document, length in enumerate(lengths.tolist()) if length
    }


@pytest.mark.parametrize("weights", [None, (1.0,)])
def test_an_epoch_has_every_text_once(corpus: Corpus, texts: list[str], weights: tuple[float, ...] | None) -> None:
    """Each pair puts back a stretch of one document, so no span crosses into another."""
    config = settings(data__weights=weights)
    (plan,) = source_plans(corpus, "train", config.data, OBJECTIVE.others)
    config = settings(data__weights=weights, train__steps=plan.num_sequences)
    found: Counter[str] = Counter()
    for (batch,) in training_batches(corpus, config, OBJECTIVE, 0, 0):
        found.update(bytes(put_back(*pair)).decode() for pair in pairs_of(batch, 0))
    most = longest_stretch(T5, (SEQUENCE_LENGTH, SOURCE_LENGTH))
    lengths = corpus.document_lengths("train").tolist()  # no two texts have one length
    trained = [text for text in texts if len(text) in lengths]
    assert len(trained) == corpus.manifest.split("train").documents
    assert found == Counter(text[i : i + most] for text in trained for i in range(0, len(text), most))


@pytest.mark.parametrize(("data_groups", "shards"), [(1, 2), (2, 1), (1, 4), (3, 2)])
def test_any_grid_reads_the_same_sources_and_targets(corpus: Corpus, data_groups: int, shards: int) -> None:
    def whole(groups: int, num_shards: int) -> list[dict[str, torch.Tensor]]:
        config = settings(groups, num_shards, train__batch_size=6, train__steps=4)
        steps: list[list[dict[str, torch.Tensor]]] = [[] for _ in range(4)]
        for group in range(groups):
            by_shard = [training_batches(corpus, config, OBJECTIVE, group, shard) for shard in range(num_shards)]
            for step, of_shards in enumerate(zip(*by_shard, strict=True)):
                steps[step] += [joined(list(micro_batch)) for micro_batch in zip(*of_shards, strict=True)]
        return [{name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in steps]

    for expected, step in zip(whole(1, 1), whole(data_groups, shards), strict=True):
        for name, x in expected.items():
            assert torch.equal(step[name][:, : x.shape[1]], x), name
        assert (step["source_documents"][:, SOURCE_LENGTH:] == -1).all()


def joined(shards: list[Batch]) -> dict[str, torch.Tensor]:
    """One micro-batch, whose shards these are."""
    found: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
    for batch in shards:
        assert batch.source is not None
        for name in ("tokens", "labels", "positions", "documents"):
            found[name].append(getattr(batch, f"{name}_BT"))
            if name != "labels":
                found[f"source_{name}"].append(getattr(batch.source, f"{name}_BS"))
    return {name: torch.cat(parts, dim=1) for name, parts in found.items()}


def test_resuming_goes_on_with_the_draws_that_were_left(corpus: Corpus) -> None:
    config = settings(train__batch_size=2, train__micro_batch_size=2, train__steps=9)
    every, rest = (list(training_batches(corpus, config, OBJECTIVE, 0, 0, start_step=step)) for step in (0, 4))
    for (a,), (b,) in zip(every[4:], rest, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(joined([a]).values(), joined([b]).values(), strict=True))


def test_an_epoch_has_other_spans_than_the_one_before(corpus: Corpus) -> None:
    (plan,) = source_plans(corpus, "train", settings().data, OBJECTIVE.others)
    steps = list(training_batches(corpus, settings(train__steps=2 * plan.num_sequences), OBJECTIVE, 0, 0))
    epochs = [[pair for (batch,) in epoch for pair in pairs_of(batch, 0)] for epoch in halves(steps)]
    texts = [Counter(bytes(put_back(*pair)) for pair in epoch) for epoch in epochs]
    assert texts[0] == texts[1]
    targets = [{target.tobytes() for _, target in epoch} for epoch in epochs]
    assert len(targets[0] & targets[1]) < len(targets[0]) // 2


def halves(steps: list[list[Batch]]) -> tuple[list[list[Batch]], list[list[Batch]]]:
    return steps[: len(steps) // 2], steps[len(steps) // 2 :]


def test_held_out_texts_always_lose_the_same_spans(corpus: Corpus) -> None:
    def found(groups: int, rows: int) -> list[list[tuple[list[int], list[int]]]]:
        config = settings(groups, train__batch_size=6, train__micro_batch_size=rows)
        by_group = [list(validation_batches(corpus, config, OBJECTIVE, group, 0, groups)) for group in range(groups)]
        batches = [batch for of_groups in zip(*by_group, strict=True) for batch in of_groups]
        sequences = [pairs_of(batch, row) for batch in batches for row in range(rows)]
        return [[(a.tolist(), b.tolist()) for a, b in pairs] for pairs in sequences if pairs]

    assert found(1, 1) == found(1, 3) == found(3, 2)
    most = longest_stretch(T5, (SEQUENCE_LENGTH, SOURCE_LENGTH))
    stretches = sum(-(-n // most) for n in corpus.document_lengths("validation").tolist())
    assert sum(map(len, found(1, 1))) == stretches > 0
