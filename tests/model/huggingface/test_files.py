"""Damaged, foreign and sharded checkpoints, and models that Hugging Face cannot express: each mistake is one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reformer_dist import ModelConfig, ReformerLM
from reformer_dist.model.huggingface.weights import from_pretrained, to_pretrained

CONFIG = ModelConfig(
    vocab_size=11,
    embed_dim=8,
    num_heads=2,
    feed_forward_dim=9,
    layers=("local", "lsh"),
    max_length=32,
    num_buckets=4,
    lsh_mode="chunked",
    lsh_window=4,
    local_mode="chunked",
    local_window=4,
)
QUERY = "reformer.encoder.layers.0.attention.self_attention.query.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    to_pretrained(ReformerLM(CONFIG), tmp_path)
    return tmp_path


def refused(folder: Path) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(ValueError, match=re.escape(str(folder))) as caught:
        from_pretrained(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


def change_config(folder: Path, **changes: Any) -> None:
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, **changes}))


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    weights = {**load_file(folder / "model.safetensors"), **changes}
    kept = {name: x for name, x in weights.items() if x is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def make_shards(folder: Path) -> dict[str, str]:
    """Cut the weights into two files with an index, as save_pretrained(max_shard_size=...) does; returns the index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    files = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    write_index(folder, files)
    (folder / "model.safetensors").unlink()
    return files


def write_index(folder: Path, files: dict[str, str]) -> None:
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "bert"),
        ("hidden_act", "laplace"),
        ("hidden_act", None),
        ("attn_layers", ["local", "full"]),
        ("attn_layers", []),
        ("attn_layers", "lsh"),
        ("num_buckets", 5),
        ("num_buckets", [4, "many"]),
        ("num_hashes", 0),
        ("hidden_size", "wide"),
        ("vocab_size", None),
        ("layer_norm_eps", -1.0),
        ("lsh_attn_chunk_length", None),
        ("lsh_num_chunks_before", -1),
        ("axial_pos_embds_dim", [3, 3]),
        ("axial_pos_shape", 32),
        ("max_position_embeddings", "long"),
        ("chunk_size_lm_head", -2),
        ("local_attention_probs_dropout_prob", 1.5),
        ("hash_seed", -1),
    ],
)
def test_a_setting_without_a_counterpart(folder: Path, field: str, value: Any) -> None:
    change_config(folder, **{field: value})
    text = refused(folder)
    assert "config.json: " in text
    assert field in text
    assert "model." not in text.replace("model.safetensors", "")


def test_files(folder: Path) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:5], whole[:200], whole[:-8], b"\xff" * 64):
        weights.write_bytes(damaged)
        assert "model.safetensors: not readable as safetensors" in refused(folder)
    weights.unlink()
    assert "holds neither model.safetensors nor model.safetensors.index.json" in refused(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "pickle" in refused(folder)
    for damaged in (b"{", b"[]", b"\xff"):
        config.write_bytes(damaged)
        assert "config.json: " in refused(folder)
    config.unlink()
    assert "config.json: no such file" in refused(folder)


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (None, "is missing"),
        (torch.zeros(8, 7), "has shape (8, 7); config.json asks for (8, 8)"),
        (torch.zeros(8, 8, dtype=torch.int8), "is torch.int8"),
    ],
)
def test_a_weight_that_does_not_fit(folder: Path, weight: torch.Tensor | None, says: str) -> None:
    change_weights(folder, **{QUERY: weight})
    assert f"{QUERY} {says}" in refused(folder)


def test_a_weight_that_nothing_takes(folder: Path) -> None:
    change_weights(folder, classifier=torch.zeros(2))
    assert "classifier is not a weight" in refused(folder)


def test_what_old_versions_saved_beside_the_weights(folder: Path) -> None:
    """Constants of the masks, and the output bias under its other name."""
    weights = load_file(folder / "model.safetensors")
    bias = torch.randn(11)
    mask = f"{QUERY.removesuffix('query.weight')}mask_value_float16"
    change_weights(folder, **{mask: torch.tensor(-1e4), "lm_head.bias": None, "lm_head.decoder.bias": bias})
    model = from_pretrained(folder)
    assert torch.equal(model.output.bias, bias)
    assert torch.equal(model.output.weight, weights["lm_head.decoder.weight"])


def test_half_precision_becomes_single(folder: Path) -> None:
    halves = {name: x.half() for name, x in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors")
    for name, weight in from_pretrained(folder).state_dict().items():
        assert weight.dtype == torch.float32, name


def test_shards(folder: Path) -> None:
    expected = from_pretrained(folder).state_dict()
    make_shards(folder)
    for name, weight in from_pretrained(folder).state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_damaged_shards(folder: Path) -> None:
    files = make_shards(folder)
    write_index(folder, {**files, "lost.weight": files[QUERY]})
    assert f"{files[QUERY]}: lost.weight is missing" in refused(folder)
    write_index(folder, {**files, QUERY: "../elsewhere.safetensors"})
    assert "index.json: weight_map" in refused(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "index.json: weight_map" in refused(folder)
    write_index(folder, files)
    (folder / files[QUERY]).unlink()
    assert f"{files[QUERY]}: no such file" in refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"lsh_mode": "window"},
        {"local_mode": "window"},
        {"layers": ("local", "full")},
        {"tie_embeddings": True},
        {"rotary": True},
        {"convolution": 3},
        {"gated": True},
        {"norm": "rms"},
        {"query_key_norm": True},
        {"logit_cap": 30.0},
        {"positions": "none"},
        {"num_buckets": 1},
        {"lsh_neighbours": (1, 1)},
        {"local_neighbours": (1, 1)},
    ],
    ids=str,
)
def test_a_model_that_hugging_face_cannot_express(changes: dict[str, Any], tmp_path: Path) -> None:
    (field,) = changes
    model = ReformerLM(CONFIG.model_copy(update=changes))
    with pytest.raises(ValueError, match=rf"model\.{field} = .* work") as caught:
        to_pretrained(model, tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()
