"""A budget, and what layers keep, that fit a limit of memory."""

from dataclasses import replace

import pytest

from reformer_dist.config import ModelConfig
from reformer_dist.config.sections.model import KEEP_LEVELS
from reformer_dist.model.budget import Budget
from reformer_dist.planning.memory.fitting import fit_budget, fit_keep
from reformer_dist.planning.memory.formula import step_memory
from reformer_dist.planning.memory.parts import Work

MODEL = ModelConfig(layers=("local", "lsh"), vocab_size=4096)
WORK = Work(MODEL, Budget.of(MODEL), 4096)
WHOLE = step_memory(WORK).parts.total


def test_what_fits_is_left_alone() -> None:
    assert fit_budget(WORK, WHOLE) == WORK.budget


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_less_memory_means_smaller_limits(share: float) -> None:
    budget = fit_budget(WORK, int(share * WHOLE))
    assert step_memory(replace(WORK, budget=budget)).parts.total <= share * WHOLE
    assert budget.sampled_scores == WORK.budget.sampled_scores, "what the step does not hold stays"


def test_what_rules_another_moment_as_large_counts() -> None:
    """Two layers of a kind take equally much, and so may loss and feed-forward."""
    model = ModelConfig(layers=("local",), vocab_size=1024, feed_forward_dim=1024, embed_dim=64)
    work = Work(model, Budget.of(model), 4096)
    whole = step_memory(work).parts.total
    assert step_memory(replace(work, budget=fit_budget(work, whole // 2))).parts.total <= whole // 2


@pytest.mark.parametrize("cross", ["full", "lsh"])
def test_less_memory_means_smaller_limits_for_an_encoder_decoder_too(cross: str) -> None:
    layers = ("local",)
    sizes = {"embed_dim": 64, "num_heads": 8, "head_dim": 64, "max_source_length": 1 << 16}
    model = ModelConfig(layers=layers, encoder_layers=layers, cross_attention=cross, **sizes)
    work = Work(model, Budget.of(model), 2048, source_tokens=1 << 16)
    whole = step_memory(work).parts.total
    budget = fit_budget(work, int(0.8 * whole))
    assert step_memory(replace(work, budget=budget)).parts.total <= 0.8 * whole
    with pytest.raises(ValueError, match=r"2048 tokens and 65536 of sources .*_length and data\.source_length"):
        fit_budget(work, 4 * work.stream)


def test_what_never_fits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a step of 1 x 4096 tokens takes .* more parallel\.sequence_shards or"):
        fit_budget(WORK, 4 * WORK.stream)


def _total(keep: tuple[str, ...]) -> int:
    return step_memory(replace(WORK, model=MODEL.model_copy(update={"keep": keep}))).parts.total


def test_as_much_is_kept_as_fits_and_no_more() -> None:
    totals = [_total((level,)) for level in KEEP_LEVELS]
    assert totals == sorted(set(totals)), "every level takes more"
    assert fit_keep(WORK, totals[0] - 1) == fit_keep(WORK, totals[0]) == ("nothing", "nothing")
    for level, total in list(zip(KEEP_LEVELS, totals, strict=True))[1:]:
        assert fit_keep(WORK, total) == (level, level)
        assert _total(fit_keep(WORK, total - 1)) < total
    assert fit_keep(WORK, totals[-1] - 1) == ("projections", "products"), "the last layers first"


def test_an_encoders_layers_are_chosen_too() -> None:
    model = ModelConfig(layers=("lsh",), encoder_layers=("local", "lsh"), max_source_length=8192)
    work = Work(model, Budget.of(model), 1024, source_tokens=8192)
    assert fit_keep(work, 1 << 40) == ("products",) * 3
