"""A process group of one, for what writes checkpoints."""

from tests.checkpoints.conftest import one_worker

__all__ = ["one_worker"]
