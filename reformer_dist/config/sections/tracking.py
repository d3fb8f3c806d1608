"""The tracking section: where MLflow keeps the runs."""

from pydantic import NonNegativeInt

from reformer_dist.config.sections.section import Section


class TrackingConfig(Section):
    """Where MLflow keeps the runs."""

    uri: str | None = None
    """MLflow tracking URI, such as http://localhost:5000. By default an SQLite file under train.storage."""
    experiment: str = "reformer_dist"
    """MLflow experiment."""
    sample_tokens: NonNegativeInt = 256
    """Tokens of sampled text that a finished run keeps as an artifact; 0 for none."""
