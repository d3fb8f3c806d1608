"""The optimizer's state in shares of parameters: what is read must be whole."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reformer_dist.checkpoints.optimizer_state import Share, load


@pytest.mark.parametrize("moments", [("exp_avg", "exp_avg_sq"), ("momentum_buffer",)], ids=["adamw", "muon"])
def test_shares_are_put_together_from_other_shares(moments: tuple[str, ...], tmp_path: Path) -> None:
    """Elements 2..8 of a parameter, from files that have 0..5 and 5..10; the rest of the flat tensor stays zero."""
    weight, flat = torch.zeros(10), torch.nn.Parameter(torch.zeros(9))
    values = {moment: torch.randn_like(weight) for moment in moments}
    for first, last in [(0, 5), (5, 10)]:
        stored = {f"a:b.weight:{first}:{moment}": value[first:last].clone() for moment, value in values.items()}
        save_file(stored, tmp_path / f"{first}.safetensors")
    optimizer = torch.optim.AdamW([flat])
    load(tmp_path, iter([Share("a:b.weight", 2, 6, flat, 3)]), optimizer, step=7)
    state = optimizer.state[flat]
    assert state["step"] == 7
    for moment, value in values.items():
        assert torch.equal(state[moment], torch.cat([torch.zeros(3), value[2:8]])), moment


def test_an_incomplete_state_is_refused(tmp_path: Path) -> None:
    save_file({"w:0:exp_avg": torch.ones(3), "w:0:exp_avg_sq": torch.ones(3)}, tmp_path / "0.safetensors")
    flat = torch.nn.Parameter(torch.zeros(4))
    with pytest.raises(ValueError, match=r"w: 3 of 4 elements of the optimizer's state are stored"):
        load(tmp_path, iter([Share("w", 0, 4, flat, 0)]), torch.optim.AdamW([flat]), step=1)
