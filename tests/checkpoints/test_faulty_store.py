"""Checkpoints in a bucket whose server is busy, or that may be written no more."""

from collections.abc import Iterator
from itertools import count

import pytest
import torch

from reformer_dist import checkpoints
from reformer_dist.model.reformer import ReformerLM
from tests.checkpoints.untrained import Keeping
from tests.storage.faulty_s3 import DENIED, SLOW_DOWN, FaultyS3, faulty_bucket

pytestmark = pytest.mark.usefixtures("one_worker")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultyS3, str]]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with faulty_bucket("faulty") as found:
        yield found


def test_a_busy_server_costs_no_checkpoint(bucket: tuple[FaultyS3, str]) -> None:
    server, url = bucket
    training = Keeping(url.format("runs"))
    numbers = count()
    server.refuse = lambda method, path: SLOW_DOWN if next(numbers) % 4 == 3 else None
    training.keeper.save(2, None)
    training.keeper.finish()
    path = checkpoints.newest(training.folder)
    assert server.refused > 5
    assert training.told == []
    assert path is not None
    assert "/step_00000002" in path
    other = ReformerLM(training.keeper._job.config.model)
    checkpoints.load_weights(path, other)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), training.model.parameters(), strict=True))


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_a_right_that_is_taken_away_costs_a_checkpoint_and_not_the_training(
    bucket: tuple[FaultyS3, str], method: str
) -> None:
    """What was being written is told; the last good checkpoint stays, and the next is written when the right is back."""
    server, url = bucket
    training = Keeping(url.format("runs"))
    training.keeper.save(1, None)
    training.keeper.finish()
    server.refuse = lambda used, path: DENIED if used == method else None
    training.keeper.save(2, None)
    training.keeper.save(3, None)
    with pytest.raises(OSError, match=r"in bucket 'faulty': AWS Error ACCESS_DENIED during \w+ operation"):
        training.keeper.finish()
    (line,) = training.told
    assert str(line).startswith("worker 0 could not write a checkpoint: When ")
    assert str(line).endswith("; training goes on, and the checkpoint before stays")
    server.refuse = lambda method, path: None
    path = checkpoints.newest(training.folder)
    assert path is not None
    assert "/step_00000001?" in path
    checkpoints.verify(path)
    training.keeper.save(4, None)
    training.keeper.finish()
    assert "/step_00000004?" in str(checkpoints.newest(training.folder))


def test_what_cannot_be_deleted_costs_a_checkpoint_too(bucket: tuple[FaultyS3, str]) -> None:
    """A step that is written a second time, after a crash, is deleted first."""
    server, url = bucket
    training = Keeping(url.format("runs"))
    training.keeper.save(1, None)
    training.keeper.finish()
    server.refuse = lambda used, path: DENIED if used in {"DELETE", "POST"} else None
    training.keeper.save(1, None)
    (line,) = training.told
    assert "/step_00000001?" in str(line)
    assert "cannot be written anew: " in str(line)
    with pytest.raises(OSError, match="cannot be written anew: "):
        training.keeper.finish()
    server.refuse = lambda method, path: None
    training.keeper.save(2, None)
    training.keeper.finish()
    assert "/step_00000002?" in str(checkpoints.newest(training.folder))
