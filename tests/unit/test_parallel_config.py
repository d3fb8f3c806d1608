"""Combinations of workers, exchanges and attention that cannot work are refused with one that does."""

from typing import Any

import pytest

from reformer_dist.config import ConfigError, load_config

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
        ({"parallel.attention": "buckets", "model.local_window": 70}, "local_window = 70", {"model.local_window": 64}),
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
    """Under both, a neighbour across is a whole group of head shards."""
    both = {"parallel.attention": "both", "parallel.head_shards": 2, "model.lsh_window": 128, "model.local_window": 128}
    assert load_config(None, BASE | both).parallel.head_degree == 2
    with pytest.raises(ConfigError, match="; 128 works"):
        load_config(None, BASE | both | {"model.lsh_window": 129})
