"""A checkpoint's model as one folder, without the optimizer's state and with a model card.

In: a checkpoint. Out: a folder or URL that `load_model` and every job take as a checkpoint, or one that transformers reads.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.fs as pafs

from reformer_dist import checkpoints
from reformer_dist.checkpoints import MANIFEST, State
from reformer_dist.checkpoints.format import CONFIG, METRICS, STATE, WEIGHTS, manifest_entries
from reformer_dist.config import Config
from reformer_dist.data.preparing.manifest import TOKENIZER
from reformer_dist.errors import ConfigError
from reformer_dist.exporting.card import model_card
from reformer_dist.model.huggingface import to_pretrained
from reformer_dist.storage.hashed_files import HashingFile, StoredFile
from reformer_dist.storage.stores import STORE_ERRORS, Store, below, one_line, open_store

CARD = "README.md"
_COPIED = (WEIGHTS, STATE, CONFIG, METRICS, TOKENIZER)
_BLOCK = 1 << 22


def export(checkpoint: str, output: str, name: str, license: str) -> State:
    """Write the folder, which is there whole or not at all; returns the checkpoint's state.

    Args:
        checkpoint: its folder or URL.
        output: folder or URL, not there yet.
        name: of the model, for its card.
        license: of the weights, for the card.

    Raises:
        ConfigError: the checkpoint is damaged, or something is at `output`.
        OSError: it cannot be written.
    """
    model, _, _ = checkpoints.read_model(checkpoint)
    state, metrics = checkpoints.read_state(checkpoint), dict[str, float]()
    for _, values in checkpoints.read_metrics(checkpoint):
        metrics |= values
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    card = model_card(state, metrics, num_parameters, name, license, f"./{Path(output).name}")
    source = open_store(checkpoint)
    with _new_folder(output) as store:
        files = [_copied(source, store, file) for file in _COPIED]
        files.append(_written(store, CARD, [card.encode()]))
        manifest = json.dumps(manifest_entries(files), indent=1, sort_keys=True)
        _written(store, MANIFEST, [manifest.encode()])
    return state


def folder_of(config: Config, checkpoint: str) -> str:
    """`export.output`, or a folder under `train.storage` that is named by run and step."""
    if config.export.output is not None:
        return config.export.output
    step = checkpoints.read_state(checkpoint).step
    return below(below(config.train.storage, "exports"), f"{config.train.run_name}-{step}")


def export_to_huggingface(checkpoint: str, output: str) -> None:
    """Write config.json, model.safetensors and tokenizer.json for transformers into a local folder that is not there yet.

    Raises:
        ConfigError: the checkpoint is damaged, transformers cannot compute what its model does, something is at `output`,
            or that is no local folder.
    """
    model, _, tokenizer = checkpoints.read_language_model(checkpoint)
    if not open_output(output).is_local:
        raise ConfigError(f"export.output = {output}: export.format = huggingface writes local folders; exported works")
    try:
        with _new_folder(output) as store:
            to_pretrained(model, store.path)
            _written(store, TOKENIZER, [tokenizer.to_json().encode()])
    except ValueError as error:
        raise ConfigError(f"export.format = huggingface: {error}; export.format = reformer_dist works") from None


def open_output(output: str) -> Store:
    """The place to write to. Raises ConfigError for a URL that means none."""
    try:
        return open_store(output)
    except ValueError as error:
        raise ConfigError(f"export.output = {output}: {error}; a folder of this machine works") from None


@contextmanager
def _new_folder(output: str) -> Iterator[Store]:
    """A place to write: on a disk a folder beside it, renamed in the end; in an object store its own, the manifest last."""
    store = open_output(output)
    selector = pafs.FileSelector(store.path, allow_not_found=True)
    info = store.filesystem.get_file_info(store.path)
    if info.type == pafs.FileType.File or store.filesystem.get_file_info(selector):
        raise ConfigError(f"export.output = {output} is there already; another folder works, or delete it")
    if not store.is_local:
        yield store
        return
    final = Path(store.path)
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=final.parent, ignore_cleanup_errors=True) as aside:
        whole = Path(aside) / final.name
        whole.mkdir()
        yield replace(store, path=str(whole))
        if final.exists():
            shutil.rmtree(final)  # an empty one
        whole.rename(final)


def _copied(source: Store, target: Store, name: str) -> StoredFile:
    with source.filesystem.open_input_stream(source.child(name), compression=None) as stream:
        return _written(target, name, iter(lambda: stream.read(_BLOCK), b""))


def _written(store: Store, name: str, blocks: Iterable[bytes]) -> StoredFile:
    try:
        with HashingFile(store, name) as file:
            for block in blocks:
                file.write(block)
    except STORE_ERRORS as error:
        raise OSError(f"export.output: {store.child(name)} cannot be written: {one_line(error)}") from error
    return StoredFile(name=name, size=file.size, xxh3=file.hexdigest)
