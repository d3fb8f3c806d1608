"""The generation section: continuing prompts."""

from collections.abc import Iterator

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from reformer_dist.config.sections.section import Section


class GenerationConfig(Section):
    """Continuing prompts (jobs/generate.py)."""

    checkpoint: str = "latest"
    """Checkpoint folder or URL, or of train.run_name under train.storage: latest, or best (lowest validation loss)."""
    prompt: str = "import "
    """Text to continue; of a model with an encoder the source that it reads."""
    prefix: str | None = None
    """Of a model that was trained with objective.name = prefix: what stands before the prompt, such as a genre."""
    prompts: str | None = None
    """File of prompts instead, one a line; of a .jsonl file the field prompt of each line."""
    output: str | None = None
    """File for prompts and texts, a JSON line each, instead of the terminal."""
    batch_size: PositiveInt = 8
    """Prompts of a file that are continued at a time."""
    workers: PositiveInt = 1
    """Processes that read a long prompt together, each on one CPU with a shard of it; one of them then goes on alone."""
    num_tokens: PositiveInt | None = None
    """Tokens to add, by default 256. A model with an encoder ends by itself, with these at most, by default with twice its source's and 64."""
    stop: tuple[str, ...] = ()
    """Texts, separated by commas, before which a continuation ends."""
    temperature: NonNegativeFloat | None = None
    """Divides the logits; 0 always takes the likeliest token. By default 1, but 0 of a model with an encoder."""
    top_k: PositiveInt | None = None
    """Sample among the k likeliest tokens only."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Sample among the likeliest tokens that together have this probability."""
    min_p: float = Field(0.0, ge=0.0, lt=1.0)
    """Sample among tokens at least so likely, as a share of the likeliest one's probability."""
    repetition_penalty: PositiveFloat = 1.0
    """Makes tokens that were read lately less likely: divides their positive logits, multiplies the negative ones."""
    repetition_window: PositiveInt = 64
    """How many tokens back that is."""
    seed: NonNegativeInt = 0
    """Seed of the sampling."""
    num_beams: PositiveInt = 1
    """Of a model with an encoder: beginnings of a text that are kept side by side (beam search); 1 takes token by token, the likeliest unless generation.temperature says otherwise."""
    length_penalty: NonNegativeFloat = 1.0
    """With beams: they are compared by log probability / ((5 + tokens) / 6)^length_penalty; more likes longer texts."""

    @property
    def added_tokens(self) -> int:
        """Tokens to add to a prompt, given or not."""
        return 256 if self.num_tokens is None else self.num_tokens

    def problems(self) -> Iterator[str]:
        """What does not fit together among the fields."""
        if {"prompt", "prompts"} <= self.model_fields_set and self.prompts is not None:
            yield f"generation.prompts = {self.prompts} stands instead of generation.prompt; leave out one of them"
        if self.num_beams > 1 and self.temperature:
            yield f"generation.num_beams = {self.num_beams} does not go with generation.temperature = {self.temperature}; leave out one of them"
        if "" in self.stop:
            yield "generation.stop has an empty text, which stands everywhere; leave it out"
