"""Rows as they come to a worker in the buckets exchange, and the comparison of a backend with the plain one among them."""

import torch

from reformer_dist.model.backends.backend import Backend
from reformer_dist.model.backends.description import AttentionDropout, OrderedRows
from reformer_dist.model.backends.packing import pack
from reformer_dist.model.backends.plain.backend import Plain
from reformer_dist.model.backends.rules import Rule


def make_rows(rule: Rule, dropout: AttentionDropout | None, num_own: int, generator: torch.Generator) -> OrderedRows:
    """A worker's part of the order, with its halo, for two slices; rows came in any order."""
    assert rule.reach is not None
    offset, size = rule.before * rule.block, (rule.before + -(-num_own // rule.block) + rule.after) * rule.block
    first, last = max(0, offset - rule.reach[1]), min(size, offset + num_own + max(0, -rule.reach[0]))
    num_rows = 2 * (last - first)
    order_NS = torch.full((2, size), -1, dtype=torch.int32)
    order_NS[:, first:last] = torch.randperm(num_rows, generator=generator).view(2, -1).int()
    segments_M = torch.empty(num_rows, dtype=torch.int32)
    sorted_segments = torch.randint(4, (2, last - first), generator=generator, dtype=torch.int32).sort(1).values
    sorted_segments[1, -3:] = -1
    segments_M[order_NS[:, first:last].long()] = sorted_segments
    own = order_NS[:, offset : offset + num_own].flatten().sort().values
    hashes_M = torch.randint(1 << 62, (num_rows,), generator=generator)  # last, so that all else is the same without it
    return OrderedRows(
        rule=rule,
        dropout=dropout,
        order_NS=order_NS,
        queries=(offset, offset + num_own),
        own=own,
        segments_M=segments_M,
        hashes_M=None if dropout is None else hashes_M,
    )


def check_rows(backend: Backend, rows: OrderedRows, head_dim: int) -> None:
    """Outputs, log-sum-exps and gradients are the plain backend's."""
    D, plain, generator = head_dim, Plain(), torch.Generator().manual_seed(2)
    vectors = torch.randn(len(rows.segments_M), 3 * D, generator=generator, dtype=torch.float64)
    received = vectors[:, : 2 * D]
    results = plain.attend_rows(received, rows)
    torch.testing.assert_close(backend.attend_rows(received, rows), results, rtol=1e-10, atol=1e-12)
    statistics = torch.randn(len(vectors), 2, generator=generator, dtype=torch.float64)
    statistics[rows.own, 1] = results[:, D].where(results[:, D] > -torch.inf, torch.inf)
    outputs = pack(vectors[:, 2 * D :], statistics)
    gradients = plain.attend_rows_backward(received, outputs, rows)
    torch.testing.assert_close(backend.attend_rows_backward(received, outputs, rows), gradients, rtol=1e-10, atol=1e-12)
