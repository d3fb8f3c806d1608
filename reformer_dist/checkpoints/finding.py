"""Which checkpoints there are, and which one is meant.

In: a storage, a run's name or its folder. Out: folders or URLs of checkpoints; old ones are deleted.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice

import pyarrow.fs as pafs

from reformer_dist.checkpoints.format import MANIFEST, read_state, verify
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import Store, below, open_store


def newest(folder: str, report: Callable[[str], None] = print) -> str | None:
    """The newest good checkpoint of a run's folder, None without one; `report` hears of damaged ones passed over."""
    for _, store in _complete(folder):
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
    return next((step for step, _ in _complete(folder)), 0)


def best(folder: str) -> str | None:
    """The complete checkpoint of a run with the lowest validation loss, None where none was validated."""
    scored = []
    for step, store in _complete(folder):
        path = store.url(store.path)
        loss = read_state(path).validation_loss
        if loss is not None:
            scored.append((loss, -step, path))
    return min(scored)[2] if scored else None


def resolve(name: str, storage: str, run_name: str, report: Callable[[str], None] = print) -> str:
    """The checkpoint that a user means: "latest" or "best" of the newest training called `run_name`, or as for `meant`.

    Raises:
        ConfigError: there is none.
    """
    if name == "latest":
        return latest(storage, run_name, report)
    if name != "best":
        return meant(name, report)
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


def meant(path: str, report: Callable[[str], None] = print) -> str:
    """The checkpoint at a path or URL; of the folder of a run, or of one of its trainings, the newest good one."""
    if is_checkpoint(path):
        return path
    storage, slash, run_name = path.rstrip("/").rpartition("/")
    training = current_folder(storage or slash or ".", run_name)
    return newest(training or path, report) or path


def is_checkpoint(path: str) -> bool:
    """Whether a complete checkpoint lies at a path or URL."""
    return _exists(open_store(path), MANIFEST)


def current_folder(storage: str, run_name: str) -> str | None:
    """Folder of the newest training called `run_name`, None if there was none."""
    numbers = _numbers(storage, run_name)
    return below(below(storage, run_name), str(max(numbers))) if numbers else None


def new_folder(storage: str, run_name: str) -> str:
    """Folder for a training that starts anew under this name; nothing is made."""
    return below(below(storage, run_name), str(max(_numbers(storage, run_name), default=0) + 1))


def prune(folder: str, keep: int, *, keep_best: bool = False) -> None:
    """Delete all but the `keep` newest checkpoints of a run, and what unfinished ones left behind.

    With `keep_best` the complete one with the lowest validation loss stays too.
    """
    kept = [store.path for _, store in islice(_complete(folder), keep)]
    if keep_best and (path := best(folder)):
        kept.append(open_store(path).path)
    for _, store in _all(folder):
        if store.path not in kept:
            delete(store)


def delete(store: Store) -> None:
    """Delete a checkpoint, its manifest first: what is left after an interruption is no checkpoint."""
    if _exists(store, MANIFEST):
        store.filesystem.delete_file(store.child(MANIFEST))
    if store.filesystem.get_file_info(store.path).type == pafs.FileType.Directory:
        store.filesystem.delete_dir(store.path)


def _complete(folder: str) -> Iterator[tuple[int, Store]]:
    """(step, place) of the complete checkpoints in a run's folder, newest first."""
    return ((step, store) for step, store in _all(folder) if _exists(store, MANIFEST))


def _all(folder: str) -> list[tuple[int, Store]]:
    """(step, place) of whatever looks like a checkpoint in a run's folder, newest first."""
    found = [(int(name[5:]), name) for name in _names(open_store(folder)) if re.fullmatch(r"step_\d+", name)]
    return [(step, open_store(below(folder, name))) for step, name in sorted(found, reverse=True)]


def _numbers(storage: str, run_name: str) -> list[int]:
    return [int(name) for name in _names(open_store(below(storage, run_name))) if name.isdecimal()]


def _names(store: Store) -> list[str]:
    infos = store.filesystem.get_file_info(pafs.FileSelector(store.path, allow_not_found=True))
    return [info.base_name for info in infos if info.type == pafs.FileType.Directory]


def _exists(store: Store, name: str) -> bool:
    return bool(store.filesystem.get_file_info(store.child(name)).type == pafs.FileType.File)
