"""Settings from a limit of memory, by the formula: a budget, or what layers keep.

In: a worker's `Work` and bytes. Out: the same limits where the step fits, else smaller ones; or `model.keep`, where it fits.
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise

from reformer_dist.config.sections.model import KEEP_LEVELS, KeepLevel
from reformer_dist.model.budget import Budget
from reformer_dist.planning.memory.formula import moments, step_memory
from reformer_dist.planning.memory.parts import Work

_SMALLEST = 32
"""No limit falls below this share of its default: pieces of 64 tokens still fill a matrix product."""


def fit_budget(work: Work, limit: int) -> Budget:
    """Halve one limit after the other, always that which lowers the largest moments most, until a step fits.

    Args:
        work: what is worked on, with the budget to start from.
        limit: bytes that the forward and backward pass may take above what the process held before.

    Raises:
        ValueError: the step does not fit, however small the pieces.
    """
    while (needed := step_memory(work).parts.total) > limit:
        smaller = min(
            (replace(work, budget=budget) for budget in _halved(work.budget)), key=_largest_first, default=work
        )
        if _largest_first(smaller) >= _largest_first(work):
            raise ValueError(
                f"a step of {work.rows} x {_tokens(work)} takes {needed} bytes of memory at least, not {limit}; more"
                f" parallel.sequence_shards or a shorter data.sequence_length{_or_source(work)} works"
            )
        work = smaller
    return work.budget


def fit_keep(work: Work, limit: int) -> tuple[KeepLevel, ...]:
    """What each layer keeps, the encoder's first: by level, and within one from the last layer, what still fits.

    Args:
        work: what is worked on; what its layers keep is not looked at.
        limit: bytes that the forward and backward pass may take above what the process held before. If nothing fits, nothing
            is kept.
    """
    chosen: list[KeepLevel] = ["nothing"] * (len(work.model.encoder_layers) + len(work.model.layers))
    for before, level in pairwise(KEEP_LEVELS):
        for index in reversed(range(len(chosen))):
            if chosen[index] == before:
                more = (*chosen[:index], level, *chosen[index + 1 :])
                keeping = replace(work, model=work.model.model_copy(update={"keep": more}))
                if step_memory(keeping).parts.total <= limit:
                    chosen[index] = level
    return tuple(chosen)


def _tokens(work: Work) -> str:
    return f"{work.tokens} tokens" + (f" and {work.source_tokens} of sources" if work.source_tokens else "")


def _or_source(work: Work) -> str:
    return " and data.source_length" if work.source_tokens else ""


def _halved(budget: Budget) -> Iterator[Budget]:
    default = Budget()
    for field in fields(budget):
        half = getattr(budget, field.name) // 2
        if half >= max(1, getattr(default, field.name) // _SMALLEST):
            yield replace(budget, **{field.name: half})


def _largest_first(work: Work) -> list[int]:
    """Bytes of all moments; where two are as large, halving what rules one of them must count too."""
    return sorted((moment.parts.total for moment in moments(work)), reverse=True)
