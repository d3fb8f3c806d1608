"""Hugging Face's config.json of a Reformer, as a ModelConfig and back.

In: the fields of config.json. Out: a validated ModelConfig in `chunked` mode, or a ConfigError that names Hugging Face's
field; or the other way round.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from reformer_dist.config import ModelConfig, load_config
from reformer_dist.errors import ConfigError

_FIELDS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", 320),
    "embed_dim": ("hidden_size", 256),
    "num_heads": ("num_attention_heads", 12),
    "head_dim": ("attention_head_size", 64),
    "feed_forward_dim": ("feed_forward_size", 512),
    "activation": ("hidden_act", "relu"),
    "layers": ("attn_layers", ["local", "lsh"] * 3),
    "max_length": ("max_position_embeddings", 4096),
    "axial_shape": ("axial_pos_shape", [64, 64]),
    "axial_dims": ("axial_pos_embds_dim", [64, 192]),
    "num_hashes": ("num_hashes", 1),
    "num_buckets": ("num_buckets", None),
    "lsh_window": ("lsh_attn_chunk_length", 64),
    "local_window": ("local_attn_chunk_length", 64),
    "causal": ("is_decoder", False),
    "attention_dropout": ("lsh_attention_probs_dropout_prob", 0.0),
    "local_attention_dropout": ("local_attention_probs_dropout_prob", 0.05),
    "hidden_dropout": ("hidden_dropout_prob", 0.05),
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
    "hash_seed": ("hash_seed", None),
}
"""ModelConfig's fields that Hugging Face has one to one: its name, and the value where config.json is silent."""

_ONLY_LSH = ("lsh_window", "attention_dropout")  # may be null where no layer is lsh
_CHUNK_SIZES = {"feed_forward_chunk": "chunk_size_feed_forward", "loss_chunk": "chunk_size_lm_head"}  # 0: all at once

_FIXED: dict[str, Any] = {
    "rotary": False,
    "convolution": 0,
    "lsh_values": "own",
    "gated": False,
    "norm": "layer",
    "query_key_norm": False,
    "logit_cap": None,
    "tie_embeddings": False,
}
"""Fields of which Hugging Face's Reformer has this one value."""

_ACTIVATIONS = {
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"),
    "quick_gelu": ("quick_gelu",),
    "relu": ("relu",),
    "relu2": ("relu2",),
    "relu6": ("relu6",),
    "leaky_relu": ("leaky_relu",),
    "silu": ("silu", "swish"),
    "mish": ("mish",),
    "hardswish": ("hardswish",),
    "sigmoid": ("sigmoid",),
    "tanh": ("tanh",),
    "linear": ("linear",),
}
"""Hugging Face's names of each activation; the first is written."""


