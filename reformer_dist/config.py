"""The whole configuration as one frozen, typed tree.

In: a YAML file, dotted command-line options, or a dictionary of overrides. Out: a validated `Config`, or a `ConfigError`
whose text is one readable line. YAML, the command line and sweeps share one path, `load_config`.
"""

import argparse
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict


class ConfigError(ValueError):
    """A mistake in the configuration; its text is one line that names the field, its value and a value that works."""


class Section(BaseModel):
    """A frozen group of fields; unknown keys are an error, and the text below a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _split_commas(cls, value: Any, info: ValidationInfo) -> Any:
        """Let a string stand for several values, as on the command line: "local,lsh"."""
        takes_tuple = "tuple" in repr(cls.model_fields[info.field_name or ""].annotation)
        return value.split(",") if isinstance(value, str) and takes_tuple else value


class DataConfig(Section):
    """What to train on, and how it is cut into sequences."""

    sources: tuple[str, ...] = Field(("stdlib",), min_length=1)
    """Files, folders, globs or URLs of text, separated by commas. `stdlib` is the Python standard library's own source code."""
    tokenizer: Literal["bytes"] = "bytes"
    """How a document becomes tokens. `bytes`: one token a byte, vocabulary 256, NUL marks a document's start and end."""
    sequence_length: PositiveInt = 4096
    """Tokens in one training sequence, over all its shards."""
    validation_fraction: float = Field(0.05, gt=0.0, lt=1.0)
    """Share of the documents held out for validation (whole documents, chosen by a hash of their name)."""
    reset_positions: bool = True
    """Whether positions start at zero in every document of a sequence, or run through it."""
    attend_across_documents: bool = False
    """Whether a token may attend to other documents packed into its sequence."""
    prepared: str | None = None
    """Folder or URL of a prepared corpus. By default one is made (once) under train.storage, named by what it was made from."""


