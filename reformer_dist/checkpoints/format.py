"""What a checkpoint is: its files, whether they are whole, and what the small ones say.

    STORAGE/RUN_NAME/1/step_00000300/     1, 2, ...: each training that was started anew under this name
        manifest.json                     size and xxh3-128 of all other files; written last, it makes them count
        model.safetensors                 all weights, whatever the ZeRO stage
        state.json, config.yaml           step, data, MLflow run, workers, and the configuration
        metrics.jsonl                     every metric of the run so far, should MLflow have missed the last ones
        tokenizer.json                    what made the tokens
        optimizer/*.safetensors           each worker's part of the optimizer's state (see optimizer_state.py)

Everything is read and written by pyarrow, so storage is a folder or the URL of an object store.
"""

import json
from collections.abc import Iterable
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from reformer_dist.config import Config
from reformer_dist.errors import ConfigError
from reformer_dist.storage.hashed_files import StoredFile, find_damage
from reformer_dist.storage.stores import Store, open_store

MANIFEST, STATE, WEIGHTS, CONFIG, METRICS, OPTIMIZER = (
    "manifest.json",
    "state.json",
    "model.safetensors",
    "config.yaml",
    "metrics.jsonl",
    "optimizer",
)


class State(BaseModel):
    """What state.json holds, beside the weights all that is needed to go on.

    Attributes:
        step: optimizer steps done.
        tokenizer: name of the corpus's tokenizer.
        corpus_hash: content hash of the corpus.
        run_id: MLflow run.
        workers, zero_stage: of the training that wrote it; any others can go on.
        samples: sequences drawn by then, as far as it tells (older releases: steps times `train.batch_size`).
        validation_loss: nats a token on held-out documents, if this step was validated.
        config: the whole configuration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    step: int
    tokenizer: str
    corpus_hash: str
    run_id: str
    workers: int
    zero_stage: int
    samples: int | None = None
    validation_loss: float | None = None
    config: Config

    @property
    def num_samples(self) -> int:
        """Sequences drawn in all steps before."""
        return self.step * self.config.train.batch_size if self.samples is None else self.samples


_MEANT_BEFORE: dict[str, dict[str, Any]] = {
    "model": {"rotary": False, "convolution": 0, "lsh_values": "own", "lsh_rotary": True, "embedding_std": 0.02},
    "optimizer": {"name": "adamw"},
}
"""What configurations of older releases meant by leaving out fields that they did not have, where that is no default now."""

Metrics = tuple[int, dict[str, float]]
"""Metrics by name after a number of steps."""


def verify(path: str) -> State:
    """Compare every file of a checkpoint with its manifest and return its state.

    Raises:
        ConfigError: one line that names the first file that is missing, truncated or altered.
    """
    store = open_store(path)
    files = [StoredFile(name=name, **file) for name, file in read_json(store, MANIFEST).items()]
    if damage := find_damage(store, files):
        raise ConfigError(f"checkpoint {path}: {damage}")
    return read_state(path)


def manifest_entries(files: Iterable[StoredFile]) -> dict[str, Any]:
    """What manifest.json says of files: size and hash by name."""
    return {file.name: file.model_dump(exclude={"name"}) for file in files}


def read_state(path: str) -> State:
    """The state of a checkpoint that was verified before."""
    tree = read_json(open_store(path), STATE)
    for section, meant in _MEANT_BEFORE.items():
        if isinstance(given := tree.get("config", {}).get(section), dict):
            tree["config"][section] = meant | given
    try:
        return State.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"checkpoint {path}: {STATE} is not of this release: {error.errors()[0]['msg']}") from None


def read_metrics(path: str) -> list[Metrics]:
    """What was logged before a checkpoint, that was verified before, was written."""
    store = open_store(path)
    with store.filesystem.open_input_stream(store.child(METRICS)) as stream:
        return [(step, metrics) for step, metrics in map(json.loads, stream.read().splitlines())]


def read_json(store: Store, name: str) -> dict[str, Any]:
    """The content of one of a checkpoint's JSON files.

    Raises:
        ConfigError: it is missing or no JSON.
    """
    try:
        with store.filesystem.open_input_stream(store.child(name)) as stream:
            tree: dict[str, Any] = json.loads(stream.read())
            return tree
    except FileNotFoundError:
        raise ConfigError(f"checkpoint {store.path}: no {name} there; give a folder called step_NUMBER") from None
    except ValueError:
        raise ConfigError(f"checkpoint {store.path}: {name} is damaged") from None


def to_yaml(config: Config) -> str:
    """The configuration as a file that `--config` takes."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
