"""Sweeps: many trainings over a space of settings, compared. `sweep` runs one, `suggest` reads a run's hash health.

In: a configuration with `tune.space`. Out: a training for every trial, each a child of one MLflow run, and what they showed.
"""

from reformer_dist.tuning.runner import sweep
from reformer_dist.tuning.suggestion import suggest
from reformer_dist.tuning.trials import Sweep, Trial

__all__ = ["Sweep", "Trial", "suggest", "sweep"]
