"""What is scored: sums over stretches and their metrics, beside what can be had without a model."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from reformer_dist.config import ModelConfig, ObjectiveConfig
from reformer_dist.data.feeding.batch import Batch
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.objectives.choice import OBJECTIVES, make_objective
from tests.corpora import NEXT_TOKEN, prepare_here, write_documents


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    tokens_BT, labels_BT = torch.randint(0, 9, (2, 2, 31), generator=generator)
    labels_BT[:, ::3] = -100
    return Batch(tokens_BT, labels_BT, torch.arange(31).expand(2, 31), torch.zeros(2, 31, dtype=torch.int64))


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_scores_are_the_loss_and_how_many_labels_are_the_likeliest_token(tie_embeddings: bool) -> None:
    fields = {"vocab_size": 9, "embed_dim": 16, "num_heads": 2, "feed_forward_dim": 16, "max_length": 32}
    model = ReformerLM(ModelConfig(**fields, loss_chunk=7, tie_embeddings=tie_embeddings)).double().eval()
    batch = make_batch()
    with torch.no_grad():
        loss_sum, scored = NEXT_TOKEN.loss(model, batch, 0), batch.labels_BT != -100
        right = (model(batch.tokens_BT).argmax(-1) == batch.labels_BT)[scored].sum()
        scores = NEXT_TOKEN.scores(model, batch)
        assert torch.equal(NEXT_TOKEN.loss(model, batch, 0), loss_sum), "observing ends with the block"
    assert scores.shape == (2, 31, 3)
    assert scores.dtype == torch.float64
    assert (scores[~scored] == 0).all()
    sums = scores.sum(dim=(0, 1)).tolist()
    assert sums == [pytest.approx(float(loss_sum), rel=1e-12), int(scored.sum()), int(right)]
    assert 0 < right < scored.sum()
    found = NEXT_TOKEN.metrics(sums)
    mean = sums[0] / int(scored.sum())
    assert found == {"loss": mean, "bits_per_token": mean / math.log(2), "accuracy": int(right) / int(scored.sum())}
    assert NEXT_TOKEN.loss_metrics(mean).items() <= found.items()


def test_nothing_scored_is_no_loss() -> None:
    assert NEXT_TOKEN.metrics([0.0, 0.0, 0.0]) == {"loss": 0.0, "bits_per_token": 0.0, "accuracy": 0.0}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_baseline_has_the_names_of_the_metrics(name: str, tmp_path: Path) -> None:
    objective = make_objective(ObjectiveConfig(name=name))
    (tmp_path / "s.jsonl").write_text(40 * (json.dumps({"text": "aaab" * 5, "labels": "xyxx" * 5}) + "\n"))
    corpus = prepare_here(tmp_path / "s.jsonl", tmp_path, fields={"text": {}, "labels": {"aligned_with": "text"}})
    baseline = objective.baseline(corpus, "validation")
    assert baseline.keys() == objective.metrics([0.0] * objective.num_scores).keys()
    assert baseline["loss"] == pytest.approx(baseline["bits_per_token"] * math.log(2))


def test_the_unigram_baseline_counts_what_is_scored(tmp_path: Path) -> None:
    # All documents alike, so both splits have the same frequencies: 15 a, 5 b and one end in each document.
    corpus = prepare_here(write_documents(tmp_path / "s", {f"{i}": b"aaab" * 5 for i in range(400)}), tmp_path)
    num_documents = corpus.manifest.split("train").documents

    def bits(*numbers: int) -> float:
        total = sum(numbers) * num_documents + 256  # one is added to each of 256 counts
        return sum(-n * np.log2((n * num_documents + 1) / total) for n in numbers) / sum(numbers)

    for split in ("train", "validation"):
        found = NEXT_TOKEN.baseline(corpus, split)
        assert found["bits_per_token"] == pytest.approx(bits(15, 5, 1), rel=1e-12)
        assert found["accuracy"] == 15 / 21
        masked = make_objective(ObjectiveConfig(name="masked")).baseline(corpus, split)
        assert masked["bits_per_token"] == pytest.approx(bits(15, 5), rel=1e-12), "ends are never hidden"
        assert masked["accuracy"] == 15 / 20
