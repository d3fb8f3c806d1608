"""What the benchmark of sequence parallelism finds out about one step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Time:
    """A step of some workers."""

    width: int
    """Of the model."""
    exchange: str
    """"none" for one worker, "apart" for two that share nothing."""
    workers: int
    length: int
    """Tokens of all workers together."""
    seconds: float
    """Of the slowest worker."""
    cpu_seconds: float
    """Of all workers together."""
    waited: float
    """Waiting for attention's exchanges, mean over the workers."""
    sent_mib: float
    """Sent by a worker in attention's exchanges."""
    ratio: float
    """One worker's time divided by this, for the same length; for twice the length, this divided by one worker's."""


@dataclass(frozen=True)
class Memory:
    """Peak memory of the largest worker in a step, above what the process held before."""

    exchange: str
    workers: int
    length: int
    peak_mib: float
