"""The convolution equals torch's, within documents, and what decoding keeps of its input."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from reformer_dist import ModelConfig
from reformer_dist.model.layers.convolution import WEIGHT, convolve


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"embed_dim": 6, "num_heads": 1, **changes})


def reference(x_BTE: Tensor, weight_E1K: Tensor, documents_BT: Tensor | None, reach: tuple[int, int]) -> Tensor:
    """Torch's convolution of each document by itself."""
    out = x_BTE.clone()
    for row in range(x_BTE.shape[0]):
        documents = torch.zeros(x_BTE.shape[1]) if documents_BT is None else documents_BT[row]
        for document in documents[documents >= 0].unique():
            here = documents == document
            padded = pad(x_BTE[row, here].T[None], reach)
            out[row, here] += conv1d(padded, weight_E1K, groups=x_BTE.shape[2])[0].T
    return out


@pytest.mark.parametrize("kernel", ["auto", "plain"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("width", [1, 2, 4, 5])
def test_equals_torchs(width: int, causal: bool, packed: bool, kernel: str) -> None:
    config = make_config(convolution=width, causal=causal, attention_kernel=kernel)
    x, weight = draw(2, 9, 6), draw(6, 1, width, seed=1)
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 3, 3], [0, 1, 1, 1, 1, 1, 1, -1, -1]]) if packed else None
    found = convolve(x, {WEIGHT: weight}, documents, config)
    torch.testing.assert_close(found, reference(x, weight, documents, config.convolution_reach))


@pytest.mark.parametrize("kernel", ["auto", "plain"])
@pytest.mark.parametrize("causal", [True, False])
def test_gradients(causal: bool, kernel: str) -> None:
    config, documents = (
        make_config(convolution=3, causal=causal, attention_kernel=kernel),
        torch.tensor([[0, 0, 1, 1, 1]]),
    )

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return convolve(x, {WEIGHT: weight}, documents, config)

    assert torch.autograd.gradcheck(run, [draw(1, 5, 6).requires_grad_(), draw(6, 1, 3, seed=1).requires_grad_()])


def test_tokens_fewer_than_the_width() -> None:
    config = make_config(convolution=4)
    x, weight = draw(1, 2, 6), draw(6, 1, 4, seed=1)
    expected = reference(x, weight, None, config.convolution_reach)
    torch.testing.assert_close(convolve(x, {WEIGHT: weight}, None, config), expected)


def test_a_width_of_none_changes_nothing() -> None:
    x = draw(1, 2, 6)
    assert convolve(x, {}, None, make_config(convolution=0)) is x


def test_published_modes_have_none_by_default() -> None:
    assert make_config().convolution_width == 4
    assert make_config(lsh_mode="chunked").convolution_width == 0
    assert make_config(local_mode="chunked", convolution=2).convolution_width == 2


def test_many_tokens_have_the_readable_forms_gradients() -> None:
    """More than are summed together, in both forms."""
    x, weight, grads = draw(2, 700, 6), draw(6, 1, 4, seed=1), []
    for kernel in ("auto", "plain"):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        config = make_config(convolution=4, attention_kernel=kernel)
        convolve(leaves[0], {WEIGHT: leaves[1]}, None, config).square().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for ours, plain in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain)
