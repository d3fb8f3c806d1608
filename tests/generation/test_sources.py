"""Writing from sources: decoding equals teacher forcing, rows of a batch are as alone, beams find the likeliest text."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from reformer_dist import EncoderDecoder, translate
from reformer_dist.generation.decoding import Decoder
from reformer_dist.generation.sampling import Sampling
from reformer_dist.generation.writing_from_sources import Search, write_from
from tests.model.models import OPTIONS, VOCABULARY, draw_tokens, make_encoder_decoder, make_model

LENGTH = 45
END = 0


@pytest.mark.parametrize("cross", ["full", "lsh"])
@pytest.mark.parametrize(
    "changes", [{}, {"positions": "learned", "tie_embeddings": True, "cross_rotary": False}, OPTIONS], ids=str
)
@pytest.mark.parametrize("num_read", [1, 20])
def test_decoding_equals_teacher_forcing(changes: dict[str, Any], cross: str, num_read: int) -> None:
    model = make_encoder_decoder(cross_attention=cross, **changes).eval()
    source, tokens = draw_tokens(60, seed=4), draw_tokens(LENGTH)
    decoder = Decoder(model, model.encode(source))
    found = [
        decoder.read(tokens[:, :num_read]),
        *(decoder.next(each)[:, None] for each in tokens[:, num_read:].unbind(1)),
    ]
    torch.testing.assert_close(torch.cat(found, dim=1), model(source, tokens), rtol=0, atol=1e-10)


def _sources() -> list[Tensor]:
    return [draw_tokens(length, batch=1, seed=length)[0] for length in (31, 1, 60, 12)]


@pytest.mark.parametrize("cross", ["full", "lsh"])
@pytest.mark.parametrize(
    "search", [Search(), Search(3, 0.6), Search(sampling=Sampling(1.0, top_p=0.9), seed=3)], ids=str
)
def test_sources_of_different_lengths_are_written_from_as_alone(cross: str, search: Search) -> None:
    model = make_encoder_decoder(cross_attention=cross, output_scale=3.0).eval()
    together = write_from(model, _sources(), END, replace(search, num_tokens=25))
    assert together == [write_from(model, [source], END, replace(search, num_tokens=25))[0] for source in _sources()]
    assert len({len(text) for text in together}) > 1, "some end before others"
    assert max(map(len, together)) <= 25


def test_extended_decoders_go_on_as_each_alone() -> None:
    model = make_encoder_decoder(cross_attention="lsh").eval()
    tokens = draw_tokens(9, batch=4)
    alone = [Decoder(model, model.encode(source[None])) for source in _sources()]
    expected = torch.cat([decoder.read(row[None]) for decoder, row in zip(alone, tokens, strict=True)])
    first, *others = [Decoder(model, model.encode(source[None])) for source in _sources()]
    for decoder, row in zip([first, *others], tokens, strict=True):
        decoder.read(row[None, :4])
    first.extend(others)
    rows = torch.tensor([3, 0, 1, 2])
    first.take(rows)
    found = torch.stack([first.next(each) for each in tokens[rows, 4:].unbind(1)], dim=1)
    torch.testing.assert_close(found, expected[rows, 4:], rtol=0, atol=1e-10)


@torch.no_grad()
def _log_probability(model: EncoderDecoder, source: Tensor, text: tuple[int, ...], num_symbols: int) -> float:
    tokens = torch.tensor([[END, *text]])
    logs = model(source[None], tokens)[0, :, :num_symbols].log_softmax(-1)
    labels = torch.tensor([*text, END])
    return float(logs.gather(1, labels[:, None]).sum())


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_enough_beams_find_the_likeliest_text_of_all(penalty: float) -> None:
    """Of all texts of up to three tokens out of four, by their probability and the penalty of their length."""
    model, num_symbols = make_encoder_decoder(output_scale=2.0).eval(), 4
    source = draw_tokens(20, batch=1, seed=9)[0]
    texts = [text for length in range(4) for text in itertools.product(range(1, num_symbols), repeat=length)]

    def score(text: tuple[int, ...]) -> float:
        # A text of the greatest length is not asked for its end.
        logs = _log_probability(model, source, text, num_symbols)
        if len(text) == 3:
            tokens = torch.tensor([[END, *text]])
            logs -= float(model(source[None], tokens)[0, -1, :num_symbols].detach().log_softmax(-1)[END])
        return logs / ((5 + len(text) + (len(text) < 3)) / 6) ** penalty

    search = Search(27, penalty, Sampling(0.0, num_symbols=num_symbols))
    assert tuple(write_from(model, [source], END, replace(search, num_tokens=3))[0]) == max(texts, key=score)


def test_the_likeliest_token_is_what_one_beam_takes() -> None:
    model = make_encoder_decoder(output_scale=3.0).eval()
    source = draw_tokens(20, batch=1, seed=9)[0]
    (text,) = write_from(model, [source], END, Search(num_tokens=12))
    tokens = [END]
    for _ in range(12):
        tokens.append(int(model(source[None], torch.tensor([tokens]))[0, -1].argmax()))
        if tokens[-1] == END:
            break
    assert [END, *text] == (tokens[:-1] if tokens[-1] == END else tokens)
    assert max(tokens) < VOCABULARY


def test_what_cannot_be_written_from_is_told() -> None:
    model = make_encoder_decoder()
    with pytest.raises(ValueError, match="sources are an empty list"):
        write_from(model, [], END, Search())
    with pytest.raises(ValueError, match=r"a source of 97 tokens is longer than model\.max_source_length = 96"):
        write_from(model, [draw_tokens(97, batch=1)[0]], END, Search())
    with pytest.raises(ValueError, match="must be \\[S\\] with at least one token"):
        write_from(model, [draw_tokens(1, batch=1)[0][:0]], END, Search())
    language_model: Any = make_model()
    with pytest.raises(ValueError, match=r"model\.encoder_layers are none of this ReformerLM"):
        translate(language_model, ["one"])
    with pytest.raises(ValueError, match=r"num_beams = 4 does not go with temperature = 1\.0; 0 works"):
        Search(4, sampling=Sampling())
