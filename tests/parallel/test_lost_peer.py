"""A worker that dies or hangs ends the others' step with an error in time, never a hang."""

import os
import time

import pytest
import torch

from reformer_dist import Config, ReformerLM
from reformer_dist.parallel.parallelize import parallelize
from reformer_dist.parallel.topology import make_topology
from tests.parallel.test_sequence_shards import make_config
from tests.ranks import run_ranks

TIMEOUT = 2.0


def _step_with_a_bad_peer(config: Config, dies: bool) -> float:
    """Seconds until the first worker's step fails, while the last one dies or stays away."""
    topology = make_topology(config)
    model = ReformerLM(config.model)
    parallelize(model, topology)
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    if topology.shard == config.parallel.sequence_shards - 1:
        if dies:
            os._exit(1)
        time.sleep(3 * TIMEOUT)
        return 0.0
    start = time.monotonic()
    with pytest.raises(RuntimeError):
        model.loss(tokens, tokens, first_position=topology.shard * 16)
    return time.monotonic() - start


@pytest.mark.parametrize("attention", ["heads", "buckets"])
def test_a_hung_peer_is_an_error_within_the_timeout(attention: str) -> None:
    config = make_config(3, 48, {"attention": attention, "timeout_seconds": TIMEOUT}, lsh_window=4)
    seconds = run_ranks(_step_with_a_bad_peer, 3, config, False, fresh=True)
    assert max(seconds) < 2.5 * TIMEOUT


@pytest.mark.parametrize("attention", ["heads", "buckets"])
def test_a_dead_peer_is_an_error_at_once(attention: str) -> None:
    config = make_config(3, 48, {"attention": attention, "timeout_seconds": 300.0}, lsh_window=4)
    with pytest.raises(RuntimeError, match=r"^rank 2:\nthe process died$"):  # the others answered, and in time
        run_ranks(_step_with_a_bad_peer, 3, config, True, timeout=110.0, fresh=True)
