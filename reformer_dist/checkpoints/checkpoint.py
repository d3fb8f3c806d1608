"""Checkpoints: what one is, and how it is found again, verified and read; checkpoint_writer.py writes them.

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
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load as load_tensors

from reformer_dist.config import Config
from reformer_dist.data.preparing.corpus import read_stored_tokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.storage.stores import Store, hash_file, open_store

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
    validation_loss: float | None = None
    config: Config


Metrics = tuple[int, dict[str, float]]
"""Metrics by name after a number of steps."""


class StoredFile(BaseModel):
    """A file as it was written: size in bytes and xxh3-128."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int
    xxh3: str


def prune(folder: str, keep: int, *, keep_best: bool = False) -> None:
    """Delete all but the `keep` newest checkpoints of a run, and what unfinished ones left behind.

    With `keep_best` the complete one with the lowest validation loss stays too.
    """
    found = [store for _, store in _checkpoints(folder)]
    complete = [store for store in found if _exists(store, MANIFEST)]
    kept = [store.path for store in complete[:keep]]
    if keep_best and (path := best(folder)):
        kept.append(open_store(path).path)
    for store in found:
        if store.path not in kept:
            delete(store)


def best(folder: str) -> str | None:
    """The complete checkpoint of a run with the lowest validation loss, None where none was validated."""
    scored = []
    for step, store in _checkpoints(folder):
        if _exists(store, MANIFEST):
            loss = read_state(store.url(store.path)).validation_loss
            if loss is not None:
                scored.append((loss, -step, store.url(store.path)))
    return min(scored)[2] if scored else None


def verify(path: str) -> State:
    """Compare every file of a checkpoint with its manifest and return its state.

    Raises:
        ConfigError: one line that names the first file that is missing, truncated or altered.
    """
    store = open_store(path)
    manifest = {name: StoredFile.model_validate(file) for name, file in read_json(store, MANIFEST).items()}
    for name, file in manifest.items():
        info = store.filesystem.get_file_info(store.child(name))
        if info.type != pafs.FileType.File:
            raise ConfigError(f"checkpoint {path}: {name} is missing")
        if info.size != file.size:
            raise ConfigError(f"checkpoint {path}: {name} has {info.size} bytes where its manifest says {file.size}")
    for name, file in manifest.items():
        if hash_file(store, name) != file.xxh3:
            raise ConfigError(f"checkpoint {path}: {name} does not have the hash that its manifest says")
    return read_state(path)


def read_state(path: str) -> State:
    """The state of a checkpoint that was verified before."""
    try:
        return State.model_validate(read_json(open_store(path), STATE))
    except ValidationError as error:
        raise ConfigError(f"checkpoint {path}: {STATE} is not of this release: {error.errors()[0]['msg']}") from None


def read_metrics(path: str) -> list[Metrics]:
    """What was logged before a checkpoint, that was verified before, was written."""
    store = open_store(path)
    with store.filesystem.open_input_stream(store.child(METRICS)) as stream:
        return [(step, metrics) for step, metrics in map(json.loads, stream.read().splitlines())]


def newest(folder: str, report: Callable[[str], None] = print) -> str | None:
    """The newest good checkpoint of a run's folder, None without one; `report` hears of damaged ones passed over."""
    for _, store in _checkpoints(folder):
        if not _exists(store, MANIFEST):
            continue
        path = store.url(store.path)
        try:
            verify(path)
        except ConfigError as error:
            report(f"{error}; passed over for the one before it")
        else:
            return path
    return None


def newest_step(folder: str) -> int:
    """Steps of the newest complete checkpoint of a run's folder, which is not verified; 0 without one."""
    return next((step for step, store in _checkpoints(folder) if _exists(store, MANIFEST)), 0)


