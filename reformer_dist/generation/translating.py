"""Texts written from texts, as a translation or a summary is: what callers outside this package use."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from reformer_dist.config.sections.generation import GenerationConfig
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.generation.sampling import Sampling
from reformer_dist.generation.writing_from_sources import Search, write_from
from reformer_dist.model.encoder_decoder import EncoderDecoder


def translate(
    model: EncoderDecoder,
    texts: Sequence[str],
    num_beams: int = 1,
    length_penalty: float = 1.0,
    num_tokens: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
) -> list[str]:
    """What a model writes for each text: its translation, its summary, its answer, whatever it was trained on.

    Args:
        model: one that `load_model` gave, trained with the objective pairs.
        texts: the sources.
        num_beams: see `Search`, as the next one.
        length_penalty: see `Search`.
        num_tokens: most tokens of a text; by default twice its source's and 64.
        temperature: of drawing tokens with one beam; 0 takes the likeliest.
        top_k: see `Sampling`, as the next one.
        top_p: see `Sampling`.
        seed: of the sampling; the same seed gives the same texts.
        batch_size: sources that are encoded and written from at a time.

    Raises:
        ValueError: a model without an encoder; a source that is too long, or that the tokenizer does not take; an option out
            of range.

    """
    if not isinstance(model, EncoderDecoder):
        raise ValueError(
            f"model.encoder_layers are none of this {type(model).__name__}, which can only go on with a text: generate works"
        )
    tokenizer = model.tokenizer
    sampling = Sampling(temperature, top_k, top_p, num_symbols=tokenizer.vocab_size)
    search = Search(num_beams, length_penalty, sampling, seed, num_tokens)
    return list(written(model, tokenizer, texts, search, batch_size))


def written(
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    search: Search,
    batch_size: int = 32,
) -> Iterator[str]:
    """The same, one by one; texts of like lengths are written together, and come in order."""
    sources = [source_of(tokenizer, text) for text in texts]
    found: dict[int, str] = {}
    order = sorted(range(len(texts)), key=lambda index: len(sources[index]))
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        rows = write_from(model, [sources[index] for index in batch], tokenizer.boundary, search)
        found |= {index: tokenizer.decode(row) for index, row in zip(batch, rows, strict=True)}
    for index in range(len(texts)):
        yield found[index]


def search_of(options: GenerationConfig, num_symbols: int) -> Search:
    """How texts are written from sources; the likeliest ones, of any length, where the options do not say."""
    sampling = Sampling(
        options.temperature or 0.0,
        options.top_k,
        options.top_p,
        options.min_p,
        options.repetition_penalty,
        options.repetition_window,
        num_symbols,
    )
    return Search(options.num_beams, options.length_penalty, sampling, options.seed, options.num_tokens)


def source_of(tokenizer: Tokenizer, text: str) -> Tensor:
    """A source's tokens [S] behind the one that marks a document's start.

    Raises:
        ValueError: text that the tokenizer does not take.

    """
    return torch.tensor([tokenizer.boundary, *tokenizer.encode(text)], dtype=torch.int64)
