"""Memory that nobody has written is NaN in every process of the tests, whoever asks for it."""

import torch
from torch import Tensor

from tests.ranks import run_ranks


def _unwritten() -> list[Tensor]:
    x = torch.ones(3, dtype=torch.float64)
    return [
        torch.empty(3),
        x.new_empty(2, 2),
        torch.empty_like(x),
        torch.empty(5, dtype=torch.bfloat16),
        x.resize_(5)[3:],
    ]


def test_floats_are_nan() -> None:
    assert all(x.isnan().all() for x in _unwritten())
    assert all(x.isnan().all() for ours in run_ranks(_unwritten, 2) for x in ours)


def test_whole_numbers_are_no_index_of_anything() -> None:
    for dtype in (torch.int64, torch.int32, torch.int16):
        assert torch.empty(3, dtype=dtype).eq(torch.iinfo(dtype).max).all()
