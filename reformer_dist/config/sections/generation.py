"""The generation section: continuing a prompt."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from reformer_dist.config.sections.section import Section


class GenerationConfig(Section):
    """Continuing a prompt (jobs/generate.py)."""

    checkpoint: str = "latest"
    """Checkpoint folder or URL, or of train.run_name under train.storage: latest, or best (lowest validation loss)."""
    prompt: str = "import "
    """Text to continue."""
    num_tokens: PositiveInt = 256
    """Tokens to add."""
    temperature: NonNegativeFloat = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: PositiveInt | None = None
    """Sample among the k likeliest tokens only."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Sample among the likeliest tokens that together have this probability."""
    seed: NonNegativeInt = 0
    """Seed of the sampling."""
