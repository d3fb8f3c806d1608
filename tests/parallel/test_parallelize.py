"""What kinds declare is what the configuration lets pass; kinds side by side in one layer exchange each in its own way."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from reformer_dist import Config
from reformer_dist.model.attention import layer as attention
from reformer_dist.model.attention.kinds import KINDS
from reformer_dist.model.budget import Budget
from reformer_dist.parallel.parallelize import EXCHANGES
from tests.model.attention.test_layer import local_beside_lsh
from tests.parallel.test_sequence_shards import loss_and_gradients, make_config
from tests.ranks import run_ranks

MODES = [
    *({"layers": name} for name in KINDS),
    {"layers": "local", "local_mode": "chunked"},
    {"layers": "lsh", "lsh_mode": "chunked"},
    {"layers": "lsh", "lsh_mode": "paper"},
]


@pytest.mark.parametrize("changes", MODES, ids=str)
def test_the_configuration_refuses_what_needs_whole_sequences(changes: dict[str, Any]) -> None:
    config = make_config(1, 64, **changes)
    kind = KINDS[config.model.layers[0]](config.model, 0, Budget())
    assert kind.exchanges <= EXCHANGES.keys()
    make_config(2, 64, {"attention": "heads"}, **changes)
    if kind.needs_whole:
        with pytest.raises(ValueError, match="needs whole sequences"):
            make_config(2, 64, {"attention": "buckets"}, **changes)
    else:
        make_config(2, 64, {"attention": "buckets"}, **changes)


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_equals_one_process(name: str) -> None:
    loss, _, expected = loss_and_gradients(make_config(1, 47, layers=f"{name},{name}"))
    for found, _, gradients in run_ranks(loss_and_gradients, 2, make_config(2, 47, layers=f"{name},{name}")):
        assert found == pytest.approx(loss, rel=1e-12)
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[parameter], rtol=1e-10, atol=1e-10, msg=parameter)


def _side_by_side(config: Config) -> tuple[float, int, dict[str, Tensor]]:
    with mock.patch.object(attention, "make_head_groups", local_beside_lsh):
        return loss_and_gradients(config)


@pytest.mark.parametrize("exchange", ["heads", "buckets"])
def test_kinds_side_by_side_equal_one_process(exchange: str) -> None:
    loss, _, expected = _side_by_side(make_config(1, 47, layers="lsh,lsh"))
    for found, _, gradients in run_ranks(
        _side_by_side, 2, make_config(2, 47, {"attention": exchange}, layers="lsh,lsh")
    ):
        assert found == pytest.approx(loss, rel=1e-12)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10, msg=name)
