"""Writing texts from sources with an encoder-decoder: the likeliest token, sampling, or beam search.

In: a model and sources of tokens. Out: for each what the model writes, up to the end that it writes itself. A source is
encoded once; sources of different lengths go together, each written from as it would be alone.

Legend: B batch, S tokens of the longest source, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from reformer_dist.generation.beams import by_beams
from reformer_dist.generation.decoding import Decoder
from reformer_dist.generation.sampling import Numbers, Sampling
from reformer_dist.model.encoder_decoder import EncoderDecoder, SourceTokens

MOST_PER_SOURCE, MOST_BESIDE = 2, 64
"""A text has at most so many tokens for each of its source's, and so many more, unless a number is given."""


@dataclass(frozen=True)
class Search:
    """How a text is chosen.

    Raises:
        ValueError: an option out of range.

    """

    num_beams: int = 1
    """Beginnings that are kept side by side; 1 draws token by token, as `sampling` says."""
    length_penalty: float = 1.0
    """Beams are compared by log probability / ((5 + tokens) / 6)^length_penalty (Wu et al. 2016, equation 14)."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0))
    """With one beam: how tokens are drawn, by default the likeliest."""
    seed: int = 0
    """Of the sampling."""
    num_tokens: int | None = None
    """Most tokens of a text; by default MOST_PER_SOURCE times its source's and MOST_BESIDE, and never more than the model
    has positions."""

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise ValueError(f"num_beams = {self.num_beams} must be at least 1; 4 works")
        if self.num_beams > 1 and self.sampling.temperature > 0:
            raise ValueError(
                f"num_beams = {self.num_beams} does not go with temperature = {self.sampling.temperature}; 0 works"
            )


@torch.no_grad()
def write_from(model: EncoderDecoder, sources: Sequence[Tensor], end: int, search: Search) -> list[list[int]]:
    """The tokens that the model writes for each source, without the end.

    Args:
        model: an encoder-decoder, used in evaluation.
        sources: tokens [S] int64 of each, as in training: behind the one that marks a document's start.
        end: the token that marks a document's start and end.
        search: how tokens are chosen.

    Raises:
        ValueError: no sources, or one that is empty or longer than model.max_source_length.

    """
    check_sources(model, sources)
    device = model.embedding.weight.device
    limits = [_limit(model, len(source), search.num_tokens) for source in sources]
    decoder = Decoder(model, model.encode(_together(sources, device)))
    if search.num_beams > 1:
        return by_beams(decoder, end, search.num_beams, search.length_penalty, search.sampling.num_symbols, limits)
    return _token_by_token(decoder, sources, end, search, limits)


def check_sources(model: EncoderDecoder, sources: Sequence[Tensor]) -> None:
    """Raise ValueError for no sources, or for one that is empty or too long."""
    if not sources:
        raise ValueError("sources are an empty list; one source works")
    longest = model.encoder.config.max_length
    for source in sources:
        if source.dim() != 1 or len(source) == 0:
            raise ValueError(f"a source {tuple(source.shape)} must be [S] with at least one token")
        if len(source) > longest:
            raise ValueError(
                f"a source of {len(source):,} tokens is longer than model.max_source_length = {longest:,}; one of"
                f" {longest:,} or fewer works, with what marks its start"
            )


def _limit(model: EncoderDecoder, source_length: int, num_tokens: int | None) -> int:
    """Most tokens of a text."""
    most = MOST_PER_SOURCE * source_length + MOST_BESIDE if num_tokens is None else num_tokens
    return min(most, model.config.max_length - 1)


def _together(sources: Sequence[Tensor], device: torch.device) -> SourceTokens:
    """Sources of different lengths as a batch; padding is no document."""
    tokens_BS = pad_sequence(list(sources), batch_first=True).to(device)
    if len({len(source) for source in sources}) == 1:
        return SourceTokens(tokens_BS)
    places_S = torch.arange(tokens_BS.shape[1], device=device)
    lengths_B = torch.tensor([len(source) for source in sources], device=device)
    is_token_BS = places_S < lengths_B[:, None]
    return SourceTokens(tokens_BS, torch.where(is_token_BS, places_S, 0), torch.where(is_token_BS, 0, -1))


def _token_by_token(
    decoder: Decoder, sources: Sequence[Tensor], end: int, search: Search, limits: Sequence[int]
) -> list[list[int]]:
    """Texts of which each token is drawn once; rows that have ended leave the batch."""
    texts: list[list[int]] = [[] for _ in limits]
    known = [source.tolist() for source in sources]
    numbers = [Numbers(search.seed, tokens, known[:row].count(tokens)) for row, tokens in enumerate(known)]
    rows = [row for row, limit in enumerate(limits) if limit > 0]
    tokens_B = torch.full((len(limits),), end, dtype=torch.int64, device=decoder.device)
    logits_BV = decoder.read(tokens_B[:, None])[:, 0]
    while rows:
        kept = [texts[row] for row in rows]
        tokens_B = search.sampling.draw(logits_BV, kept, [numbers[row].next() for row in rows])
        going = []
        for place, (row, token) in enumerate(zip(rows, tokens_B.tolist(), strict=True)):
            if token != end:
                texts[row].append(token)
                if len(texts[row]) < limits[row]:
                    going.append(place)
        if len(going) < len(rows):
            rows, places = (
                [rows[place] for place in going],
                torch.tensor(going, device=tokens_B.device, dtype=torch.int64),
            )
            if not rows:
                break
            tokens_B = tokens_B[places]
            decoder.take(places)
        logits_BV = decoder.next(tokens_B)
    return texts
