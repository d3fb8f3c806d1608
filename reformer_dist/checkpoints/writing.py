"""Writing checkpoints while training goes on.

In: a snapshot of weights and optimizer state in memory, of each worker. Out: a checkpoint as format.py describes it.

A training step waits for the snapshot alone. A thread of each worker writes that worker's files and then a note of their
sizes and hashes; rank 0's thread writes the manifest, which makes the checkpoint count, once every note is there. The
threads meet in the storage, never in a collective, which would cross those of the training.
"""

import json
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file

from reformer_dist.checkpoints import finding
from reformer_dist.checkpoints.format import (
    CONFIG,
    MANIFEST,
    METRICS,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    Metrics,
    State,
    manifest_entries,
    read_json,
    to_yaml,
)
from reformer_dist.data.preparing.manifest import TOKENIZER
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.storage.hashed_files import HashingFile, StoredFile, hash_file
from reformer_dist.storage.stores import STORE_ERRORS, Store, below, one_line, open_store

NOTES = "parts"
"""Folder of the notes of a checkpoint that is being written."""
POLL_SECONDS = 0.05

Tensors = Mapping[str, torch.Tensor]


class Writer:
    """Writes the checkpoints of one training, one at a time; every method is collective.

    Args:
        folder: folder or URL of the run (see `finding.new_folder`).
        keep: newest checkpoints to keep.
        tokenizer: what made the tokens.
        keep_best: keep the one with the lowest validation loss too.
        timeout: seconds that rank 0 waits for the other workers' files.
    """

    def __init__(self, folder: str, keep: int, tokenizer: Tokenizer, *, keep_best: bool, timeout: float) -> None:
        self._tokenizer = tokenizer
        self._folder, self._keep, self._keep_best, self._timeout = folder, keep, keep_best, timeout
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._store: Store | None = None
        """Where the checkpoint goes that is being written."""
        self._abandoned = threading.Event()

    def save(self, state: State, weights: Tensors, moments: Tensors, metrics: Sequence[Metrics]) -> str:
        """Begin to write the checkpoint of a step, after the one before is complete; returns its folder or URL.

        Args:
            state: as of now.
            weights: the model's state_dict on rank 0, copies that nobody changes before `finish`.
            moments: this worker's part of the optimizer's state, copies too.
            metrics: what was logged since the run began, on rank 0.

        Raises:
            OSError: see `finish`.
        """
        self.finish()
        store = self._store = open_store(below(self._folder, f"step_{state.step:08d}"))
        if error := _first_error(_deleted(store) if self._rank == 0 else ""):
            raise OSError(error)
        self._writing = self._thread.submit(self._write, store, state, weights, moments, list(metrics))
        return store.url(store.path)

    def finish(self) -> None:
        """Wait until the checkpoint that was begun last is complete; one that cannot be is deleted.

        Raises:
            OSError: on all workers, when one of them could not write; the message says which and why. The writer can go on.
        """
        if self._writing is None:
            return
        if _first_error(self._outcome() if self._rank != 0 else ""):
            self._abandoned.set()  # or rank 0 would wait for a note that will never come
        error = _first_error(self._outcome())
        self._writing = None
        if error:
            self._abandoned.clear()
            if self._rank == 0 and self._store is not None:
                _deleted(self._store)  # a full disk has room again
            raise OSError(error)

    def _outcome(self) -> str:
        """Why this worker's part could not be written, empty if it was; waits for it."""
        assert self._writing is not None
        try:
            self._writing.result()
        except STORE_ERRORS as error:
            return f"worker {self._rank} could not write a checkpoint: {one_line(error)}"
        return ""

    def _write(self, store: Store, state: State, weights: Tensors, moments: Tensors, metrics: list[Metrics]) -> None:
        """The thread's whole work."""
        name = f"{OPTIMIZER}/{self._rank:05d}-of-{self._world_size:05d}.safetensors"
        files = [_write_tensors(store, name, moments)]
        if self._rank == 0:
            files.append(_write_tensors(store, WEIGHTS, weights))
            files.append(_write_text(store, STATE, state.model_dump_json(indent=1)))
            files.append(_write_text(store, TOKENIZER, self._tokenizer.to_json()))
            files.append(_write_text(store, CONFIG, to_yaml(state.config)))
            files.append(_write_text(store, METRICS, "".join(f"{json.dumps(point)}\n" for point in metrics)))
        _write_at_once(store, f"{NOTES}/{self._rank}.json", json.dumps(manifest_entries(files)))
        if self._rank == 0 and self._wait_for_notes(store):
            self._complete(store)

    def _wait_for_notes(self, store: Store) -> bool:
        """Whether all workers have written their files; False once another one's failure is known."""
        names = [store.child(f"{NOTES}/{rank}.json") for rank in range(self._world_size)]
        end = time.monotonic() + self._timeout
        while not all(info.type == pafs.FileType.File for info in store.filesystem.get_file_info(names)):
            if self._abandoned.wait(POLL_SECONDS):
                return False
            if time.monotonic() > end:
                raise OSError(f"other workers' files were not there after {self._timeout:.0f} s")
        return True

    def _complete(self, store: Store) -> None:
        """Write the manifest and delete what is no longer needed."""
        manifest: dict[str, Any] = {}
        for rank in range(self._world_size):
            manifest |= read_json(store, f"{NOTES}/{rank}.json")
        _write_at_once(store, MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))
        store.filesystem.delete_dir(store.child(NOTES))
        finding.prune(self._folder, self._keep, keep_best=self._keep_best)


def _deleted(store: Store) -> str:
    """Delete what is left of an earlier try; why that cannot be, empty if it can."""
    try:
        finding.delete(store)
    except STORE_ERRORS as error:
        return f"{store.url(store.path)} cannot be written anew: {one_line(error)}"
    return ""


def _first_error(error: str) -> str:
    """The first error of any worker, on all of them."""
    errors: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(errors, error)
    return next(filter(None, errors), "")


def _write_tensors(store: Store, name: str, tensors: Tensors) -> StoredFile:
    """Write a safetensors file, straight to its place or, if that is remote, by way of a local one."""
    store.filesystem.create_dir(store.child(name).rpartition("/")[0], recursive=True)
    if store.is_local:
        path = Path(store.child(name))
        _save_file(tensors, path)
        return StoredFile(name=name, size=path.stat().st_size, xxh3=hash_file(store, name))
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as temporary:
        path = Path(temporary) / "tensors"
        _save_file(tensors, path)
        pafs.copy_files(str(path), store.child(name), destination_filesystem=store.filesystem)
        return StoredFile(name=name, size=path.stat().st_size, xxh3=hash_file(open_store(temporary), "tensors"))


def _save_file(tensors: Tensors, path: Path) -> None:
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:  # a full disk, for one, is no OSError to that library
        raise OSError(str(error)) from None


def _write_at_once(store: Store, name: str, text: str) -> None:
    """Write a text that is there as a whole or not at all."""
    _write_text(store, f"{name}.part", text)
    store.filesystem.move(store.child(f"{name}.part"), store.child(name))


def _write_text(store: Store, name: str, text: str) -> StoredFile:
    store.filesystem.create_dir(store.child(name).rpartition("/")[0], recursive=True)
    with HashingFile(store, name) as file:
        file.write(text.encode())
    return StoredFile(name=name, size=file.size, xxh3=file.hexdigest)
