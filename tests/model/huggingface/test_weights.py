"""Checkpoints that transformers writes give the same logits, buckets and gradients here, and the other way round.

Rows of padding are left out: Hugging Face lets them attend to real tokens, and no one reads them.
"""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    ReformerConfig,
    ReformerModelWithLMHead,
)
from transformers.activations import ACT2FN

from reformer_dist import ModelConfig, ReformerLM
from reformer_dist.model.huggingface.configuration import read_config
from reformer_dist.model.huggingface.weights import from_pretrained, to_pretrained
from reformer_dist.model.layers.feed_forward import ACTIVATIONS
from tests.model.huggingface.checkpoints import BASE, CHECKPOINTS, Checkpoint, Results, our_results, their_results

TOLERANCES = {torch.float32: (1e-5, 1e-4, 1e-6), torch.float64: (1e-10, 1e-9, 1e-10)}
"""Of logits, and of gradients as a share of the parameter's largest one and beyond it; see `allowed`."""


def nudged(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose weights are changed by their last bit, so that its results change by as much as rounding does."""
    copy, generator = deepcopy(model), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in copy.parameters():
            up = torch.rand(weight.shape, generator=generator) < 0.5
            weight *= 1 + torch.finfo(weight.dtype).eps * torch.where(up, 1, -1)
    return copy


def allowed(tolerance: float, expected: torch.Tensor, moved: torch.Tensor) -> float:
    """The tolerance and the largest change by a nudge, which may at most double it."""
    return tolerance + min(tolerance, float((moved - expected).detach().abs().max()))


def assert_same(ours: Results, theirs: Results, moved: Results, real: torch.Tensor) -> None:
    """Compare at the `real` tokens [B, T]; `moved` is of their model nudged."""
    logits_atol, gradients_rtol, gradients_atol = TOLERANCES[theirs.logits.dtype]
    atol = allowed(logits_atol, theirs.logits[real], moved.logits[real])
    torch.testing.assert_close(ours.logits[real], theirs.logits[real], rtol=0, atol=atol)
    for layer, buckets in theirs.buckets.items():
        where = real[:, None, None].expand_as(buckets)
        assert torch.equal(ours.buckets[layer][where].long(), buckets[where]), f"buckets of layer {layer}"
    assert ours.gradients.keys() - theirs.gradients.keys() == {"lm_head.bias"}  # which transformers 5 does not add
    for name, gradient in theirs.gradients.items():
        tolerance = gradients_atol + gradients_rtol * float(gradient.abs().max())
        atol = allowed(tolerance, gradient, moved.gradients[name])
        torch.testing.assert_close(ours.gradients[name].view_as(gradient), gradient, rtol=0, atol=atol, msg=name)


def check(checkpoint: Checkpoint, theirs: PreTrainedModel, ours: ReformerLM) -> None:
    tokens, labels, mask = checkpoint.inputs()
    moved = their_results(nudged(theirs), tokens, labels, mask)
    expected = their_results(theirs, tokens, labels, mask)
    for kernel in ("auto", "plain"):
        model = ours.with_settings(attention_kernel=kernel)
        assert_same(our_results(model, tokens, labels, mask), expected, moved, labels != -100)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=str)
def test_a_checkpoint_computes_the_same(checkpoint: Checkpoint, dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = checkpoint.model(dtype)
    theirs.save_pretrained(tmp_path)
    check(checkpoint, theirs, from_pretrained(tmp_path))


@pytest.mark.parametrize("shape", [[8, 16], [8, 4, 4]], ids=str)
def test_training_computes_the_same(shape: list[int], tmp_path: Path) -> None:
    """In training transformers wants whole sequences; three axes work there alone."""
    no_dropout = {f"{name}_prob": 0.0 for name in ("hidden_dropout", "local_attention_probs_dropout")}
    dims = [3, 5] if len(shape) == 2 else [2, 2, 4]
    checkpoint = Checkpoint(128, settings={"axial_pos_shape": shape, "axial_pos_embds_dim": dims, **no_dropout})
    theirs = checkpoint.model().train()
    theirs.save_pretrained(tmp_path)
    check(checkpoint, theirs, from_pretrained(tmp_path).train())


def test_long_lists_are_attended_stretch_by_stretch(tmp_path: Path) -> None:
    """A token that sees nothing else in any round mixes them by scores of -1e5, whose rounding shows in float32."""
    checkpoint = Checkpoint(40, settings={"num_hashes": 3})
    theirs = checkpoint.model()
    theirs.save_pretrained(tmp_path)
    whole = from_pretrained(tmp_path)
    ours = ReformerLM(whole.config, replace(whole.budget, stretch_entries=8)).train(whole.training)
    ours.load_state_dict(whole.state_dict())
    check(checkpoint, theirs, ours)


@pytest.mark.parametrize(("chunk", "length"), [(4, 128), (2, 128), (64, 128), (128, 128)])
def test_open_num_buckets_are_those_of_the_longest_sequence(chunk: int, length: int, tmp_path: Path) -> None:
    checkpoint = Checkpoint(length, settings={"num_buckets": None, "lsh_attn_chunk_length": chunk})
    theirs = checkpoint.model()
    theirs.save_pretrained(tmp_path)
    check(checkpoint, theirs, from_pretrained(tmp_path))


@pytest.mark.parametrize(
    "name", [name for name in ACT2FN if name not in ("gelu_10", "laplace", "prelu", "sqrtsoftplus", "xielu")]
)
def test_activations(name: str) -> None:
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    ours = ACTIVATIONS[read_config({**BASE, "hidden_act": name}).activation](x)
    torch.testing.assert_close(ours, ACT2FN[name](x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("version", "adds"), [("5.23.0", False), ("4.57.1", True), (None, True)])
def test_the_output_bias_is_added_if_the_version_that_wrote_it_adds_it(
    version: str | None, adds: bool, tmp_path: Path
) -> None:
    theirs = Checkpoint(9).model()
    theirs.save_pretrained(tmp_path)
    change_config(tmp_path, transformers_version=version)
    tokens = torch.arange(9)[None]
    expected = theirs(tokens).logits + (theirs.lm_head.bias if adds else 0)
    torch.testing.assert_close(from_pretrained(tmp_path)(tokens), expected, rtol=0, atol=1e-5)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    tree = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in tree.items() if value is not None}))


OURS = ModelConfig(
    vocab_size=19,
    embed_dim=12,
    num_heads=3,
    feed_forward_dim=17,
    layers=("lsh", "local", "lsh"),
    max_length=80,
    num_hashes=3,
    num_buckets=(2, 4),
    lsh_mode="chunked",
    lsh_window=6,
    local_mode="chunked",
    local_window=4,
    attention_dropout=0.1,
    hash_seed=3,
)
EXPORTS = [
    {},
    {"causal": False, "lsh_neighbours": (1, 1), "local_neighbours": (2, 1)},
    {"positions": "learned", "head_dim": 5, "activation": "gelu_tanh", "num_buckets": None},
    {"layers": ("local",), "local_attention_dropout": 0.2, "feed_forward_chunk": 7, "loss_chunk": 7},
    {"layers": ("lsh",), "axial_shape": (4, 20), "axial_dims": (2, 10), "layer_norm_eps": 1e-3, "num_buckets": 8},
]


def random_model(changes: dict[str, Any], dtype: torch.dtype) -> ReformerLM:
    """A model with no weight at its initial value, as after training; transformers loads axial tables as float32."""
    model = ReformerLM(ModelConfig(**{**OURS.model_dump(), **changes}))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("changes", EXPORTS, ids=str)
def test_transformers_loads_what_is_written(changes: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    model = random_model(changes, dtype)
    to_pretrained(model, tmp_path)
    automatic = AutoModelForCausalLM if model.config.causal else AutoModelForMaskedLM
    theirs, problems = automatic.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(problems.values())
    assert not theirs.lm_head.bias.any()  # which transformers 5 would not add
    moved = nudged(theirs)
    for length in (3, 23, 60):
        tokens = torch.randint(19, (2, length), generator=torch.Generator().manual_seed(length))
        expected = theirs(tokens).logits
        atol = allowed(TOLERANCES[dtype][0], expected, moved(tokens).logits)
        torch.testing.assert_close(model(tokens), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("changes", EXPORTS, ids=str)
def test_what_is_written_is_read_again(changes: dict[str, Any], tmp_path: Path) -> None:
    model = random_model(changes, torch.float32)
    with torch.no_grad():
        model.output.bias.zero_()
    to_pretrained(model, tmp_path / "a")
    again = from_pretrained(tmp_path / "a")
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    to_pretrained(again, tmp_path / "b")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_settings_come_over(tmp_path: Path) -> None:
    """Those that change no logits in evaluation."""
    config = ReformerConfig(
        **BASE,
        hidden_dropout_prob=0.1,
        local_attention_probs_dropout_prob=0.2,
        lsh_attention_probs_dropout_prob=0.3,
        chunk_size_feed_forward=32,
        chunk_size_lm_head=16,
    )
    ReformerModelWithLMHead(config).save_pretrained(tmp_path)
    model = from_pretrained(tmp_path)
    ours = model.config
    assert (ours.hidden_dropout, ours.local_attention_dropout, ours.attention_dropout) == (0.1, 0.2, 0.3)
    assert (ours.feed_forward_chunk, ours.loss_chunk) == (32, 16)
    assert not model.training
