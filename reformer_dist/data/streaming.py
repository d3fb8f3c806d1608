"""Ray Data, used quietly: what both preparing and feeding need of it."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask


def quiet(dataset: ray.data.Dataset) -> ray.data.Dataset:
    """The same dataset; running it prints nothing (its log goes to Ray's session folder)."""
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    dataset.context.execution_options.verbose_progress = False
    return dataset


def iterate_tables(iterator: ray.data.DataIterator, num_prefetched: int = 1) -> Iterator[pa.Table]:
    """The dataset's blocks as they are, `num_prefetched` fetched before they are asked for."""
    options: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "prefetch_batches": num_prefetched}
    # Ray Data logs each execution's start and end to the terminal at levels that no option controls.
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)
    yield from iterator.iter_batches(**options)


class TableSource(Datasource):
    """A dataset whose tasks each yield tables, in order."""

    def __init__(self, tasks: Sequence[Callable[[], Iterable[pa.Table]]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tasks = tasks

    def estimate_inmemory_data_size(self) -> int | None:
        """Not known before the tasks run."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """One task of Ray for each of ours, whatever parallelism Ray would like: the cut decides the order."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(task, unknown) for task in self._tasks]


def ordered_dataset(tasks: Sequence[Callable[[], Iterable[pa.Table]]], block_bytes: int) -> ray.data.Dataset:
    """A dataset of what the tasks yield, in the order of the tasks, that runs beside training.

    The tasks ask for no CPU, so they run when train workers hold all of them; one runs at a time, at most a few blocks
    ahead of the reader.

    Args:
        tasks: functions that yield tables; they travel to Ray's workers.
        block_bytes: tables are handed on as soon as they have this size.
    """
    dataset = quiet(ray.data.read_datasource(TableSource(tasks), num_cpus=0, concurrency=1))
    dataset.context.execution_options.preserve_order = True
    dataset.context.target_max_block_size = block_bytes
    dataset.context.target_min_block_size = block_bytes
    return dataset
