"""The model section: what the Reformer is, whatever it is trained on."""

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from reformer_dist.config.sections.section import Section

LayerName = Literal["local", "lsh", "full"]
"""Kinds of attention, as model/attention/kinds.py has them."""
KeepLevel = Literal["nothing", "streams", "attention", "projections", "products"]
"""What a layer keeps from the forward pass, by the time that a byte saves: each keeps what those before it keep."""
KEEP_LEVELS: tuple[KeepLevel, ...] = get_args(KeepLevel)
ENCODER_SEED = 1_000_003
"""Added to the seed of a model for its encoder, whose layers would else draw as the decoder's do."""


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
    ] = "relu2"
    """Non-linearity of the feed-forward layers. gelu_tanh: GELU by its tanh approximation; relu2: ReLU squared."""
    convolution: NonNegativeInt | None = None
    """Tokens over which a short convolution goes before every layer, 0 for none. By default 4, but none in chunked and paper mode."""
    gated: bool = False
    """Multiply the non-linearity by a second projection (Shazeer 2020: SwiGLU with silu); feed_forward_dim is the width of each."""
    norm: Literal["layer", "rms"] = "layer"
    """Normalisation before every layer: LayerNorm, or RMSNorm, which neither centres nor shifts."""
    query_key_norm: bool = False
    """Give queries and keys unit length, and every head a learned temperature; keys of LSH have unit length in any case."""
    logit_cap: PositiveFloat | None = None
    """Hold logits between -cap and cap by cap tanh(logit / cap). By default they are free."""
    layers: tuple[LayerName, ...] = Field(("local", "lsh", "local", "lsh"), min_length=1)
    """Attention of each layer, first to last, separated by commas: local (a sliding window), lsh, or full."""
    encoder_layers: tuple[LayerName, ...] = ()
    """Attention of each layer of an encoder, which reads a source from both sides; `layers` are then a decoder's, which asks the encoder in every layer. By default there is none."""
    cross_attention: Literal["full", "lsh"] = "full"
    """How a decoder asks an encoder: full (every token of the source) or lsh (those that share a bucket)."""
    max_length: PositiveInt = 4096
    """Longest sequence the position embeddings cover; any length up to it works, in training too."""
    max_source_length: PositiveInt | None = None
    """Longest source of an encoder. By default max_length."""
    positions: Literal["axial", "learned", "none"] = "axial"
    """Position embeddings: axial (a sum of sizes instead of a product), learned (one vector a position) or none."""
    rotary: bool | None = None
    """Turn queries and keys of local and full layers by position (RoFormer). By default, but not in chunked and paper mode."""
    rotary_base: PositiveFloat = 10_000.0
    """Base of the rotary wave lengths, 2 pi to about 2 pi times this many tokens."""
    lsh_rotary: bool = False
    """With rotary: turn LSH's queries-keys too, after they were hashed. Otherwise what is alike matches at any distance."""
    cross_rotary: bool = False
    """Turn queries and keys of cross-attention by their positions in target and source, so that what lies at a like place is found, as in translation. LSH hashes them turned."""
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
    lsh_values: Literal["own", "next"] | None = None
    """Whose value an LSH key brings: its own token's, or the next one's, which tells what followed. By default next in causal window mode, else own."""
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
    keep: tuple[KeepLevel | Literal["auto"], ...] = Field(("nothing",), min_length=1)
    """What layers keep from the forward pass instead of making it again in the backward pass, which takes memory and saves time: nothing; streams (each layer's input); attention (its results too); projections (queries, keys, values); products (the feed-forward layers' too). One for all layers, or one for each, the encoder's first. auto trains with as much as fits into train.memory_gib."""
    attention_kernel: Literal["auto", "plain"] = "auto"
    """auto picks the fastest attention code for the device; plain is the readable reference, for debugging."""
    layer_norm_eps: PositiveFloat = 1e-5
    """Added to the variance in norms."""
    embedding_std: PositiveFloat | None = None
    """Standard deviation of the token embeddings' first values. By default 1, or 0.02 where the output layer shares them."""
    output_scale: NonNegativeFloat = 1.0
    """Scales the first values of the matrices that write into a stream, and of the output layer; 0 starts them at zero."""
    hash_seed: NonNegativeInt | None = None
    """Draw every layer's rotations for each head from this seed alone, as Hugging Face's models do. By default from seed, step and layer."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights, of the hash rotations and of dropout."""

    @property
    def head_width(self) -> int:
        """Width D of a head, chosen or given."""
        return self.head_dim or self.embed_dim // self.num_heads

    @property
    def is_published(self) -> bool:
        """Whether attention is of a mode that published models have, for which fields left open are what those models are."""
        return not self.lsh_mode == self.local_mode == "window"

    @property
    def is_rotary(self) -> bool:
        """Whether queries and keys are turned by their position, chosen or given."""
        return not self.is_published if self.rotary is None else self.rotary

    @property
    def is_lsh_rotary(self) -> bool:
        """Whether LSH's queries-keys are turned too."""
        return self.is_rotary and self.lsh_rotary

    @property
    def convolution_width(self) -> int:
        """Tokens K of the convolution, chosen or given."""
        return (0 if self.is_published else 4) if self.convolution is None else self.convolution

    @property
    def convolution_reach(self) -> tuple[int, int]:
        """Tokens before and after its own that the convolution adds to a token."""
        others = max(0, self.convolution_width - 1)
        return (others, 0) if self.causal else (others - others // 2, others // 2)

    @property
    def lsh_brings_next(self) -> bool:
        """Whether an LSH key brings the next token's value, chosen or given."""
        can = self.causal and self.lsh_mode == "window"
        return (can and not self.is_published) if self.lsh_values is None else self.lsh_values == "next"

    @property
    def kept_by_layers(self) -> tuple[KeepLevel, ...]:
        """What each of `layers` keeps; nothing where that is still to be chosen."""
        given: tuple[KeepLevel, ...] = tuple("nothing" if level == "auto" else level for level in self.keep)
        return given * len(self.layers) if len(given) == 1 else given[len(self.encoder_layers) :]

    @property
    def encoder(self) -> "ModelConfig":
        """The encoder's own configuration: the same, but for its layers, which see both sides, and its longest source."""
        changes: dict[str, Any] = {"layers": self.encoder_layers or self.layers, "encoder_layers": (), "causal": False}
        if len(self.keep) > 1:
            changes["keep"] = self.keep[: len(self.encoder_layers)]
        if self.max_source_length not in (None, self.max_length):
            changes |= {"max_length": self.max_source_length, "axial_shape": None}
        if self.lsh_values == "next":
            changes["lsh_values"] = "own"
        return self.model_copy(update={**changes, "seed": self.seed + ENCODER_SEED})

    @property
    def kinds(self) -> tuple[LayerName, ...]:
        """Kinds of attention in the encoder and the other layers, each once."""
        return tuple(dict.fromkeys((*self.encoder_layers, *self.layers)))

    @property
    def chosen(self) -> dict[str, Any]:
        """Fields that shape what weights learn, as they are where they were left to others."""
        values = "next" if self.lsh_brings_next else "own"
        return {"rotary": self.is_rotary, "convolution": self.convolution_width, "lsh_values": values}

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

    def problems(self) -> Iterator[str]:
        """What does not fit together among the fields."""
        is_divided = self.positions == "axial" and self.axial_dims is None
        num_factors = len(self.axial_shape or (0, 0)) if is_divided else 1
        divisor = math.lcm(num_factors, self.num_heads if self.head_dim is None else 1)
        works = divisor * math.ceil(self.embed_dim / divisor)
        if self.head_dim is None and self.embed_dim % self.num_heads:
            yield f"model.embed_dim = {self.embed_dim} is not divisible by model.num_heads = {self.num_heads}; {works} works, or set model.head_dim"
        elif self.embed_dim % num_factors:
            yield f"model.embed_dim = {self.embed_dim} is not divisible by the {num_factors} axial factors; {works} works, or set model.axial_dims"
        odd = next((factor for factor in self.bucket_factors if factor % 2), None)
        if odd is not None and self.bucket_factors != (1,):
            yield f"model.num_buckets = {self.num_buckets}: each factor must be even, since a rotation x gives buckets for x and -x; {odd + 1} works"
        if self.lsh_values == "next" and not (self.causal and self.lsh_mode == "window"):
            without = f"model.lsh_mode = {self.lsh_mode!r}" if self.causal else "model.causal = False"
            yield f"model.lsh_values = 'next' would show a token what is after it with {without}; 'own' works"
        num_layers = len(self.encoder_layers) + len(self.layers)
        if "auto" in self.keep and len(self.keep) > 1:
            yield f"model.keep = {','.join(self.keep)}: auto is for all layers; auto alone works"
        elif len(self.keep) not in (1, num_layers):
            yield f"model.keep = {','.join(self.keep)} is for {len(self.keep)} layers, there are {num_layers}; one for all works, {self.keep[0]}"
        if self.encoder_layers and not self.causal:
            yield "model.causal = False has a decoder read what it is to write, with model.encoder_layers; True works"
        if self.max_source_length is not None and not self.encoder_layers:
            yield f"model.max_source_length = {self.max_source_length} goes with model.encoder_layers, which are none; leave it out"
        if self.positions == "axial":
            yield from self._axial_problems()

    def _axial_problems(self) -> Iterator[str]:
        shape = self.axial_shape
        if shape is not None and math.prod(shape) < self.max_length:
            works = (*shape[:-1], math.ceil(self.max_length / math.prod(shape[:-1])))
            yield f"model.axial_shape = {shape} covers {math.prod(shape)} positions, fewer than model.max_length = {self.max_length}; {works} works"
        num_factors = len(shape or (0, 0))
        dims = self.axial_dims
        if dims is not None and len(dims) != num_factors:
            yield f"model.axial_dims = {dims} must have as many entries as model.axial_shape, {num_factors}"
        elif dims is not None and sum(dims) != self.embed_dim:
            works = (*dims[:-1], self.embed_dim - sum(dims[:-1]))
            example = f"{works} works" if works[-1] > 0 else "equal parts work: leave it out"
            yield f"model.axial_dims = {dims} must sum to model.embed_dim = {self.embed_dim}; {example}"
