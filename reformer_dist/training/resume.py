"""Where a training starts: from nothing, or from which checkpoint, in which folder and MLflow run."""

from dataclasses import dataclass

from reformer_dist.config import Config, ConfigError, ModelConfig
from reformer_dist.data.corpus import Corpus, read_stored_tokenizer
from reformer_dist.data.manifest import TOKENIZER
from reformer_dist.data.stores import open_store
from reformer_dist.training import checkpoint

SPEED_ONLY = {"feed_forward_chunk", "loss_chunk", "reversible", "attention_kernel"}
"""Fields of the model section that change its memory and speed but not what it is."""


@dataclass(frozen=True)
class Place:
    """Where a training starts.

    Attributes:
        folder: folder or URL of the run, absolute; its checkpoints go there.
        start: checkpoint to start from, None to start from nothing.
        step: steps done at the start.
        run_id: MLflow run to go on with, None for a new one.
    """

    folder: str
    start: str | None = None
    step: int = 0
    run_id: str | None = None


def decide(config: Config, corpus: Corpus) -> Place:
    """Follow `train.resume`.

    Raises:
        ConfigError: the checkpoint is damaged or of another model, corpus or tokenizer.
    """
    store = open_store(config.train.storage)
    storage, name = store.url(store.path), config.train.run_name
    current = checkpoint.current_folder(storage, name)
    if config.train.resume == "auto":
        start = checkpoint.newest(current) if current else None
        if current is None or start is None:
            return Place(current or checkpoint.new_folder(storage, name))
        state = checkpoint.read_state(start)
        _check(config, corpus, start, state)
        return Place(current, start, state.step, state.run_id)
    folder = checkpoint.new_folder(storage, name)
    if config.train.resume == "none":
        return Place(folder)
    given = open_store(config.train.resume)
    path = given.url(given.path)
    state = checkpoint.verify(path)
    _check(config, corpus, path, state)
    return Place(folder, path, state.step)


def _check(config: Config, corpus: Corpus, path: str, state: checkpoint.State) -> None:
    anew = "train.resume none starts anew"
    if changed := _changes(config.model, state.config.model):
        raise ConfigError(f"{path} is of another model ({changed}); {anew}")
    if corpus.hash != state.corpus_hash and config.train.resume == "auto":
        raise ConfigError(f"{path} was trained on another corpus than data.sources now names; {anew}")
    if corpus.tokenizer.name != state.tokenizer:
        raise ConfigError(f"{path} was trained with data.tokenizer = {state.tokenizer}; that works, or {anew}")
    if corpus.tokenizer.to_json() != read_stored_tokenizer(open_store(path)).to_json():
        raise ConfigError(
            f"{path} was trained with another vocabulary; data.tokenizer_file = {path}/{TOKENIZER} works, or {anew}"
        )


def _changes(now: ModelConfig, then: ModelConfig) -> str:
    """The fields that differ, such as "model.num_hashes = 4, was 2"."""
    return ", ".join(
        f"model.{name} = {getattr(now, name)}, was {getattr(then, name)}"
        for name in type(now).model_fields
        if name not in SPEED_ONLY and getattr(now, name) != getattr(then, name)
    )
