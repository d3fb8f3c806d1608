"""Combinations of workers, exchanges and attention that cannot work are refused with one that does; elastic grids."""

from typing import Any

import pytest

from reformer_dist.config import Config, load_config, parse_command_line
from reformer_dist.errors import ConfigError

BASE: dict[str, Any] = {
    "data.sequence_length": 256,
    "model.layers": "local,lsh",
    "model.num_heads": 4,
    "parallel.sequence_shards": 4,
    "train.workers": 4,
}


@pytest.mark.parametrize(
    ("changes", "named", "works"),
    [
        (
            {"parallel.sequence_shards": 3},
            "sequence_shards = 3",
            {"parallel.sequence_shards": 2, "train.batch_size": 2},
        ),
        ({"parallel.attention": "both"}, "head_shards = None", {"parallel.head_shards": 1}),
        ({"parallel.attention": "both", "parallel.head_shards": 3}, "head_shards = 3", {"parallel.head_shards": 1}),
        ({"parallel.head_shards": 2}, "head_shards = 2", {"parallel.head_shards": None}),
        (
            {"parallel.attention": "both", "parallel.head_shards": 4, "model.num_heads": 2},
            "head_shards = 4",
            {"parallel.head_shards": 2},
        ),
        (
            {"parallel.attention": "buckets", "model.lsh_mode": "paper"},
            "lsh_mode = paper",
            {"parallel.attention": "heads"},
        ),
        (
            {"parallel.attention": "buckets", "model.lsh_mode": "chunked"},
            "lsh_mode = chunked",
            {"parallel.attention": "heads"},
        ),
        (
            {"parallel.attention": "both", "parallel.head_shards": 2, "model.local_mode": "chunked"},
            "local_mode = chunked",
            {"parallel.attention": "heads", "parallel.head_shards": None},
        ),
        (
            {"parallel.attention": "buckets", "model.layers": "full,lsh"},
            "layers = full",
            {"parallel.attention": "heads"},
        ),
        ({"parallel.attention": "buckets", "model.lsh_window": 65}, "lsh_window = 65", {"model.lsh_window": 64}),
        (
            {"parallel.offload_optimizer": True, "parallel.zero_stage": 0},
            "offload_optimizer",
            {"parallel.zero_stage": 1},
        ),
        ({"train.workers": 6}, "workers = 6", {"train.workers": 8, "train.batch_size": 2}),
        ({"train.workers": 8}, "batch_size = 1", {"train.batch_size": 2}),
        (
            {"data.sequence_length": 3},
            "sequence_shards = 4",
            {"parallel.sequence_shards": 3, "train.workers": 3, "model.num_heads": 3, "model.embed_dim": 6},
        ),
    ],
)
def test_a_refused_combination_comes_with_one_that_works(
    changes: dict[str, Any], named: str, works: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, BASE | changes)
    text = str(error.value)
    assert named in text
    assert "\n" not in text
    assert (
        any(str(value) in text.split(";")[1] for value in works.values() if value is not None) or "leave it out" in text
    )
    load_config(None, BASE | {"train.workers": 4} | changes | works)


def test_windows_may_reach_as_far_as_a_neighbour() -> None:
    """Under both, a neighbour across is a whole group of head shards. Local windows reach over any number of shards."""
    both = {"parallel.attention": "both", "parallel.head_shards": 2, "model.lsh_window": 128, "model.local_window": 200}
    assert load_config(None, BASE | both).parallel.head_degree == 2
    with pytest.raises(ConfigError, match="; 128 works"):
        load_config(None, BASE | both | {"model.lsh_window": 129})


def elastic(**changes: object) -> Config:
    """Up to eight workers, with heads that divide by two and four."""
    fields = {"train.workers": "1,8", "train.batch_size": 8} | {k.replace("__", "."): v for k, v in changes.items()}
    return load_config(None, BASE | fields)


@pytest.mark.parametrize(
    ("changes", "shards"),
    [
        ({"parallel__sequence_shards": 1}, [1, 1, 1, 1, 1, 1, 1, 1]),
        ({"parallel__sequence_shards": 2}, [1, 2, 1, 2, 1, 2, 1, 2]),
        ({"parallel__sequence_shards": 2, "parallel__attention": "buckets", "model__lsh_window": 32,
          "model__local_window": 32}, [1, 2, 3, 2, 5, 2, 7, 2]),
        ({"parallel__sequence_shards": 4}, [1, 2, 1, 4, 1, 2, 1, 4]),
        ({"parallel__sequence_shards": 4, "parallel__attention": "buckets", "model__lsh_window": 16,
          "model__local_window": 16}, [1, 2, 3, 4, 5, 6, 7, 4]),
    ],
)  # fmt: skip
def test_every_size_of_an_elastic_training_has_its_grid(changes: dict[str, object], shards: list[int]) -> None:
    config = elastic(**changes)
    grids = [config.with_workers(workers) for workers in range(1, 9)]
    assert [grid.parallel.sequence_shards for grid in grids] == shards
    assert [grid.train.workers for grid in grids] == [*range(1, 9)]
    assert [grid.data_groups * grid.parallel.sequence_shards for grid in grids] == [*range(1, 9)]
    assert {grid.train.batch_size for grid in grids} == {8}, "the batch is the configuration's alone"


def test_head_shards_shrink_with_the_sequence_shards() -> None:
    config = elastic(parallel__attention="both", parallel__head_shards=2, train__workers="3,4")
    grids = [config.with_workers(workers).parallel for workers in (3, 4)]
    assert [(grid.sequence_shards, grid.head_shards) for grid in grids] == [(3, 1), (4, 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__workers": (4, 2)}, r"train\.workers = 4,2 has the least number after the most; 2,4 works"),
        ({"train__batch_size": 6}, r"train\.workers = 1,8 may become 7, where train\.batch_size = 6 .*; 1,6 works"),
        ({"train__workers": 0}, r"train\.workers = 0 should be greater than 0; 1 works"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        elastic(**changes)


@pytest.mark.parametrize(("text", "workers"), [("4", 4), ("4,8", (4, 8))])
def test_the_command_line_takes_one_number_or_two(text: str, workers: object) -> None:
    arguments = ["--train.workers", text, "--train.batch_size", "8", "--model.num_buckets", "16"]
    config = parse_command_line("", arguments)
    assert config.train.workers == workers
    assert config.model.num_buckets == 16, "the same as in YAML, so that resuming sees no change"
