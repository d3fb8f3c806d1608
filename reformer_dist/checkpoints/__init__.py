"""Checkpoints: found, verified and read; `checkpoints.writing` writes them beside training."""

from reformer_dist.checkpoints.finding import (
    best,
    current_folder,
    delete,
    latest,
    new_folder,
    newest,
    newest_step,
    prune,
    resolve,
)
from reformer_dist.checkpoints.format import (
    MANIFEST,
    Metrics,
    State,
    read_json,
    read_metrics,
    read_state,
    to_yaml,
    verify,
)
from reformer_dist.checkpoints.reading import (
    language_model,
    load_model,
    load_weights,
    optimizer_files,
    read_language_model,
    read_model,
)

__all__ = [
    "MANIFEST",
    "Metrics",
    "State",
    "best",
    "current_folder",
    "delete",
    "language_model",
    "latest",
    "load_model",
    "load_weights",
    "new_folder",
    "newest",
    "newest_step",
    "optimizer_files",
    "prune",
    "read_json",
    "read_language_model",
    "read_metrics",
    "read_model",
    "read_state",
    "resolve",
    "to_yaml",
    "verify",
]