class ModelConfig(Section):
    """A Reformer: local, LSH and full attention layers with reversible residuals."""

    vocab_size: PositiveInt = 256
    """Number of different tokens."""
    embed_dim: PositiveInt = 256
    """Width E of each of the two residual streams."""
    num_heads: PositiveInt = 4
    """Attention heads H."""
    head_dim: PositiveInt | None = None
    """Width D of a head. By default embed_dim / num_heads."""
    feed_forward_dim: PositiveInt = 1024
    """Inner width of the feed-forward layers."""
    activation: Literal[
        "gelu",
        "gelu_tanh",
        "quick_gelu",
        "relu",
        "relu2",
        "relu6",
        "leaky_relu",
        "silu",
        "mish",
        "hardswish",
        "sigmoid",
        "tanh",
        "linear",
    ] = "gelu"
    """Non-linearity of the feed-forward layers. gelu_tanh: GELU by its tanh approximation; relu2: ReLU squared."""
    layers: tuple[Literal["local", "lsh", "full"], ...] = Field(("local", "lsh", "local", "lsh"), min_length=1)
    """Attention of each layer, first to last, separated by commas: local (a sliding window), lsh, or full."""
    max_length: PositiveInt = 4096
    """Longest sequence the position embeddings cover; any length up to it works, in training too."""
    positions: Literal["axial", "learned"] = "axial"
    """Position embeddings: axial (a sum of sizes instead of a product) or learned (one vector a position)."""
    axial_shape: tuple[PositiveInt, ...] | None = None
    """Factors whose product covers max_length, such as 64,64. By default two powers of two, as equal as can be."""
    axial_dims: tuple[PositiveInt, ...] | None = None
    """Width of each axial factor, summing to embed_dim. By default equal parts."""
    num_hashes: PositiveInt = 4
    """Hash rounds R: independent hashings whose results are combined. More rounds find more of the attention mass."""
    num_buckets: PositiveInt | tuple[PositiveInt, ...] | None = None
    """LSH buckets of a round, a number or factors such as 16,32 (cheaper for long sequences). By default chosen from max_length."""
    lsh_mode: Literal["window", "chunked", "paper"] = "window"
    """Which keys a query sees in a round: window (exactly causal), chunked (as trax, Hugging Face and lucidrains), paper (equations 13-16)."""
    lsh_window: PositiveInt = 64
    """Keys W a query sees in one round (window mode, on each side when not causal), or the chunk length (chunked, paper)."""
    lsh_neighbours: tuple[NonNegativeInt, NonNegativeInt] = (1, 0)
    """Chunks before and after its own that a query sees (chunked and paper mode)."""
    local_mode: Literal["window", "chunked"] = "window"
    """Local attention: window (the last local_window tokens) or chunked (own chunk and its neighbours, as Hugging Face computes)."""
    local_window: PositiveInt = 64
    """Tokens that local attention sees, itself included (on each side when not causal), or the chunk length."""
    local_neighbours: tuple[NonNegativeInt, NonNegativeInt] = (1, 0)
    """Chunks before and after its own that a query sees (chunked mode)."""
    causal: bool = True
    """Whether a token sees only what is before it (a language model) or both sides (an encoder)."""
    attention_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability of dropping an attention weight in training."""
    local_attention_dropout: float | None = Field(None, ge=0.0, lt=1.0)
    """The same in local layers. By default attention_dropout."""
    hidden_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability of dropping an element of an embedding or of a layer's output in training."""
    tie_embeddings: bool = False
    """Whether the output layer uses the token embedding (on the streams' mean) or weights of its own (on both streams)."""
    feed_forward_chunk: PositiveInt = 2048
    """Tokens that a feed-forward layer works on at a time; smaller saves memory."""
    loss_chunk: PositiveInt = 2048
    """Tokens whose logits exist at a time in the loss; smaller saves memory."""
    reversible: bool = True
    """Rebuild activations in the backward pass instead of keeping them; false is the plain reference for debugging."""
    attention_kernel: Literal["auto", "plain"] = "auto"
    """auto picks the fastest attention code for the device; plain is the readable reference, for debugging."""
    layer_norm_eps: PositiveFloat = 1e-5
    """Added to the variance in layer norms."""
    hash_seed: NonNegativeInt | None = None
    """Draw every layer's rotations for each head from this seed alone, as Hugging Face's models do. By default from seed, step and layer."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights, of the hash rotations and of dropout."""

    @property
    def head_width(self) -> int:
        """Width D of a head, chosen or given."""
        return self.head_dim or self.embed_dim // self.num_heads

    @property
    def bucket_factors(self) -> tuple[int, ...]:
        """Factors of the bucket count, chosen or given. Chosen: about lsh_window / 2 tokens a bucket, two factors past 128."""
        if isinstance(self.num_buckets, int):
            return (self.num_buckets,)
        if self.num_buckets is not None:
            return self.num_buckets
        bits = max(1, round(math.log2(max(2.0, 2 * self.max_length / self.lsh_window))))
        return (2**bits,) if bits <= 7 else (2 ** (bits // 2), 2 ** (bits - bits // 2))

    @property
    def axial_factors(self) -> tuple[tuple[int, int], ...]:
        """(length, width) of each axial factor, chosen or given."""
        bits = max(0, math.ceil(math.log2(self.max_length)))
        shape = self.axial_shape or (2 ** (bits - bits // 2), 2 ** (bits // 2))
        dims = self.axial_dims or (self.embed_dim // len(shape),) * len(shape)
        return tuple(zip(shape, dims, strict=True))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.head_dim is None and self.embed_dim % self.num_heads:
            works = self.num_heads * math.ceil(self.embed_dim / self.num_heads)
            raise ValueError(
                f"model.embed_dim = {self.embed_dim} is not divisible by model.num_heads = {self.num_heads}; {works} works, or set model.head_dim"
            )
        for factor in self.bucket_factors:
            if factor % 2 and self.bucket_factors != (1,):
                raise ValueError(
                    f"model.num_buckets = {self.num_buckets}: each factor must be even, since a rotation x gives buckets for x and -x; {factor + 1} works"
                )
        if self.positions == "axial":
            self._check_axial()
        return self

    def _check_axial(self) -> None:
        shape = self.axial_shape
        if shape is not None and math.prod(shape) < self.max_length:
            works = (*shape[:-1], math.ceil(self.max_length / math.prod(shape[:-1])))
            raise ValueError(
                f"model.axial_shape = {shape} covers {math.prod(shape)} positions, fewer than model.max_length = {self.max_length}; {works} works"
            )
        num_factors = len(shape or (0, 0))
        dims = self.axial_dims
        if dims is not None and len(dims) != num_factors:
            raise ValueError(f"model.axial_dims = {dims} must have as many entries as model.axial_shape, {num_factors}")
        if dims is not None and sum(dims) != self.embed_dim:
            works = (*dims[:-1], self.embed_dim - sum(dims[:-1]))
            example = f"{works} works" if works[-1] > 0 else "equal parts work: leave it out"
            raise ValueError(f"model.axial_dims = {dims} must sum to model.embed_dim = {self.embed_dim}; {example}")
        if dims is None and self.embed_dim % num_factors:
            works_dim = num_factors * math.ceil(self.embed_dim / num_factors)
            raise ValueError(
                f"model.embed_dim = {self.embed_dim} is not divisible by the {num_factors} axial factors; {works_dim} works, or set model.axial_dims"
            )


class ParallelConfig(Section):
    """How sequences and optimizer state are divided over workers."""

    sequence_shards: PositiveInt = 1
    """Workers that share one sequence, each holding one contiguous shard of it."""
    attention: Literal["heads", "buckets", "both"] = "heads"
    """How shards exchange in attention. heads: each worker attends whole sequences for its part of the heads; buckets: each attends its part of every hash round's sorted tokens; both: heads among neighbours, buckets across."""
    head_shards: PositiveInt | None = None
    """With attention = both: workers that divide the heads among them, a divisor of sequence_shards (the GPUs of a node, say)."""
    zero_stage: int = Field(1, ge=0, le=3)
    """DeepSpeed ZeRO stage: 0 none, 1 optimizer state, 2 gradients too, 3 parameters too are divided over the workers."""
    timeout_seconds: PositiveFloat = 600.0
    """Longest wait for another worker in a collective; after it the step fails instead of hanging."""

    @property
    def head_degree(self) -> int:
        """Workers that divide the heads of the same tokens among them."""
        if self.attention == "both":
            return self.head_shards or 1
        return self.sequence_shards if self.attention == "heads" else 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.attention != "both" and self.head_shards is not None:
            raise ValueError(
                f"parallel.head_shards = {self.head_shards} goes with parallel.attention = both; leave it out"
            )
        if self.attention == "both" and (self.head_shards is None or self.sequence_shards % self.head_shards):
            raise ValueError(
                f"parallel.head_shards = {self.head_shards} must divide parallel.sequence_shards = {self.sequence_shards}; 1 works"
            )
        return self


class OptimizerConfig(Section):
    """AdamW and its schedule."""

    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or falling to final_fraction at train.steps."""
    warmup_steps: NonNegativeInt = 20
    """Steps in which the learning rate rises from zero to its peak."""
    final_fraction: float = Field(0.1, ge=0.0, le=1.0)
    """Last learning rate as a share of the peak."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates of the first and second moment."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW's weight decay, on matrices only (not on biases, norms and position embeddings)."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients with a larger global norm are scaled down to it."""


class TrainConfig(Section):
    """Length, size and place of a training run."""

    workers: PositiveInt = 1
    """Ray Train workers."""
    use_gpu: bool = False
    """Give each worker a GPU (NCCL) instead of CPU cores (gloo)."""
    threads: PositiveInt | None = None
    """CPU threads of a worker. By default the machine's cores divided by its workers."""
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 1
    """Sequences a step, over all workers."""
    micro_batch_size: PositiveInt = 1
    """Sequences a worker holds at a time; a larger share of the batch is accumulated."""
    seed: NonNegativeInt = 0
    """Seed of the order of the samples."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Arithmetic: float32, float64, or bfloat16 (autocast; weights and streams stay float32)."""
    log_every: PositiveInt = 1
    """Steps between two points on the terminal and in MLflow."""
    validate_every: PositiveInt = 100
    """Steps between two validations; the last step always validates."""
    validation_sequences: PositiveInt = 32
    """Held-out sequences scored at each validation, spread evenly over the validation split."""
    checkpoint_every: PositiveInt = 100
    """Steps between two checkpoints; the last step always writes one."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints to keep."""
    max_failures: NonNegativeInt = 2
    """Times that lost workers are replaced and training goes on from the last checkpoint."""
    resume: str = "auto"
    """auto continues the run's own last checkpoint if there is one, none starts anew, a path starts from that checkpoint."""
    storage: str = "runs"
    """Folder or URL for checkpoints, prepared corpora and, by default, MLflow's database. On a cluster all nodes must reach it."""
    run_name: str = Field("reformer", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run: its folder under storage and its name in MLflow."""


class TrackingConfig(Section):
    """Where MLflow keeps the runs."""

    uri: str | None = None
    """MLflow tracking URI, such as http://localhost:5000. By default an SQLite file under train.storage."""
    experiment: str = "reformer_dist"
    """MLflow experiment."""
    sample_tokens: NonNegativeInt = 256
    """Tokens of sampled text that a finished run keeps as an artifact; 0 for none."""


class TuneConfig(Section):
    """A sweep with Ray Tune."""

    space: dict[str, tuple[Any, ...]] = {"model.num_buckets": (16, 64), "model.num_hashes": (1, 4)}
    """Fields and the values to try, every combination: {"model.num_hashes": [1, 4]}."""
    max_concurrent: PositiveInt | None = None
    """Trials at a time. By default as many as the cluster has room for."""


class EvaluationConfig(Section):
    """Scoring a checkpoint (jobs/evaluate.py)."""

    checkpoint: str = "latest"
    """Checkpoint folder, or latest: the newest of train.run_name under train.storage."""
    split: Literal["validation", "train"] = "validation"
    """Documents to score."""
    max_sequences: PositiveInt | None = None
    """Score only so many sequences, spread evenly over the split. By default all."""


class GenerationConfig(Section):
    """Continuing a prompt (jobs/generate.py)."""

    checkpoint: str = "latest"
    """Checkpoint folder, or latest: the newest of train.run_name under train.storage."""
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


class Config(Section):
    """Every setting of a run, by section."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    parallel: ParallelConfig = ParallelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    tracking: TrackingConfig = TrackingConfig()
    tune: TuneConfig = TuneConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    generation: GenerationConfig = GenerationConfig()

    @property
    def data_groups(self) -> int:
        """Sequence groups that work side by side on different sequences."""
        return self.train.workers // self.parallel.sequence_shards

    @model_validator(mode="after")
    def _check(self) -> Self:
        shards, workers = self.parallel.sequence_shards, self.train.workers
        length = self.data.sequence_length
        if length > self.model.max_length:
            raise ValueError(
                f"data.sequence_length = {length} is longer than model.max_length = {self.model.max_length}; set model.max_length to {length}"
            )
        if shards > length:
            raise ValueError(
                f"parallel.sequence_shards = {shards} is more than data.sequence_length = {length} has tokens; {length} or fewer works"
            )
        self._check_exchange()
        if workers % shards:
            raise ValueError(
                f"train.workers = {workers} is not a multiple of parallel.sequence_shards = {shards}; {shards * math.ceil(workers / shards)} works"
            )
        if self.train.batch_size % self.data_groups:
            works = self.data_groups * math.ceil(self.train.batch_size / self.data_groups)
            raise ValueError(
                f"train.batch_size = {self.train.batch_size} does not divide over {self.data_groups} data groups (train.workers / parallel.sequence_shards); {works} works"
            )
        return self

    def _check_exchange(self) -> None:
        """Whether the attention layers can work over the shards."""
        parallel, model = self.parallel, self.model
        heads, buckets = parallel.head_degree, parallel.sequence_shards // parallel.head_degree
        if model.num_heads % heads:
            works = max(d for d in range(1, heads) if model.num_heads % d == 0)
            name = "head_shards" if parallel.attention == "both" else "sequence_shards"
            raise ValueError(
                f"parallel.{name} = {heads} does not divide model.num_heads = {model.num_heads} (parallel.attention = {parallel.attention}); {works} works"
            )
        if buckets == 1:
            return
        needs_whole = {
            "model.layers": "full" if "full" in model.layers else None,
            "model.lsh_mode": model.lsh_mode if "lsh" in model.layers and model.lsh_mode != "window" else None,
            "model.local_mode": model.local_mode if "local" in model.layers and model.local_mode != "window" else None,
        }
        for name, value in needs_whole.items():
            if value is not None:
                raise ValueError(
                    f"{name} = {value} needs whole sequences, which parallel.attention = {parallel.attention} never holds; parallel.attention = heads works"
                )
        shard = heads * math.ceil(self.data.sequence_length / parallel.sequence_shards)
        for name, kind in (("lsh_window", "lsh"), ("local_window", "local")):
            window = getattr(model, name)
            if kind in model.layers and window > shard:
                raise ValueError(
                    f"model.{name} = {window} reaches beyond a neighbour's {shard} tokens (parallel.attention = {parallel.attention}); {shard} works"
                )


def load_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file, lay `overrides` over it and validate.

    Args:
        path: YAML file with sections as in `Config`; None for the defaults alone.
        overrides: values by dotted name, {"model.num_hashes": 4}, or nested, {"model": {"num_hashes": 4}}. Strings are
            converted as on the command line.

    Raises:
        ConfigError: a missing or malformed file, an unknown field, a wrong type, or values that do not fit together.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read_yaml(Path(path))
    for name, value in flatten(overrides or {}):
        _set(tree, name, value)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def parse_command_line(description: str, arguments: Sequence[str] | None = None) -> Config:
    """Read `--config FILE --section.field VALUE ...` (by default this process's arguments) into a Config.

    `--help` prints every field with its meaning and default. A mistake ends the process with one line and status 2.
    """
    parser = _Parser(
        usage="%(prog)s [--config FILE] [--section.field VALUE ...]",
        description=description,
        epilog="Values of several parts are separated by commas: --model.layers local,lsh",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of the fields below; options win over it")
    source = CliSettingsSource[argparse.ArgumentParser](_Options, root_parser=parser, cli_parse_args=False)
    namespace = parser.parse_args(arguments)
    given = source(parsed_args={k: v for k, v in vars(namespace).items() if k != "config" and v is not None})()
    try:
        return load_config(namespace.config, given)
    except ConfigError as error:
        parser.error(str(error))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested dictionary with dotted names; the values of `tune.space` count as one leaf."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name != "tune.space":
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def field_names() -> list[str]:
    """Dotted names of all fields."""
    return [
        f"{section}.{field}"
        for section, info in Config.model_fields.items()
        for field in info.default.__class__.model_fields
    ]


class _Options(BaseSettings, Config):
    model_config = SettingsConfigDict(
        cli_avoid_json=True, cli_hide_none_type=True, nested_model_default_partial_update=True
    )


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one line instead of a screenful of usage."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            option = message.split(": ", 1)[1].split()[0]
            message = _unknown(option.removeprefix("--").split("=")[0])
        self.exit(2, f"{self.prog}: {message}\n")


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, field_names(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "--help lists the fields"
    return f"unknown field {name}; {hint}"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"--config {path}: must hold sections such as 'model:', not a {type(tree).__name__}")
    return tree


def _set(tree: dict[str, Any], name: str, value: Any) -> None:
    *parents, leaf = name.split(".", 1)
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{parent} = {child!r}: must be a section with fields, such as {name}")
        tree = child
    tree[leaf] = value


def _explain(error: ValidationError) -> str:
    """One line for the first of pydantic's errors."""
    first = error.errors(include_url=False)[0]
    names = [str(part) for part in first["loc"]]
    name = ".".join(names[:2])
    if first["type"] == "extra_forbidden":
        return _unknown(name)
    if not names or first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    reason = first["msg"].removeprefix("Input ")
    section = Config.model_fields[names[0]].default
    default = getattr(section, names[1], None) if len(names) > 1 else None
    example = f"; {default!r} works" if default is not None else ""
    return f"{name} = {first['input']!r} {reason}{example}"
