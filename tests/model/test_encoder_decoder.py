"""The encoder-decoder: gradients of plain autograd on both sides, causality, documents, settings that cannot be."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reformer_dist import EncoderDecoder, ModelConfig
from reformer_dist.model.encoder_decoder import SourceTokens
from tests.model.models import OPTIONS, draw_tokens, make_encoder_decoder

LENGTH, SOURCE_LENGTH = 41, 57
DROPOUT = {"attention_dropout": 0.1, "hidden_dropout": 0.2}


def packed_source() -> SourceTokens:
    """Three sources in a row, and padding."""
    documents = torch.tensor([0] * 20 + [1] * 7 + [2] * 26 + [-1] * 4)
    positions = torch.tensor([*range(20), *range(7), *range(26), 0, 0, 0, 0])
    return SourceTokens(draw_tokens(SOURCE_LENGTH, seed=2), positions.expand(3, -1), documents.expand(3, -1))


def packed_target() -> dict[str, Tensor]:
    """Their targets."""
    documents = torch.tensor([0] * 15 + [1] * 9 + [2] * 14 + [-1] * 3)
    positions = torch.tensor([*range(15), *range(9), *range(14), 0, 0, 0])
    return {"positions": positions.expand(3, -1), "documents": documents.expand(3, -1)}


def _labels() -> Tensor:
    labels = draw_tokens(LENGTH, seed=1)
    labels[:, :5], labels[:, -3:] = -100, -100
    return labels


def _backward(model: EncoderDecoder, step: int = 3) -> Tensor:
    loss, count = model.loss(packed_source(), draw_tokens(LENGTH), _labels(), **packed_target(), step=step, first_row=4)
    (loss / count).backward()
    return loss.detach()


def _assert_same(ours: EncoderDecoder, plain: EncoderDecoder) -> None:
    assert _backward(ours) == pytest.approx(_backward(plain).item(), rel=1e-12)
    for (name, p), (_, expected) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert p.grad is not None, name
        assert expected.grad is not None, name
        assert expected.grad.abs().max() > 0, name
        scale = float(expected.grad.abs().max()) + 1e-12
        torch.testing.assert_close(p.grad, expected.grad, rtol=0, atol=1e-10 * scale, msg=name)


@pytest.mark.parametrize("limits", [{}, {"head_elements": 1, "projected_tokens": 7, "cross_scores": 500}], ids=str)
@pytest.mark.parametrize("cross", ["full", "lsh"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True, "positions": "learned", "cross_rotary": False},
        OPTIONS,
        {"keep": ("products",)},
        {"keep": ("streams", "products", "nothing", "projections", "streams"), **OPTIONS},
    ],
    ids=str,
)
def test_gradients_equal_plain_autograd_with_dropout(
    changes: dict[str, Any], cross: str, limits: dict[str, int]
) -> None:
    """The encoder's too, through a decoder that is undone; whole and by pieces and heads."""
    changes = {"cross_attention": cross, **DROPOUT, **changes}
    ours = make_encoder_decoder(limits, **changes).train()
    _assert_same(ours, make_encoder_decoder(reversible=False, **changes).train())


@pytest.mark.parametrize("cross", ["full", "lsh"])
def test_a_token_depends_on_its_past_and_on_its_documents_source_alone(cross: str) -> None:
    model = make_encoder_decoder(cross_attention=cross).eval()
    source, tokens, where = packed_source(), draw_tokens(LENGTH), packed_target()
    before = model(source, tokens, **where)
    changed = tokens.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 17  # of document 1
    after = model(source, changed, **where)
    assert (before[:, 20:24] != after[:, 20:24]).any()
    torch.testing.assert_close(after[:, :20], before[:, :20], rtol=0, atol=0)
    torch.testing.assert_close(after[:, 24:38], before[:, 24:38], rtol=0, atol=1e-13)
    source.tokens_BS[:, 22] = (source.tokens_BS[:, 22] + 1) % 17  # of document 1
    after = model(source, tokens, **where)
    assert (before[:, 15:24] != after[:, 15:24]).any()
    for others in (slice(0, 15), slice(24, 38)):
        torch.testing.assert_close(after[:, others], before[:, others], rtol=0, atol=1e-13)


@pytest.mark.parametrize("cross", ["full", "lsh"])
def test_a_packed_document_is_as_it_is_alone(cross: str) -> None:
    model = make_encoder_decoder(cross_attention=cross, lsh_window=96, num_buckets=1).eval()
    source, tokens = packed_source(), draw_tokens(LENGTH)
    packed = model(source, tokens, **packed_target())
    alone = model(source.tokens_BS[:, 27:53], tokens[:, 24:38])
    torch.testing.assert_close(packed[:, 24:38], alone, rtol=0, atol=1e-10)


def test_encoder_and_decoder_draw_other_weights_and_masks() -> None:
    model = make_encoder_decoder(layers=("local", "lsh"), **DROPOUT)
    own, of_encoder = dict(model.stack.named_parameters()), dict(model.encoder.stack.named_parameters())
    name = "blocks.0.attention.output_weight"
    assert not torch.equal(own[name], of_encoder[name])
    assert model.encoder.config.seed != model.config.seed


def test_cross_rotary_tells_how_far_a_target_is_from_its_source_and_no_more() -> None:
    model = make_encoder_decoder(positions="none", max_source_length=192, max_length=192).eval()
    source, tokens = draw_tokens(SOURCE_LENGTH, seed=2), draw_tokens(LENGTH)

    def logits(of_source: int, of_target: int) -> Tensor:
        sources, targets = (
            torch.arange(first, first + length).expand(3, -1)
            for first, length in ((of_source, SOURCE_LENGTH), (of_target, LENGTH))
        )
        return model(SourceTokens(source, sources), tokens, targets)

    torch.testing.assert_close(logits(70, 70), logits(0, 0), rtol=0, atol=1e-10)
    assert not torch.allclose(logits(70, 0), logits(0, 0))
    model = model.with_settings(cross_rotary=False)
    torch.testing.assert_close(logits(70, 0), logits(0, 0), rtol=0, atol=1e-10)


def test_settings_of_evaluation_keep_the_weights() -> None:
    model = make_encoder_decoder(cross_attention="lsh").eval()
    source, tokens = draw_tokens(SOURCE_LENGTH, seed=2), draw_tokens(LENGTH)
    exact = {"num_hashes": 1, "num_buckets": 1, "lsh_window": 96}
    other, full = (model.with_settings(cross_attention=kind, **exact) for kind in ("lsh", "full"))
    torch.testing.assert_close(other(source, tokens), full(source, tokens), rtol=0, atol=1e-10)
    assert not torch.allclose(model(source, tokens), other(source, tokens))
    with pytest.raises(ValueError, match="adds or takes off an encoder"):
        model.with_settings(encoder_layers=(), max_source_length=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_layers": ("lsh",), "causal": False}, "model.causal = False"),
        ({"max_source_length": 9}, "model.max_source_length = 9 goes with model.encoder_layers"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**changes)


def test_lengths_past_the_longest_are_told() -> None:
    model = make_encoder_decoder()
    with pytest.raises(ValueError, match="max_source_length = 96"):
        model(draw_tokens(97), draw_tokens(5))
    with pytest.raises(ValueError, match="max_length = 128"):
        model(draw_tokens(5), draw_tokens(129))
    with pytest.raises(ValueError, match="encoder_layers are none"):
        EncoderDecoder(ModelConfig())
