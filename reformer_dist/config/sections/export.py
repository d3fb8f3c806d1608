"""The export section: a run's model as one folder, and in MLflow's registry."""

from collections.abc import Iterator
from typing import Literal

from reformer_dist.config.sections.section import Section


class ExportConfig(Section):
    """Exporting a model (jobs/export.py)."""

    checkpoint: str = "latest"
    """Checkpoint folder or URL, or of train.run_name under train.storage: latest, or best (lowest validation loss)."""
    output: str | None = None
    """Folder or URL to write, which must not be there yet. By default exports/RUN_NAME-STEP under train.storage."""
    format: Literal["reformer_dist", "huggingface"] = "reformer_dist"
    """What can read it: load_model and all jobs of this package, or transformers (chunked mode alone)."""
    name: str | None = None
    """Name of the model on its card. By default train.run_name."""
    license: str = "unknown"
    """Licence of the weights, by the name that Hugging Face has for it, such as apache-2.0 or cc-by-4.0."""
    register_as: str | None = None
    """Put it into MLflow's model registry too, under this name, from where it can be served."""

    def problems(self) -> Iterator[str]:
        """What does not fit together among the fields."""
        if self.register_as is not None and self.format != "reformer_dist":
            yield f"export.register_as = {self.register_as} goes with export.format = reformer_dist, not {self.format}"
        if self.register_as is not None and not self.register_as.strip("/: "):
            yield f"export.register_as = {self.register_as!r} is no name; reformer works"
