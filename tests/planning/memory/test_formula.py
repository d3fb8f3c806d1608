"""The memory formula: against steps in processes of their own, and against the code that it counts."""

import itertools
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from reformer_dist.benchmarks.speed.peaks import Peak, encoder_decoder_shapes, measure_peaks, shapes, table
from reformer_dist.config import Config, ModelConfig, load_config
from reformer_dist.model.attention.cross.kind import SourceHeads
from reformer_dist.model.budget import Budget
from reformer_dist.model.choice import make_model
from reformer_dist.model.context import Source
from reformer_dist.model.encoder_decoder import EncoderDecoder
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.planning.memory.attention import head_group
from reformer_dist.planning.memory.cross import cross_group
from reformer_dist.planning.memory.formula import held_memory, moments, step_memory, update_memory
from reformer_dist.planning.memory.parts import Parts, Work
from reformer_dist.planning.memory.weights import matrix_weights, num_weights
from reformer_dist.training.engine.optimizer import _is_layer_matrix

TOLD_APART = (
    "deep",
    "16 heads",
    "4 rows, full attention",
    "vocabulary of 8,192",
    "dropout, tied embeddings",
    "float64",
    "attention kept",
    "products kept, 2 workers",
    "2 workers, heads",
    "4 workers, both",
)
"""Shapes whose largest moments differ; docs/benchmarks.md has all, which take minutes."""
BOTH_TOLD_APART = ("full, heads by turns", "full, dropout", "full, products kept", "lsh, 4 rows", "lsh, dropout")
"""The same of encoder-decoders."""
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
    """Depth, heads, rows, vocabulary, dropout, dtypes, what is kept, workers and exchanges."""
    named = shapes()
    assert_predicted(measure_peaks({name: named[name] for name in TOLD_APART}))


def test_the_formula_predicts_what_steps_of_encoder_decoders_take() -> None:
    """Both kinds of cross-attention, heads by turns, rows, dropout."""
    named = encoder_decoder_shapes()
    assert_predicted(measure_peaks({name: named[name] for name in BOTH_TOLD_APART}))


def assert_predicted(peaks: list[Peak]) -> None:
    print(table(peaks))
    assert {peak.name: round(peak.error, 3) for peak in peaks if abs(peak.error) > TOLERANCE} == {}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": ("full", "lsh"), "head_dim": 8, "num_heads": 3, "embed_dim": 64},
        {"positions": "learned", "max_length": 128, "tie_embeddings": True, "norm": "rms"},
        {"positions": "none", "gated": True, "query_key_norm": True},
        {"axial_shape": (8, 8, 8), "axial_dims": (16, 16, 32), "max_length": 512, "embed_dim": 64},
        {"encoder_layers": ("full", "lsh", "local"), "max_source_length": 512, "layers": ("lsh",)},
        {"encoder_layers": ("local",), "positions": "learned", "tie_embeddings": True, "norm": "rms", "gated": True},
        {"encoder_layers": ("lsh",), "query_key_norm": True, "head_dim": 8, "num_heads": 3, "cross_attention": "lsh"},
    ],
)
def test_weights_are_the_models(changes: dict[str, Any]) -> None:
    config = ModelConfig(**changes)
    own = dict(make_model(config).named_parameters())
    assert num_weights(config) == sum(x.numel() for x in own.values())
    assert matrix_weights(config) == sum(x.numel() for name, x in own.items() if _is_layer_matrix(name, x))


def test_moments_follow_the_backward_pass() -> None:
    names = [moment.name for moment in moments(make_work(layers=("local", "lsh")))]
    layers = [f"layer {layer} {part}" for layer in (1, 0) for part in ("feed-forward", "attention")]
    assert names == ["loss", *layers, "embeddings"]


def make_both(target: int = 2048, source: int = 8192, **model: Any) -> Work:
    """Work of an encoder-decoder."""
    given = {"layers": ("local",), "encoder_layers": ("lsh",), "max_source_length": 1 << 20, **model}
    config = ModelConfig(max_length=1 << 20, **given)
    return Work(config, Budget.of(config), target, source_tokens=source)


def test_moments_of_an_encoder_decoder_follow_the_backward_pass() -> None:
    names = [moment.name for moment in moments(make_both(layers=("local", "lsh")))]
    parts = ("feed-forward", "cross-attention", "attention")
    decoder = [f"decoder layer {layer} {part}" for layer in (1, 0) for part in parts]
    between = ["decoder embeddings", "encoder norm", "encoder streams"]
    encoder = ["encoder layer 0 feed-forward", "encoder layer 0 attention"]
    assert names == ["loss", *decoder, *between, *encoder, "embeddings"]


@pytest.mark.parametrize("cross", ["full", "lsh"])
def test_depth_adds_gradients_of_weights_and_what_was_found(cross: str) -> None:
    for field in ("layers", "encoder_layers"):
        shallow, deep = (
            step_memory(make_both(cross_attention=cross, **{field: ("lsh",) * depth})).parts for depth in (2, 8)
        )
        grown = {part for part, size in asdict(deep).items() if size > asdict(shallow)[part]}
        assert grown <= {"weight_gradients", "found"}, field


def test_cross_attention_works_on_the_groups_and_pieces_of_the_layer() -> None:
    for cross, rows in itertools.product(("full", "lsh"), (1, 3)):
        work = replace(make_both(500, 700, embed_dim=16, cross_attention=cross), rows=rows)
        work = replace(work, budget=Budget(head_elements=20000, cross_scores=100_000, cross_gathered=100_000))
        model = EncoderDecoder(work.model, work.budget)
        layer, group = model.stack.blocks[0].cross_attention, cross_group(work)
        x, memory = torch.zeros(rows, 500, 16), torch.zeros(rows, 700, 16)
        slices = layer._groups(x, Source(memory))
        assert slices[0] == slice(0, group.heads)
        heads = SourceHeads(*(torch.zeros(rows, 700, group.heads, 4) for _ in range(2)))
        pieces = list(layer._pieces(x, heads))
        assert pieces[0] == slice(0, group.tokens)


@pytest.mark.parametrize(
    ("limit", "changes"),
    [
        ("head_elements", {"source": 1 << 16, "embed_dim": 64, "num_heads": 8, "head_dim": 64}),
        ("cross_gathered", {"cross_attention": "lsh", "source": 4096, "embed_dim": 128}),
        ("cross_scores", {"attention_dropout": 0.1, "source": 4096}),
    ],
)
def test_each_limit_of_cross_attention_saves_where_it_rules(limit: str, changes: dict[str, Any]) -> None:
    whole = make_both(1024, **{"encoder_layers": ("local",), "feed_forward_dim": 16, **changes})
    halved = replace(whole, budget=replace(whole.budget, **{limit: getattr(whole.budget, limit) // 4}))
    assert step_memory(halved).parts.total < step_memory(whole).parts.total


def test_a_source_goes_with_an_encoder() -> None:
    with pytest.raises(ValueError, match=r"source_tokens = 0 with model\.encoder_layers"):
        make_both(source=0)
    with pytest.raises(ValueError, match=r"source_tokens = 5 with model\.encoder_layers"):
        replace(make_work(), source_tokens=5)


@pytest.mark.parametrize("field", ["encoder_layers", "cross_attention"])
def test_kinds_of_an_encoder_decoder_that_are_not_counted_are_refused(field: str) -> None:
    work = make_both()
    value = ("mean",) if field == "encoder_layers" else "mean"
    with pytest.raises(ValueError, match=rf"model\.{field} = .* is not in the memory formula"):
        step_memory(replace(work, model=work.model.model_copy(update={field: value})))


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
