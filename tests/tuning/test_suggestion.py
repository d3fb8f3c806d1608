"""What a run's hash health proposes."""

import pytest

from reformer_dist.errors import ConfigError
from reformer_dist.tracking.records import Point, RunRecord
from reformer_dist.tuning.suggestion import suggest


def record(**hashing: float) -> RunRecord:
    parameters = {
        "model.num_hashes": "2",
        "model.num_buckets": "16",
        "model.lsh_window": "8",
        "model.max_length": "512",
    }
    return RunRecord(
        "id", "a", "FINISHED", parameters, {f"hashing/{k}": [Point(9, 0, v)] for k, v in hashing.items()}, ""
    )


def test_a_suggestion_weighs_mass_against_its_price() -> None:
    more = suggest(
        record(caught=0.5, caught_one_round_more=0.7, caught_half_the_buckets=0.5, caught_one_round_less=0.3)
    )
    assert "to try: --model.num_buckets 8" in more
    less = suggest(record(caught=0.95, caught_one_round_less=0.94))
    assert "to try: --model.num_hashes 1" in less
    gain = suggest(record(caught=0.5, caught_one_round_more=0.7, caught_twice_the_window=0.55))
    assert "to try: --model.num_hashes 3" in gain
    twice = next(line for line in gain.splitlines() if "twice the window" in line)
    assert "--model.num_buckets" in twice, (
        "the mass was measured with the buckets of now, which follow the window if not given"
    )
    assert "keep it" in suggest(record(caught=0.95, caught_one_round_more=0.97))
    with pytest.raises(ConfigError, match="has no hash health"):
        suggest(record())
