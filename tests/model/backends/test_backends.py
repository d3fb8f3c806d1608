"""Every backend for a CPU equals the plain references and the plain backend; its line in `BACKENDS` has it tested."""

from typing import Literal

import pytest
import torch

from reformer_dist.model.attention.lsh.hashing import hash_buckets
from reformer_dist.model.backends import choice
from reformer_dist.model.backends.backend import Work
from reformer_dist.model.backends.choice import BACKENDS
from reformer_dist.model.backends.description import AttentionDropout
from reformer_dist.model.backends.rules import window_rule
from tests.model import references
from tests.model.attention.test_attention import check_local, check_lsh
from tests.model.backends.rows import check_rows, make_rows
from tests.model.cases import CASES, Case

DOUBLE = Work(torch.device("cpu"), torch.float64, 4)
NAMES = [
    name
    for name, backend in BACKENDS.items()
    if backend.device_type in (None, "cpu") and (backend.dtypes is None or DOUBLE.dtype in backend.dtypes)
]


@pytest.fixture
def alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave only the backend of this name, and the plain one for what it refuses."""
    monkeypatch.setattr(choice, "BACKENDS", {name: BACKENDS[name], "plain": BACKENDS["plain"]})
    assert choice.choose(DOUBLE) is BACKENDS[name] or BACKENDS[name].missing()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("mode", ["window", "chunked", "paper"])
@pytest.mark.parametrize("case", CASES[::7], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_lsh_attention(name: str, case: Case, mode: Literal["window", "chunked", "paper"]) -> None:
    check_lsh(case, mode, "auto")


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("mode", ["window", "chunked"])
@pytest.mark.parametrize("case", CASES[::7], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_local_attention(name: str, case: Case, mode: Literal["window", "chunked"]) -> None:
    check_local(case, mode, "auto")


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("case", CASES[::7], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_buckets(name: str, case: Case) -> None:
    inputs = case.inputs()
    ours = hash_buckets(inputs.qk, inputs.rotations, case.num_buckets)
    assert torch.equal(ours.long(), references.hash_buckets(inputs.qk, inputs.rotations, case.num_buckets))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("probability", [0.0, 0.3])
@pytest.mark.parametrize("name", NAMES)
def test_rows_of_other_workers(name: str, probability: float, causal: bool) -> None:
    backend = BACKENDS[name]
    dropout = AttentionDropout(probability, 7) if probability and backend.serves_dropout else None
    rule = window_rule(12, causal, 1000, with_self=False)
    check_rows(backend, make_rows(rule, dropout, 37, torch.Generator().manual_seed(1)), head_dim=5)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_moved_as_by_torch(name: str) -> None:
    backend, generator = BACKENDS[name], torch.Generator().manual_seed(0)
    parts = [torch.randn(9, width, generator=generator, dtype=torch.float64) for width in (3, 3, 2)]
    rows = torch.tensor([4, 0, 8, 4, 1], dtype=torch.int32)
    taken = backend.take_rows(parts, rows)
    assert torch.equal(taken, torch.cat(parts, dim=1)[rows.long()])
    total, expected = torch.ones(9, 8, dtype=torch.float64), torch.ones(9, 8, dtype=torch.float64)
    backend.add_rows(total, rows, taken, [3, 2])
    assert torch.equal(total, expected.index_add(0, rows, taken))


@pytest.mark.parametrize("keep", [None, torch.tensor([0.0, 1.25] * 4, dtype=torch.float64)])
@pytest.mark.parametrize("name", NAMES)
def test_rounds_are_combined_by_the_softmax_of_their_log_sum_exps(name: str, keep: torch.Tensor | None) -> None:
    generator = torch.Generator().manual_seed(0)
    rounds = torch.randn(3, 8, 6, generator=generator, dtype=torch.float64)
    rounds[0, :3, 5] = rounds[1, 2:5, 5] = rounds[2, 2, 5] = -torch.inf  # row 2 sees nothing in any round
    own = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    combination = BACKENDS[name].start_combination(8, own)
    for packed in rounds:
        rows = torch.randperm(8, generator=generator).int()
        combination.add_packed(rows, packed[rows.long()])
    out, lse, weight = combination.finish(own, keep)
    outs, lses = rounds[..., :5], rounds[..., 5]
    expected = (outs * lses.softmax(0).nan_to_num()[..., None]).sum(0)
    expected_weight = torch.zeros(8, dtype=torch.float64)
    expected_weight[2] = 1.0 if keep is None else keep[2]
    torch.testing.assert_close(out, expected + own * expected_weight[:, None])
    torch.testing.assert_close(lse, lses.logsumexp(0).nan_to_num(neginf=torch.inf))
    assert torch.equal(weight, expected_weight)
