"""Continuing prompts, several at a time, each as it would be alone.

In: a causal model and prompts of tokens or of text. Out: the prompts and what follows, or tokens as they are drawn. A token
costs the same at any length, except in full attention layers.

Legend: B batch, T tokens.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from reformer_dist.generation.decoding import Decoder, Read, read_alone
from reformer_dist.generation.sampling import Numbers, Sampling
from reformer_dist.model.reformer import ReformerLM

Prompts = TypeVar("Prompts", Tensor, str, list[Tensor], list[str])


def generate(
    model: ReformerLM,
    prompt: Prompts,
    num_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    num_symbols: int | None = None,
    prefix: str | None = None,
    **options: Any,
) -> Prompts:
    """Continue a prompt, or several of different lengths, each as it would be alone.

    Args:
        model: causal, with lsh_mode window; for text one that `load_model` gave.
        prompt: tokens [T] or [B, T] int64, at least one, or a text, or a list of either.
        num_tokens: tokens to add.
        temperature: see `Sampling`, as the others.
        top_k: see `Sampling`.
        top_p: see `Sampling`.
        seed: of the sampling; the same seed gives the same text.
        num_symbols: see `Sampling`; of text the tokenizer's.
        prefix: of text alone, for a model trained with the objective prefix: what stands before each prompt.
        options: min_p, repetition_penalty and repetition_window, see `Sampling`.

    Returns:
        The prompt and what follows, as the prompt was given: [T + num_tokens] or [B, T + num_tokens], or text, or a list.

    Raises:
        ValueError: an empty prompt, an option out of range, or more tokens than model.max_length.

    """
    several: list[Any] = list(prompt) if isinstance(prompt, list) or _is_batch(prompt) else [prompt]
    tokenizer = model.tokenizer if any(isinstance(row, str) for row in several) else None
    if tokenizer is not None:
        num_symbols = tokenizer.vocab_size
    sampling: Sampling = Sampling(temperature, top_k, top_p, num_symbols=num_symbols, **options)
    rows: list[Tensor] = [row if tokenizer is None else encoded(tokenizer, row, prefix) for row in several]
    added_BT = torch.stack([*stream(model, rows, num_tokens, sampling, seed)], dim=1)
    whole: list[Any] = [torch.cat([row, new]) for row, new in zip(rows, added_BT, strict=True)]
    if tokenizer is not None:
        num_before = len(encoded(tokenizer, "", prefix))
        whole = [tokenizer.decode(tokens[num_before:].tolist()) for tokens in whole]
    if isinstance(prompt, list):
        return cast(Prompts, whole)
    return cast(Prompts, torch.stack(whole) if _is_batch(prompt) else whole[0])


def _is_batch(prompt: object) -> bool:
    """Whether it is tokens [B, T]."""
    return isinstance(prompt, Tensor) and prompt.dim() == 2


def encoded(tokenizer: Any, text: str, prefix: str | None = None) -> Tensor:
    """A prompt's tokens [T] behind the one that marks a document's start, and behind a prefix and that token again.

    Raises:
        ValueError: text that the tokenizer does not take.

    """
    start = [] if prefix is None else [tokenizer.boundary, *tokenizer.encode(prefix)]
    return torch.tensor([*start, tokenizer.boundary, *tokenizer.encode(text)], dtype=torch.int64)


def stream(
    model: ReformerLM,
    prompts: Sequence[Tensor],
    num_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    read: Read | None = None,
) -> Iterator[Tensor]:
    """The tokens that follow the prompts, each [T] int64, one step [B] at a time, as soon as it is drawn.

    What is wrong is raised at once. Prompts are read by `read`, by default in this process.
    """
    if not prompts:
        raise ValueError("prompts are an empty list; one prompt works")
    for prompt_T in prompts:
        check_prompt(model, prompt_T, num_tokens)
    Decoder(model)  # or there is none, which is to be told now
    return _steps(read or read_alone(model), prompts, num_tokens, sampling, seed)


def _steps(
    read_prompt: Read, prompts: Sequence[Tensor], num_tokens: int, sampling: Sampling, seed: int
) -> Iterator[Tensor]:
    read = [prompt_T.tolist() for prompt_T in prompts]
    copies: Counter[tuple[int, ...]] = Counter()
    numbers = []
    for tokens in read:
        numbers.append(Numbers(seed, tokens, copies[tuple(tokens)]))
        copies[tuple(tokens)] += 1
    decoders, logits = zip(*map(read_prompt, prompts), strict=True)
    logits_BV, decoder = torch.cat(logits), decoders[0]
    decoder.extend(decoders[1:])
    for index in range(num_tokens):
        tokens_B = sampling.draw(logits_BV, read, [of_row.next() for of_row in numbers])
        yield tokens_B
        for row, token in zip(read, tokens_B.tolist(), strict=True):
            row.append(token)
        if index + 1 < num_tokens:
            logits_BV = decoder.next(tokens_B)


def check_prompt(model: ReformerLM, prompt_T: Tensor, num_tokens: int) -> None:
    """Raise ValueError for a prompt that is empty or, with what is to follow, too long."""
    if prompt_T.dim() != 1 or len(prompt_T) == 0:
        raise ValueError(f"a prompt {tuple(prompt_T.shape)} must be [T] with at least one token")
    if num_tokens < 1:
        raise ValueError(f"num_tokens = {num_tokens} must be at least 1")
    longest = model.config.max_length
    if len(prompt_T) > longest:
        raise ValueError(
            f"a prompt of {len(prompt_T)} tokens needs more than model.max_length = {longest} positions; a shorter one"
            f" works, of {longest} or fewer with what marks its start"
        )
    if len(prompt_T) + num_tokens - 1 > longest:
        raise ValueError(
            f"a prompt of {len(prompt_T)} and num_tokens = {num_tokens} need more than model.max_length = {longest} "
            f"positions; num_tokens = {longest + 1 - len(prompt_T)} works"
        )
