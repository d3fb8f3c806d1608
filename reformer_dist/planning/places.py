"""Where a training writes and starts: storage, MLflow's store, and the checkpoint it goes on from."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.fs as pafs

from reformer_dist.checkpoints import starting_point
from reformer_dist.config import Config
from reformer_dist.errors import ConfigError
from reformer_dist.planning.known import Known
from reformer_dist.storage.stores import Store, one_line, open_store
from reformer_dist.tracking.place import check_reachable, tracking_uri


def storage(config: Config, known: Known) -> None:
    """Whether `train.storage` can be written."""
    check_storage(config.train.storage)


def check_storage(url: str) -> None:
    """Write an empty file there and remove it; a local folder that was not there is not left behind.

    Raises:
        ConfigError: it cannot be written; one line that names `train.storage`.
    """
    try:
        store = open_store(url)
        with _left_as_it_was(store):
            store.filesystem.create_dir(store.path, recursive=True)
            probe = store.child(f".writable-{os.getpid()}")
            with store.filesystem.open_output_stream(probe) as stream:
                stream.write(b"")
            if store.filesystem.get_file_info(probe).type != pafs.FileType.File:
                raise OSError("a file written there is not found again")
            store.filesystem.delete_file(probe)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"train.storage = {url} cannot be written: {one_line(error)};"
            " runs works, or any folder or URL you may write"
        ) from None


@contextmanager
def _left_as_it_was(store: Store) -> Iterator[None]:
    """Remove the folders of a local store that were made inside the block, as far as they are empty."""
    place = Path(store.path)
    made = [path for path in (place, *place.parents) if not path.exists()] if store.is_local else []
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):  # another job may have begun to use it
                path.rmdir()


def make_storage(config: Config) -> None:
    """Make the folder `train.storage`, which `storage` found can be written."""
    store = open_store(config.train.storage)
    store.filesystem.create_dir(store.path, recursive=True)


def tracking(config: Config, known: Known) -> None:
    """Whether MLflow's store can be reached; an SQLite file lies at `train.storage`, which is told by its own check."""
    if config.tracking.uri is not None or storage not in known.failed:
        check_reachable(tracking_uri(config))


def resumed_checkpoint(config: Config, known: Known) -> None:
    """Whether a path in `train.resume` is a checkpoint of this model."""
    starting_point.check(config)


def first_weights(config: Config, known: Known) -> None:
    """Whether `train.weights_from` is a checkpoint; whether it is needed shows at `train.storage`, told by its own check."""
    if storage not in known.failed:
        starting_point.check_first_weights(config)


def start(config: Config, known: Known) -> None:
    """Whether the checkpoint to start from is whole, and of this model and corpus."""
    assert known.corpus is not None
    known.place = starting_point.decide(config, known.corpus)
