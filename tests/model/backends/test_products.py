"""Products by oneDNN are those of torch, and which library serves is no matter of chance."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from reformer_dist.model.backends import products
from reformer_dist.model.backends.products import linear


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor on which oneDNN serves, wherever this runs."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "is_faster_here", lambda: True)


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_large_product_and_its_gradients_are_torchs(with_bias: bool) -> None:
    """Of a piece of a batch, whose rows lie apart."""
    generator = torch.Generator().manual_seed(0)
    whole, weight = torch.randn(3, 2048, 160, generator=generator), torch.randn(96, 160, generator=generator)
    bias = torch.randn(96, generator=generator) if with_bias else None
    found = []
    for function in (linear, functional.linear):
        leaves = [x.detach().clone().requires_grad_() for x in (whole, weight, bias) if x is not None]
        out = function(leaves[0][:, 5:1500], *leaves[1:])
        (out * torch.linspace(-1, 1, 96)).square().sum().backward()
        found.append([out.detach(), *(x.grad for x in leaves)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.usefixtures("stranger")
def test_what_it_does_not_serve_is_torchs_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_onednn", None)
    for shape, dtype in (((4, 8), torch.float32), ((4096, 128), torch.float64), ((4096, 128), torch.bfloat16)):
        x = torch.randn(shape).to(dtype)
        weight = torch.randn(64, shape[1]).to(dtype)
        assert torch.equal(linear(x, weight), functional.linear(x, weight))
    x, weight = torch.randn(4096, 128), torch.randn(64, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


@pytest.mark.parametrize(("vendor", "is_faster"), [("AuthenticAMD", True), ("GenuineIntel", False), (None, False)])
def test_the_processor_decides(vendor: str | None, is_faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, **how: object) -> str:
        if vendor is None:
            raise FileNotFoundError(path)
        return f"vendor_id\t: {vendor}\n"

    monkeypatch.setattr(Path, "read_text", read)
    assert products.is_faster_here.__wrapped__() == (is_faster and torch.backends.mkldnn.is_available())
