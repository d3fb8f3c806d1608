"""What a scorer adds up is what the model says of each token, after what it was promised to have before it."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from reformer_dist.config import Config, load_config
from reformer_dist.data.feeding.sequences import split_plan
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.scoring.scorer import Part, Scorer, plan_of
from tests.corpora import prepare_here, random_documents, write_documents

LENGTH, STRIDE = 32, 12
MODEL = {
    "embed_dim": 16,
    "num_heads": 2,
    "layers": "local,lsh",
    "max_length": 256,
    "feed_forward_dim": 16,
    "local_window": 8,
    "lsh_window": 8,
    "num_buckets": 4,
}


def config(**fields: object) -> Config:
    model = {f"model.{name}": value for name, value in MODEL.items()}
    data = {"data.sequence_length": LENGTH, "data.validation_fraction": 0.5, "train.dtype": "float64"}
    return load_config(None, {**model, **data, **{name.replace("__", "."): value for name, value in fields.items()}})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    place = tmp_path_factory.mktemp("scored")
    lengths = {f"{i}.txt": n for i, n in enumerate((20, 31, 32, 77, 150, 9, 44, 63, 100, 5))}
    return prepare_here(write_documents(place / "text", random_documents(lengths)), place, 0.5)


@pytest.fixture(scope="module")
def model() -> ReformerLM:
    made = ReformerLM(config().model).double().eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(1)) / 8)
    return made


def all_of(config: Config, corpus: Corpus) -> Part:
    return Part(0, tuple(range(plan_of(corpus, config).plan.num_sequences)))


def test_a_sliding_window_tells_each_token_from_its_window(corpus: Corpus, model: ReformerLM) -> None:
    sliding = config(evaluation__context="sliding", evaluation__stride=STRIDE)
    found = Scorer(sliding, model, corpus, [{}]).score(all_of(sliding, corpus))
    expected, number = 0.0, 0
    starts, lengths = corpus.document_starts("validation"), corpus.document_lengths("validation")
    assert (lengths >= LENGTH).any()
    assert (lengths < LENGTH).any()
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        entries = torch.tensor([0, *corpus.read(start, start + length).tolist(), 0])
        done, window = 0, min(LENGTH, length + 1)
        for first in [*range(0, length + 1 - window, STRIDE), length + 1 - window]:
            with torch.no_grad():
                logits = model(entries[None, first : first + window])[0]
            nats = cross_entropy(logits, entries[first + 1 : first + window + 1], reduction="none")
            expected += float(nats[done - first :].sum())
            number += first + window - done
            done = first + window
    sums = found.by_context.sum(0).tolist()
    assert sums[0] == pytest.approx(expected, rel=1e-12)
    assert sums[1] == number == found.num_bytes == lengths.sum() + len(lengths)
    assert found.by_context[:, 1].tolist() == [found.by_context[0, 1].item(), number - found.by_context[0, 1].item()]


def test_whole_sequences_have_the_models_loss_in_any_batch(corpus: Corpus, model: ReformerLM) -> None:
    plain = config()
    scorer, every = Scorer(plain, model, corpus, [{}, {"num_hashes": 5}]), all_of(plain, corpus)
    assert len(every.sequences) == split_plan(corpus, "validation", plain.data).num_sequences > 4
    together = scorer.score(every)
    one_by_one = [scorer.score(Part(0, (sequence,))) for sequence in every.sequences]
    alone = one_by_one[0]
    for other in one_by_one[1:]:
        alone = alone + other
    torch.testing.assert_close(together.by_context, alone.by_context, rtol=1e-12, atol=0)
    assert together.num_bytes == alone.num_bytes
    other = scorer.score(Part(1, every.sequences))
    assert other.by_context[:, 1].tolist() == together.by_context[:, 1].tolist()
    assert not math.isclose(other.by_context[:, 0].sum(), together.by_context[:, 0].sum(), rel_tol=1e-6)


def test_sources_are_told_apart_where_a_sequence_holds_several(tmp_path: Path, model: ReformerLM) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write_documents(tmp_path / name, random_documents({f"{name}{i}": 3 + 4 * i for i in range(8)}, seed))
    both = prepare_here("unused", tmp_path / "p", 0.5, sources=(str(tmp_path / "a"), str(tmp_path / "b")))
    plain = config()
    found = Scorer(plain, model, both, [{}]).score(all_of(plain, both))
    sources, lengths = both.document_sources("validation"), both.document_lengths("validation")
    for source in (0, 1):
        assert found.by_source[source, 1] == (lengths[sources == source] + 1).sum() > 0
    torch.testing.assert_close(found.by_source.sum(0), found.by_context.sum(0), rtol=1e-12, atol=0)
