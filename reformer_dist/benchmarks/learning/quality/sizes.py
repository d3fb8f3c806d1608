"""How large the suites are: small takes minutes, paper makes the documented figures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Lengths, times and seeds."""

    lengths: tuple[int, ...]
    """Tokens of a sequence, the most telling first."""
    seconds: float
    """CPU-seconds of a training."""
    tuning_seconds: float
    """CPU-seconds of a training that chooses a learning rate, with the first seed. A short one prefers too large rates."""
    seeds: tuple[int, ...]
    """Trainings of each variant."""
    held_out_blocks: int
    """Blocks of held-out bytes."""
    least_tokens: int = 4096
    """Tokens of a batch, or one sequence where that is longer: many small steps learn more than few large ones."""

    def tokens_per_step(self, length: int) -> int:
        """Tokens of a batch of sequences of that length."""
        return max(length, self.least_tokens)


SIZES = {
    "small": Size(
        lengths=(1024,),
        seconds=40,
        tuning_seconds=10,
        seeds=(0,),
        held_out_blocks=4,
    ),
    "paper": Size(
        lengths=(4096, 16_384, 1024),
        seconds=100,
        tuning_seconds=100,
        seeds=(0, 1, 2),
        held_out_blocks=16,
    ),
}
ABLATION_LENGTH = {"small": 1024, "paper": 4096}
"""Tokens of a sequence in `--suite ablation`."""
