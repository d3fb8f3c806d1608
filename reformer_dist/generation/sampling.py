"""Sampling from a causal Reformer.

In: a model and a prompt of tokens. Out: the prompt and its continuation. A token costs the same at any length, except in
full attention layers.

Legend: B batch, T tokens, V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from reformer_dist.generation.decoding import Decoder
from reformer_dist.model.randomness import Use, make_key
from reformer_dist.model.reformer import ReformerLM


def generate(
    model: ReformerLM,
    prompt: Tensor,
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    num_symbols: int | None = None,
) -> Tensor:
    """Continue a prompt.

    Args:
        model: causal, with lsh_mode window.
        prompt: [B, T] or [T] int64, at least one token.
        num_tokens: tokens to add.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: sample among the k likeliest tokens only.
        top_p: sample among the likeliest tokens that together have this probability (Holtzman et al. 2020).
        seed: of the sampling; the same seed gives the same text.
        num_symbols: tokens from here on are never drawn, as where a tokenizer has fewer than the model.

    Returns:
        [B, T + num_tokens] (or [T + num_tokens]) int64: the prompt and what follows.

    Raises:
        ValueError: an empty prompt, an option out of range, or more tokens than model.max_length.

    """
    prompt_BT = prompt[None] if prompt.dim() == 1 else prompt
    new = list(stream(model, prompt_BT, num_tokens, temperature, top_k, top_p, seed, num_symbols))
    whole = torch.cat([prompt_BT, *(tokens_B[:, None] for tokens_B in new)], dim=1)
    return whole[0] if prompt.dim() == 1 else whole


def stream(
    model: ReformerLM,
    prompt_BT: Tensor,
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    num_symbols: int | None = None,
) -> Iterator[Tensor]:
    """As `generate`, one step [B] at a time, as soon as it is drawn; what is raised is raised at once."""
    _check(model, prompt_BT, num_tokens, temperature, top_k, top_p)
    return _steps(model, prompt_BT, num_tokens, (temperature, top_k, top_p), seed, num_symbols)


def _steps(
    model: ReformerLM,
    prompt_BT: Tensor,
    num_tokens: int,
    options: tuple[float, int | None, float],
    seed: int,
    num_symbols: int | None,
) -> Iterator[Tensor]:
    generator = torch.Generator(prompt_BT.device).manual_seed(make_key(seed, Use.SAMPLING))
    decoder = Decoder(model)
    logits_BV = decoder.read(prompt_BT, only_last=True)[:, -1]
    for index in range(num_tokens):
        tokens_B = draw(logits_BV[:, :num_symbols], *options, generator)
        yield tokens_B
        if index + 1 < num_tokens:
            logits_BV = decoder.read(tokens_B[:, None])[:, -1]


def draw(logits_BV: Tensor, temperature: float, top_k: int | None, top_p: float, generator: torch.Generator) -> Tensor:
    """One token [B] from logits [B, V]."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    logits_BV = logits_BV / temperature
    if top_k is not None and top_k < logits_BV.shape[-1]:
        smallest = logits_BV.topk(top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest, -torch.inf)
    if top_p < 1:
        ordered, order = logits_BV.sort(descending=True)
        probabilities = ordered.softmax(-1)
        beyond = probabilities.cumsum(-1) - probabilities >= top_p
        logits_BV = logits_BV.masked_fill(beyond.gather(1, order.argsort(-1)), -torch.inf)
    return torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)[:, 0]


def _check(
    model: ReformerLM, prompt_BT: Tensor, num_tokens: int, temperature: float, top_k: int | None, top_p: float
) -> None:
    if prompt_BT.dim() != 2 or prompt_BT.shape[1] == 0:
        raise ValueError(f"prompt {tuple(prompt_BT.shape)} must be [B, T] with at least one token")
    if num_tokens < 1:
        raise ValueError(f"num_tokens = {num_tokens} must be at least 1")
    if temperature < 0:
        raise ValueError(f"temperature = {temperature} must not be negative; 1.0 works")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k = {top_k} must be at least 1")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p = {top_p} must be above 0 and at most 1; 0.9 works")
    longest = model.config.max_length
    if prompt_BT.shape[1] > longest:
        raise ValueError(
            f"a prompt of {prompt_BT.shape[1]} tokens needs more than model.max_length = {longest} positions; a shorter one"
            f" works, of {longest} or fewer with what marks its start"
        )
    if prompt_BT.shape[1] + num_tokens - 1 > longest:
        raise ValueError(
            f"a prompt of {prompt_BT.shape[1]} and num_tokens = {num_tokens} need more than model.max_length = {longest} "
            f"positions; num_tokens = {longest + 1 - prompt_BT.shape[1]} works"
        )
