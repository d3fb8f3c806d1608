"""First weights from another model's checkpoint: what a new model takes, what is drawn, what is refused."""

import re
from pathlib import Path

import pytest
import torch

from reformer_dist import checkpoints
from reformer_dist.checkpoints import first_weights, starting_point
from reformer_dist.config import ModelConfig
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.errors import ConfigError
from reformer_dist.model.choice import make_model
from tests.checkpoints.untrained import make_config, write
from tests.corpora import prepare_here, random_documents, write_documents

pytestmark = pytest.mark.usefixtures("one_worker")

BOTH = {"model.encoder_layers": "local,lsh", "model.layers": "local,lsh"}


class LanguageModel:
    """A run called lm with a checkpoint of step 5, and the text that it was trained on."""

    def __init__(self, storage: Path) -> None:
        self.storage = str(storage)
        self.source = write_documents(storage / "text", random_documents({f"{i}.txt": 500 for i in range(9)}))
        self.corpus = prepare_here(self.source, storage)
        config = make_config(self.storage, **{"train.run_name": "lm", "model.seed": 3})
        self.path = write(checkpoints.new_folder(self.storage, "lm"), 5, config, corpus_hash=self.corpus.hash)

    def decide(self, corpus: Corpus | None = None, **changes: object) -> starting_point.Place:
        fields = {"train.run_name": "new", "train.weights_from": self.path, **changes}
        return starting_point.decide(make_config(self.storage, **fields), corpus or self.corpus)


def test_both_sides_begin_as_a_language_model(tmp_path: Path) -> None:
    lm = LanguageModel(tmp_path)
    config = make_config(lm.storage, **BOTH).model
    drawn, model = make_model(config).state_dict(), make_model(config)
    found = first_weights.load(lm.path, model)
    stored = checkpoints.load_model(lm.path).state_dict()
    for name, value in model.state_dict().items():
        origin = found.taken.get(name)
        assert torch.equal(value, drawn[name] if origin is None else stored[origin]), name
    taken, kinds = set(found.taken), {name.rpartition(".")[2] for name in found.drawn}
    assert {"embedding.weight", "output.weight", "stack.blocks.0.attention.query_weight"} <= taken
    assert "encoder.stack.blocks.1.attention.query_key_weight" in taken
    assert found.taken["encoder.stack.blocks.0.feed_forward.inner_weight"] == "stack.blocks.0.feed_forward.inner_weight"
    assert all("cross_attention" in name or name.startswith("encoder.") for name in found.drawn)
    assert "stack.blocks.0.attention.convolution_weight" in taken
    assert "encoder.stack.blocks.0.attention.convolution_weight" in found.drawn, "one that saw the past alone"
    assert "norm_weight" in kinds
    assert all(name.startswith(("stack.blocks.2", "stack.blocks.3")) for name in found.left), "it has four layers"


def test_what_fits_not_is_drawn() -> None:
    then = ModelConfig(layers=("local", "lsh"), embed_dim=64, max_length=256)
    deeper = first_weights.origins(then.model_copy(update={"layers": ("local", "local", "lsh")}), then)
    assert {name for name in deeper.drawn if ".1.attention" in name} == {
        f"stack.blocks.1.attention.{name}_weight" for name in ("query", "key")
    }, "an LSH layer has one projection for both"
    assert any(name.startswith("stack.blocks.2") for name in deeper.drawn)
    assert deeper.left == ("stack.blocks.1.attention.query_key_weight",)
    longer = first_weights.origins(then.model_copy(update={"max_length": 4096}), then)
    assert set(longer.drawn) == {"positions.axis_0", "positions.axis_1"}
    both = ModelConfig(layers=("local",), encoder_layers=("lsh",), embed_dim=64, max_length=256)
    assert not first_weights.origins(both, both).drawn, "encoders begin as encoders, convolutions too"


def test_a_new_training_takes_them_and_one_that_goes_on_does_not(tmp_path: Path) -> None:
    lm = LanguageModel(tmp_path)
    assert lm.decide().weights == lm.path
    assert lm.decide(**{"train.weights_from": f"{lm.storage}/lm"}).weights == lm.path
    config = make_config(lm.storage, **{"train.run_name": "new", "train.weights_from": lm.path})
    own = write(checkpoints.new_folder(lm.storage, "new"), 2, config, corpus_hash=lm.corpus.hash)
    going_on = lm.decide()
    assert (going_on.start, going_on.weights) == (own, None)
    removed = {"train.run_name": "new", "train.weights_from": "removed/since"}
    starting_point.check_first_weights(make_config(lm.storage, **removed))
    assert lm.decide(**{"train.resume": "none"}).weights == lm.path


def test_what_cannot_be_begun_with_is_told(tmp_path: Path) -> None:
    lm = LanguageModel(tmp_path)

    def refused(line: str, **changes: object) -> None:
        config = make_config(lm.storage, **{"train.weights_from": lm.path, **changes})
        with pytest.raises(ConfigError, match=line):
            starting_point.check_first_weights(config)

    refused(f"^train.weights_from = {lm.storage}: .*no ", **{"train.weights_from": lm.storage})
    refused(
        r"no matrix of this model .*; model\.embed_dim \d+ works$", **{"model.embed_dim": 256, "model.num_heads": 4}
    )
    refused("goes on with one; leave out one of them$", **{"train.resume": lm.path})
    bpe = prepare_here(lm.source, tmp_path, tokenizer="bpe", bpe_vocab_size=280)
    with pytest.raises(ConfigError, match=r"trained with another vocabulary; data\.tokenizer bytes works$"):
        lm.decide(bpe)
    weights = Path(lm.path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=re.escape(lm.path)):
        lm.decide()
