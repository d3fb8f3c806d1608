"""What layers keep is chosen alike by all workers, from the memory that the least of them has."""

import os
from collections.abc import Callable

import psutil
import pytest
import torch
import torch.distributed as dist

from reformer_dist.config import Config, load_config
from reformer_dist.planning.memory.formula import held_memory, step_memory
from reformer_dist.planning.memory.parts import Work
from reformer_dist.training.engine import memory
from reformer_dist.training.engine.memory import GIB, with_keep
from tests.ranks import run_ranks

CPU = torch.device("cpu")


def make_config(**changes: object) -> Config:
    fields = {"data.sequence_length": 4096, "model.keep": "auto", "train.workers": 2, "train.batch_size": 2}
    return load_config(None, {**fields, **changes})


def chosen_by_rank(config: Config) -> tuple[tuple[str, ...], str | None]:
    """Rank 1 has no room for anything that is kept."""
    room: Callable[[Config, torch.device], int] = memory._room
    memory._room = lambda *given: 0 if dist.get_rank() else room(*given)
    try:
        found, told = with_keep(config, CPU)
    finally:
        memory._room = room
    return found.model.keep, told


def test_all_workers_keep_what_the_poorest_can() -> None:
    for keep, told in run_ranks(chosen_by_rank, 2, make_config()):
        assert keep == ("nothing",) * 4
        assert told is not None
        assert told.startswith("layers keep nothing: a step takes 0.")


@pytest.mark.usefixtures("one_worker")
def test_memory_that_is_given_is_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "LOCAL_WORLD_SIZE": "1"})
    held = psutil.Process().memory_info().rss
    before = 0
    for mib in (120, 160, 200, 4000):  # 100 are taken with nothing kept
        config = make_config(**{"train.memory_gib": (held + mib * 2**20) / GIB, "train.workers": 1})
        found, _ = with_keep(config, CPU)
        step = step_memory(Work.of(found)).parts.total
        assert step + held_memory(found).total <= mib * 2**20 * 1.05, "what the process holds changes a little"
        assert step > before
        before = step
    assert found.model.keep == ("products",) * 4


@pytest.mark.usefixtures("one_worker")
def test_what_is_given_by_level_is_left_alone() -> None:
    config = make_config(**{"model.keep": "streams"})
    assert with_keep(config, CPU) == (config, None)
    config = make_config(**{"model.keep": "streams", "train.memory_gib": 8})
    assert with_keep(config, CPU) == (config, "train.memory_gib = 8 is for model.keep = auto; model.keep is streams")