def read_config(theirs: Mapping[str, Any]) -> ModelConfig:
    """The configuration that computes what Hugging Face's model of these settings computes.

    Where num_buckets is open, transformers takes it from the first sequence it sees; here it is what a sequence of the
    greatest length gives.

    Raises:
        ConfigError: a setting that is malformed or that this package has no counterpart for.

    """
    if theirs.get("model_type", "reformer") != "reformer":
        raise ConfigError(f"model_type = {theirs['model_type']!r} is not supported; 'reformer' works")
    ours = {name: theirs.get(field, default) for name, (field, default) in _FIELDS.items()}
    try:
        _check_layers(ours["layers"])
        for name, value in list(ours.items()):
            if value is None and name in _ONLY_LSH and "lsh" not in ours["layers"]:
                del ours[name]
            elif value is None and name not in ("num_buckets", "hash_seed"):
                raise ConfigError(f"model.{name} = None is not supported; {_FIELDS[name][1]!r} works")
        ours["activation"] = _our_activation(ours["activation"])
        for kind in sorted(set(ours["layers"])):
            chunks = theirs.get(f"{kind}_num_chunks_before", 1), theirs.get(f"{kind}_num_chunks_after", 0)
            ours |= {f"{kind}_mode": "chunked", f"{kind}_neighbours": chunks}
        ours |= {name: theirs[field] for name, field in _CHUNK_SIZES.items() if theirs.get(field)}
        return _with_positions(_validate({**_FIXED, **ours, "positions": "learned"}), theirs)
    except ConfigError as error:
        names = {**{name: field for name, (field, _) in _FIELDS.items()}, **_CHUNK_SIZES}
        names |= {f"{kind}_neighbours": f"{kind}_num_chunks_before, _after" for kind in ("lsh", "local")}
        raise ConfigError(re.sub(r"model\.(\w+)", lambda name: names.get(name[1], name[1]), str(error))) from None


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The fields of a config.json from which transformers makes a model that computes the same.

    Raises:
        ConfigError: Hugging Face's Reformer cannot compute what this configuration asks for.

    """
    _check_writable(config)
    causal, factors = config.causal, config.bucket_factors
    theirs: dict[str, Any] = {
        "model_type": "reformer",
        "architectures": ["ReformerModelWithLMHead" if causal else "ReformerForMaskedLM"],
        **{field: getattr(config, name) for name, (field, _) in _FIELDS.items()},
        "attention_head_size": config.head_width,
        "hidden_act": _ACTIVATIONS[config.activation][0],
        "num_buckets": factors[0] if len(factors) == 1 else factors,
        "axial_pos_embds": config.positions == "axial",
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    if config.positions == "axial":
        theirs["axial_pos_shape"], theirs["axial_pos_embds_dim"] = zip(*config.axial_factors, strict=True)
    else:
        del theirs["axial_pos_shape"], theirs["axial_pos_embds_dim"]
    if config.local_attention_dropout is None:
        theirs["local_attention_probs_dropout_prob"] = config.attention_dropout
    for kind, neighbours in (("lsh", config.lsh_neighbours), ("local", config.local_neighbours)):
        theirs[f"{kind}_num_chunks_before"], theirs[f"{kind}_num_chunks_after"] = neighbours
    return theirs


def _check_layers(layers: Any) -> None:
    if not isinstance(layers, list) or not layers or any(layer not in ("local", "lsh") for layer in layers):
        raise ConfigError(f"model.layers = {layers!r} is not supported; a list of 'local' and 'lsh' works")


def _our_activation(name: Any) -> str:
    for ours, theirs in _ACTIVATIONS.items():
        if name in theirs:
            return ours
    known = ", ".join(name for names in _ACTIVATIONS.values() for name in names)
    raise ConfigError(f"model.activation = {name!r} is not supported; these work: {known}")


def _validate(fields: Mapping[str, Any]) -> ModelConfig:
    return load_config(None, {"model": dict(fields), "data.sequence_length": 1}).model


def _with_positions(config: ModelConfig, theirs: Mapping[str, Any]) -> ModelConfig:
    """Add what follows from other fields: the longest sequence, the kind of positions and open bucket counts."""
    changes: dict[str, Any] = {}
    if theirs.get("axial_pos_embds", True):
        assert config.axial_shape is not None
        changes = {"positions": "axial", "max_length": min(config.max_length, math.prod(config.axial_shape))}
    else:
        changes = {"axial_shape": None, "axial_dims": None}
    if config.num_buckets is None:
        length = changes.get("max_length", config.max_length)
        changes["num_buckets"] = _default_buckets(length, config.lsh_window, config.max_length)
    return _validate({**config.model_dump(), **changes})


def _default_buckets(length: int, chunk: int, max_length: int) -> int | tuple[int, int]:
    """What transformers' LSHSelfAttention sets for a sequence of `length`: about two buckets a chunk, a power of two."""
    bits = max(1, (2 * (length // chunk)).bit_length() - 1)
    if 2**bits <= 2 * max(math.isqrt(max_length // chunk), chunk):
        return 2**bits
    return 2 ** (bits // 2), 2 ** (bits - bits // 2)


def _check_writable(config: ModelConfig) -> None:
    for layer in config.layers:
        if layer not in ("local", "lsh"):
            raise ConfigError(
                f"model.layers = {config.layers}: Hugging Face's Reformer has no {layer} layers; local and lsh work"
            )
    for name, works in _FIXED.items():
        value = config.chosen.get(name, getattr(config, name))
        if value != works:
            raise ConfigError(
                f"model.{name} = {value}: Hugging Face's Reformer cannot; {works} works, with other weights"
            )
    if config.positions == "none":
        raise ConfigError("model.positions = none: Hugging Face's Reformer has position embeddings; axial works")
    if "lsh" in config.layers and config.bucket_factors == (1,):
        raise ConfigError(
            f"model.num_buckets = {config.num_buckets}: Hugging Face's Reformer needs an even number; 2 works"
        )
    kinds = (("lsh", config.lsh_mode, config.lsh_neighbours), ("local", config.local_mode, config.local_neighbours))
    for kind, mode, neighbours in kinds:
        if kind in config.layers and mode != "chunked":
            raise ConfigError(
                f"model.{kind}_mode = {mode}: Hugging Face's Reformer attends by chunks; chunked works, with other outputs"
            )
        if kind in config.layers and config.causal and neighbours[1]:
            works = neighbours[0], 0
            raise ConfigError(
                f"model.{kind}_neighbours = {neighbours}: Hugging Face's causal Reformer has none behind; {works} works"
            )
