"""The memory formula: against steps in processes of their own, and against the code that it counts."""

from dataclasses import replace
from typing import Any

import pytest

from reformer_dist.benchmarks.speed.peaks import measure_peaks, shapes, table
from reformer_dist.config import Config, ModelConfig, load_config
from reformer_dist.model.budget import Budget
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.planning.attention_memory import head_group
from reformer_dist.planning.layer_memory import num_weights
from reformer_dist.planning.memory import held_memory, moments, step_memory, update_memory
from reformer_dist.planning.parts import Parts, Work

TOLERANCE = 0.15
"""Of the measured peak. What is counted is exact; not counted are pages of the heap that are part free."""


def make_work(tokens: int = 4096, budget: Budget | None = None, **model: Any) -> Work:
    config = ModelConfig(max_length=1 << 20, **model)
    return Work(config, budget or Budget.of(config), tokens)


def make_config(optimizer: str = "adamw", **parallel: Any) -> Config:
    tree = {
        "parallel": parallel,
        "train": {"workers": 4, "batch_size": 4},
        "data": {"sequence_length": 4096},
        "optimizer": {"name": optimizer},
    }
    return load_config(None, tree)


def test_the_formula_predicts_what_steps_take() -> None:
    """Width, depth, length, heads, rounds, rows, dtypes, workers and exchanges."""
    peaks = measure_peaks(shapes())
    print(table(peaks))
    assert len(peaks) >= 10
    assert {peak.name: round(peak.error, 3) for peak in peaks if abs(peak.error) > TOLERANCE} == {}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": ("full", "lsh"), "head_dim": 8, "num_heads": 3, "embed_dim": 64},
        {"positions": "learned", "max_length": 128, "tie_embeddings": True, "norm": "rms"},
        {"positions": "none", "gated": True, "query_key_norm": True},
        {"axial_shape": (8, 8, 8), "axial_dims": (16, 16, 32), "max_length": 512, "embed_dim": 64},
    ],
)
def test_weights_are_the_models(changes: dict[str, Any]) -> None:
    config = ModelConfig(**changes)
    assert num_weights(config) == sum(x.numel() for x in ReformerLM(config).parameters())


def test_moments_follow_the_backward_pass() -> None:
    names = [moment.name for moment in moments(make_work(layers=("local", "lsh")))]
    layers = [f"layer {layer} {part}" for layer in (1, 0) for part in ("feed-forward", "attention")]
    assert names == ["loss", *layers, "embeddings"]


def test_the_peak_is_the_largest_moment() -> None:
    work = make_work()
    peak = step_memory(work)
    largest = max(moments(work), key=lambda moment: moment.parts.total)
    assert peak.name == largest.name
    assert peak.parts == largest.parts + Parts(untracked=peak.parts.untracked)


@pytest.mark.parametrize(
    ("limit", "changes", "tokens"),
    [
        ("feed_forward_tokens", {"layers": ("local",), "feed_forward_dim": 4096}, 4096),
        ("loss_tokens", {"layers": ("local",), "vocab_size": 50000}, 4096),
        ("projected_tokens", {"layers": ("local",), "feed_forward_dim": 16}, 4096),
        ("head_elements", {"layers": ("lsh",)}, 65536),
    ],
)
def test_each_limit_saves_where_it_rules(limit: str, changes: dict[str, Any], tokens: int) -> None:
    whole = make_work(tokens, **changes)
    halved = replace(whole, budget=replace(whole.budget, **{limit: getattr(whole.budget, limit) // 4}))
    assert step_memory(halved).parts.total < step_memory(whole).parts.total


@pytest.mark.parametrize("limit", ["routed_entries", "kept_elements", "routes_ahead", "exchanged_elements"])
def test_each_limit_of_the_exchange_saves_where_it_rules(limit: str) -> None:
    whole = replace(make_work(16384, layers=("lsh",), lsh_window=16), bucket_workers=4)
    halved = replace(whole, budget=replace(whole.budget, **{limit: getattr(whole.budget, limit) // 2}))
    assert step_memory(halved).parts.total < step_memory(whole).parts.total


def test_one_head_is_worked_on_however_long_the_sequence() -> None:
    assert head_group(make_work(1 << 20)).heads == 1
    assert head_group(replace(make_work(1 << 20), head_workers=2)).heads == 2
    assert head_group(make_work(1024)).heads == 4


@pytest.mark.parametrize("changes", [{"reversible": False}, {"lsh_mode": "paper"}, {"attention_kernel": "plain"}])
def test_what_is_not_counted_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"model.{next(iter(changes))} = .* is not in the memory formula; .* works"):
        step_memory(make_work(**changes))


def test_a_kind_that_is_not_counted_is_refused() -> None:
    work = make_work()
    with pytest.raises(ValueError, match=r"model\.layers = .* is not in the memory formula; local,lsh works"):
        step_memory(replace(work, model=work.model.model_copy(update={"layers": ("lsh", "mean")})))


def test_bfloat16_is_refused() -> None:
    config = load_config(None, {"train": {"dtype": "bfloat16"}})
    with pytest.raises(ValueError, match=r"train\.dtype = bfloat16"):
        Work.of(config)


def test_work_is_the_configurations() -> None:
    config = make_config(sequence_shards=4, attention="both", head_shards=2)
    work = Work.of(config)
    assert (work.tokens, work.rows, work.head_workers, work.bucket_workers, work.element) == (1024, 1, 2, 2, 4)
    assert Work.of(make_config(sequence_shards=1)).head_workers == 1


def test_zero_divides_what_is_held() -> None:
    weights = 4 * num_weights(ModelConfig())
    none, one, three = (held_memory(make_config(zero_stage=stage)) for stage in (0, 1, 3))
    assert (none.weights, none.master_weights, none.optimizer) == (weights, 0, 2 * weights)
    assert (one.weights, one.master_weights, one.optimizer) == (weights, weights // 4, 2 * (weights // 4))
    assert (three.weights, three.total) == (weights // 4, 4 * (weights // 4))


def test_muon_holds_one_moment_of_matrices_and_brings_them_together() -> None:
    weights = 4 * num_weights(ModelConfig())
    stack = ReformerLM(ModelConfig()).stack
    matrices = sum(weight.nbytes for weight in stack.parameters() if weight.ndim == 2)
    none, two = (make_config(zero_stage=stage, optimizer="muon") for stage in (0, 2))
    assert held_memory(none).optimizer == 2 * weights - matrices
    assert held_memory(two).optimizer == 2 * (weights // 4) - matrices // 4
    assert update_memory(none) == weights + 2 * matrices + matrices // 4
    assert update_memory(two) == weights // 4 + 3 * (matrices // 4)
    assert update_memory(make_config(zero_stage=1)) == weights, "AdamW: gradients only"


def test_parts_are_read_in_mib() -> None:
    assert str(Parts(streams=1 << 20, under_way=3 << 20)) == "under way 3.0, streams 1.0"