def resolve(name: str, storage: str, run_name: str, report: Callable[[str], None] = print) -> str:
    """The checkpoint that a user means: "latest" or "best" of the newest training called `run_name`, or a path.

    Raises:
        ConfigError: there is none.
    """
    if name == "latest":
        return latest(storage, run_name, report)
    if name != "best":
        return name
    folder = current_folder(storage, run_name)
    path = best(folder) if folder else None
    if path is None:
        raise ConfigError(f"checkpoint = best: no validated checkpoint under {storage}/{run_name}; latest may work")
    return path


def latest(storage: str, run_name: str, report: Callable[[str], None] = print) -> str:
    """The newest good checkpoint of the newest training called `run_name`.

    Raises:
        ConfigError: there is none.
    """
    folder = current_folder(storage, run_name)
    path = newest(folder, report) if folder else None
    if path is None:
        raise ConfigError(
            f"train.run_name = {run_name}: no checkpoint under {storage}/{run_name}; jobs/train.py makes one"
        )
    return path


def current_folder(storage: str, run_name: str) -> str | None:
    """Folder of the newest training called `run_name`, None if there was none."""
    numbers = _numbers(storage, run_name)
    return f"{_join(storage, run_name)}/{max(numbers)}" if numbers else None


def new_folder(storage: str, run_name: str) -> str:
    """Folder for a training that starts anew under this name; nothing is made."""
    return f"{_join(storage, run_name)}/{max(_numbers(storage, run_name), default=0) + 1}"


def load_model(path: str) -> tuple[ReformerLM, Config, Tokenizer]:
    """Verify a checkpoint and build its model on the CPU, in evaluation mode, with its configuration and tokenizer.

    Raises:
        ConfigError: the checkpoint is damaged, or there is none.
    """
    state = verify(path)
    model = ReformerLM(state.config.model)
    if state.config.train.dtype == "float64":
        model.double()
    load_weights(path, model)
    return model.eval(), state.config, read_stored_tokenizer(open_store(path))


def load_weights(path: str, model: ReformerLM) -> None:
    """Copy a checkpoint's weights into a model of the same shape."""
    store = open_store(path)
    with store.filesystem.open_input_stream(store.child(WEIGHTS)) as stream:
        model.load_state_dict(load_tensors(stream.read()))


@contextmanager
def optimizer_files(path: str) -> Iterator[Path]:
    """A local folder with what the workers' `save_optimizer` wrote, fetched if the checkpoint lies elsewhere."""
    store = open_store(path)
    if store.is_local:
        yield Path(store.child(OPTIMIZER))
        return
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as temporary:
        pafs.copy_files(store.child(OPTIMIZER), temporary, source_filesystem=store.filesystem)
        yield Path(temporary)


def to_yaml(config: Config) -> str:
    """The configuration as a file that `--config` takes."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _checkpoints(folder: str) -> list[tuple[int, Store]]:
    """(step, place) of whatever looks like a checkpoint in a run's folder, newest first."""
    found = [(int(name[5:]), name) for name in _names(open_store(folder)) if re.fullmatch(r"step_\d+", name)]
    return [(step, open_store(f"{folder}/{name}")) for step, name in sorted(found, reverse=True)]


def _numbers(storage: str, run_name: str) -> list[int]:
    return [int(name) for name in _names(open_store(_join(storage, run_name))) if name.isdecimal()]


def _names(store: Store) -> list[str]:
    infos = store.filesystem.get_file_info(pafs.FileSelector(store.path, allow_not_found=True))
    return [info.base_name for info in infos if info.type == pafs.FileType.Directory]


def _join(storage: str, run_name: str) -> str:
    return f"{storage.rstrip('/')}/{run_name}"


def _exists(store: Store, name: str) -> bool:
    return bool(store.filesystem.get_file_info(store.child(name)).type == pafs.FileType.File)


def delete(store: Store) -> None:
    """Delete a checkpoint, its manifest first: what is left after an interruption is no checkpoint."""
    if _exists(store, MANIFEST):
        store.filesystem.delete_file(store.child(MANIFEST))
    if store.filesystem.get_file_info(store.path).type == pafs.FileType.Directory:
        store.filesystem.delete_dir(store.path)


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
