"""Checkpoints of models that nobody has trained, with a stand-in for the engine's state."""

from types import SimpleNamespace

import torch

from reformer_dist import checkpoints
from reformer_dist.checkpoints.writing import Writer
from reformer_dist.config import Config, load_config
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.model.choice import make_model
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.training.worker import Work, _Keeper

METRICS = [(1, {"train/loss": 2.5}), (2, {"train/loss": 1 / 3, "validation/loss": 1e-300})]
SETTINGS = {"model.embed_dim": 16, "model.num_heads": 2, "model.feed_forward_dim": 16, "model.tie_embeddings": True}


def make_config(storage: str, **changes: object) -> Config:
    return load_config(None, {**SETTINGS, "train.storage": storage, **changes})


def write(
    folder: str, step: int, config: Config, keep: int = 99, tokenizer: Tokenizer | None = None, **changes: object
) -> str:
    """A checkpoint of an untrained model, with a stand-in for the engine's state."""
    name = tokenizer.name if tokenizer else "bytes"
    fields = {"tokenizer": name, "corpus_hash": "c", "run_id": "r", "workers": 1, "zero_stage": 1, **changes}
    writer = Writer(folder, keep, tokenizer or BytesTokenizer(), keep_best=True, timeout=60.0)
    weights = {name: value.clone() for name, value in make_model(config.model).state_dict().items()}
    path = writer.save(
        checkpoints.State(step=step, config=config, **fields), weights, {"a": torch.full((9,), step)}, METRICS
    )
    writer.finish()
    return path


class Keeping:
    """What keeps the checkpoints of a run called a, and what it told."""

    def __init__(self, storage: str) -> None:
        config = make_config(storage, **{"train.run_name": "a"})
        corpus = SimpleNamespace(tokenizer_of=BytesTokenizer, hash="c")
        self.folder, self.told = checkpoints.new_folder(storage, "a"), list[object]()
        self.model = ReformerLM(config.model)
        engine = SimpleNamespace(
            copy_weights=lambda into: into.update({n: x.clone() for n, x in self.model.state_dict().items()}),
            copy_state=lambda into: into.update(a=torch.zeros(9)),
        )
        self.keeper = _Keeper(Work(config, corpus, self.folder, None, "r"), engine, None, self.told.append, 0)
