"""Hugging Face's Reformer checkpoints, read into a ReformerLM and written from one.

In: a folder with config.json and model.safetensors (or its shards and model.safetensors.index.json) of a
ReformerModelWithLMHead or a ReformerForMaskedLM. Out: a ReformerLM with the same logits, buckets and gradients; or the
other way round. Only safetensors are read, never pickles.

Legend: E model dimension, V vocabulary.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reformer_dist.model.huggingface.configuration import read_config, write_config
from reformer_dist.model.reformer import ReformerLM

_BIAS = "lm_head.bias"
_NOT_WEIGHTS = ("mask_value_float16", "mask_value_float32")  # constants that old versions saved with the weights
_POSITIONS = "reformer.embeddings.position_embeddings"
_NAMES = {
    "embedding.weight": "reformer.embeddings.word_embeddings.weight",
    "positions.weight": f"{_POSITIONS}.embedding.weight",
    "output.norm_weight": "reformer.encoder.layer_norm.weight",
    "output.norm_bias": "reformer.encoder.layer_norm.bias",
    "output.weight": "lm_head.decoder.weight",
    "output.bias": _BIAS,
}
_NAMES_IN_A_BLOCK = {
    "attention.norm_weight": "attention.layer_norm.weight",
    "attention.norm_bias": "attention.layer_norm.bias",
    "attention.query_key_weight": "attention.self_attention.query_key.weight",
    "attention.query_weight": "attention.self_attention.query.weight",
    "attention.key_weight": "attention.self_attention.key.weight",
    "attention.value_weight": "attention.self_attention.value.weight",
    "attention.output_weight": "attention.output.dense.weight",
    "feed_forward.norm_weight": "feed_forward.layer_norm.weight",
    "feed_forward.norm_bias": "feed_forward.layer_norm.bias",
    "feed_forward.inner_weight": "feed_forward.dense.dense.weight",
    "feed_forward.inner_bias": "feed_forward.dense.dense.bias",
    "feed_forward.output_weight": "feed_forward.output.dense.weight",
    "feed_forward.output_bias": "feed_forward.output.dense.bias",
}


def from_pretrained(folder: str | Path) -> ReformerLM:
    """Read a checkpoint that transformers wrote; docs/huggingface.md says what becomes of each setting.

    Returns:
        The model in evaluation mode, as transformers returns it; in float64 where weights are, else in float32.

    Raises:
        ValueError: a file is missing or damaged, a setting has no counterpart here, or a weight is missing, unexpected or
            of another shape.

    """
    folder = Path(folder)
    theirs = _read_json(folder / "config.json")
    try:
        config = read_config(theirs)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    weights = _read_weights(folder)
    _choose_bias(weights, theirs.get("transformers_version"), config.vocab_size)
    model = ReformerLM(config)
    if any(x.dtype == torch.float64 for x in weights.values()):
        model = model.double()
    try:
        model.load_state_dict(_to_ours(weights, model))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return model.eval()


def to_pretrained(model: ReformerLM, folder: str | Path) -> None:
    """Write config.json and model.safetensors, from which transformers makes a model of the same logits.

    Raises:
        ValueError: Hugging Face's Reformer cannot compute what the model does.

    """
    theirs = write_config(model.config)
    weights = _without_bias({name: x.detach().cpu() for name, x in model.state_dict().items()})
    theirs["dtype"] = str(weights["embedding.weight"].dtype).removeprefix("torch.")
    shapes = _their_shapes(model)
    named = {_their_name(name): x.reshape(shapes[name]).contiguous() for name, x in weights.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(theirs, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: must hold one JSON object, not a {type(tree).__name__}")
    return tree


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by Hugging Face's names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        weights = _read_tensors(folder / "model.safetensors")
    elif index.exists():
        weights = _read_shards(index)
    else:
        pickled = any(folder.glob("pytorch_model*.bin"))
        hint = "; pytorch_model.bin is a pickle, which is not read: let transformers save it anew" if pickled else ""
        raise ValueError(f"{folder}: holds neither model.safetensors nor {index.name}{hint}")
    return {name: x for name, x in weights.items() if not name.endswith(_NOT_WEIGHTS)}


def _read_shards(index: Path) -> dict[str, Tensor]:
    files = _read_json(index).get("weight_map")
    if not isinstance(files, dict) or any(Path(str(file)).name != file for file in files.values()):
        raise ValueError(f"{index}: weight_map must name a file in the same folder for every weight")
    weights: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        weights |= _read_tensors(index.parent / file)
    for name, file in files.items():
        if name not in weights:
            raise ValueError(f"{index.parent / file}: {name} is missing")
    return weights


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not readable as safetensors: {' '.join(str(error).split())}") from None


def _choose_bias(weights: dict[str, Tensor], version: object, vocab_size: int) -> None:
    """Give the checkpoint the output bias that the version of transformers which wrote it would add.

    Up to version 4 that is lm_head.bias; version 5 still saves it but does not add it.
    """
    bias = weights.pop("lm_head.decoder.bias", None)  # the same parameter's other name
    weights.setdefault(_BIAS, torch.zeros(vocab_size) if bias is None else bias)
    major = str(version or 0).split(".")[0]
    if major.isdigit() and int(major) >= 5:
        weights[_BIAS] = torch.zeros_like(weights[_BIAS])


def _to_ours(weights: dict[str, Tensor], model: ReformerLM) -> dict[str, Tensor]:
    """A state_dict of `model`, every weight checked."""
    weights, shapes, ours = dict(weights), _their_shapes(model), {}
    for name, parameter in model.state_dict().items():
        theirs = _their_name(name)
        x = weights.pop(theirs, None)
        if x is None:
            raise ValueError(f"{theirs} is missing")
        if x.shape != shapes[name]:
            raise ValueError(f"{theirs} has shape {tuple(x.shape)}; config.json asks for {tuple(shapes[name])}")
        if not x.is_floating_point():
            raise ValueError(f"{theirs} is {x.dtype}; float32 works")
        ours[name] = x.reshape(parameter.shape)
    if weights:
        raise ValueError(f"{min(weights)} is not a weight of a Reformer language model with this config.json")
    return ours


def _their_name(name: str) -> str:
    if name.startswith("stack.blocks."):
        layer, inner = name.removeprefix("stack.blocks.").split(".", 1)
        return f"reformer.encoder.layers.{layer}.{_NAMES_IN_A_BLOCK[inner]}"
    if name.startswith("positions.axis_"):
        return f"{_POSITIONS}.weights.{name.removeprefix('positions.axis_')}"
    return _NAMES[name]


def _their_shapes(model: ReformerLM) -> dict[str, torch.Size]:
    """Shapes of Hugging Face's weights by our names: ours, but for axial tables, which broadcast over the other axes."""
    shapes = {name: x.shape for name, x in model.state_dict().items()}
    axes = len(model.config.axial_factors) if model.config.positions == "axial" else 0
    for axis in range(axes):
        length, width = shapes[f"positions.axis_{axis}"]
        shapes[f"positions.axis_{axis}"] = torch.Size((1,) * axis + (length,) + (1,) * (axes - 1 - axis) + (width,))
    return shapes


def _without_bias(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the same logits whose output bias is zero, since transformers 5 saves that bias but does not add it.

    Logits are W (g x + c) + b, where a layer norm's x sums to zero. So W may change by a u' with u = 1 / g, which x does
    not see, and c by d g. The logits stay as they are when a (u' c + 2 E d) + d W g = b.

    Raises:
        ValueError: an element of the last layer norm's weight g is zero.

    """
    names = "output.weight", "output.bias", "output.norm_weight", "output.norm_bias"
    W, b, g, c = (weights[name].double() for name in names)
    if not b.any():
        return dict(weights)
    if not g.all():
        raise ValueError("output.norm_weight has zeros, so that output.bias cannot be given to transformers 5")
    u = 1 / g
    d = max(1.0, 2 * float((u * c).abs().mean()))
    a = (b - d * (W @ g)) / (u @ c + d * len(g))
    changed = W + a[:, None] * u, torch.zeros_like(b), g, c + d * g
    return dict(weights) | {name: x.to(weights[name].dtype) for name, x in zip(names, changed, strict=True)}
