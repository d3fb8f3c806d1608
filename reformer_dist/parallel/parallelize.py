"""Making a plain model work on shards of sequences, from outside.

In: a `ReformerLM` and a `Topology`. Out: the same model, whose attention layers exchange with the sequence group, and whose
convolutions borrow from the neighbours in it. All else (embeddings, norms, loss) treats tokens one by one and needs nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch.distributed as dist

from reformer_dist.model.attention.cross.layer import CrossAttention
from reformer_dist.model.attention.exchange import Exchange, NoExchange
from reformer_dist.model.attention.kind import Kind
from reformer_dist.model.attention.layer import Attention
from reformer_dist.model.budget import Budget
from reformer_dist.model.encoder_decoder import EncoderDecoder
from reformer_dist.model.layers.feed_forward import FeedForward
from reformer_dist.model.reversible.stack import ReversibleStack
from reformer_dist.model.token_model import TokenModel
from reformer_dist.parallel.buckets.exchange import BucketsExchange
from reformer_dist.parallel.collectives import Peers, Traffic
from reformer_dist.parallel.heads import HeadsExchange
from reformer_dist.parallel.mailbox import open_mailbox
from reformer_dist.parallel.neighbours import NeighboursExchange
from reformer_dist.parallel.sources import GatheredSources
from reformer_dist.parallel.topology import Topology


def parallelize(model: TokenModel, topology: Topology) -> Traffic:
    """Put exchanges in, in place; returns the counter of what they send.

    `config.Config` has refused what cannot work: heads that do not divide, modes that need the whole sequence.
    """
    traffic = Traffic()
    peers = _connect(topology, traffic)
    _put_exchanges(model.stack, topology, peers, model.budget)
    if isinstance(model, EncoderDecoder):
        of_source = replace(topology, sequence_length=topology.source_length)
        _put_exchanges(model.encoder.stack, of_source, peers, model.budget)
    return traffic


@dataclass(frozen=True)
class _Groups:
    """A topology's groups, connected."""

    sequence: Peers | None
    heads: Peers | None
    buckets: Peers | None


def _connect(topology: Topology, traffic: Traffic) -> _Groups:
    """Connect the workers of each group; by buckets, which send most, through memory if they share it and are on CPUs."""
    connected: dict[dist.ProcessGroup | None, Peers | None] = {None: None}
    groups = (topology.sequence_group, topology.head_group, topology.bucket_group)
    for group in groups:
        if group is not None and group not in connected:
            by_memory = group == topology.bucket_group and dist.get_backend(group) == dist.Backend.GLOO
            connected[group] = Peers(group, traffic, open_mailbox(group, topology.timeout) if by_memory else None)
    return _Groups(*(connected[group] for group in groups))


def _put_exchanges(stack: ReversibleStack, topology: Topology, groups: _Groups, budget: Budget) -> None:
    """Into the layers of a stack whose sequences are as long as the topology says."""
    peers = groups.sequence
    for layer in stack.layers:
        if isinstance(layer, Attention | FeedForward) and any(layer.near_reach) and peers is not None:
            layer.neighbours = NeighboursExchange(*layer.near_reach, peers)
        if isinstance(layer, CrossAttention) and peers is not None:
            layer.exchange = GatheredSources(peers)
        if isinstance(layer, Attention):
            layer.head_groups = [
                replace(heads, exchange=_make_exchange(heads.kind, topology, groups, budget))
                for heads in layer.head_groups
            ]


def _make_exchange(kind: Kind, topology: Topology, groups: _Groups, budget: Budget) -> Exchange:
    exchange: Exchange = NoExchange()
    for name in _exchanges_between(groups, kind):
        assert name in kind.exchanges, f"{name} cannot serve {type(kind).__name__}"
        exchange = EXCHANGES[name](kind, topology, groups, budget, exchange)
    return exchange


def _exchanges_between(groups: _Groups, kind: Kind) -> list[str]:
    """Names of the exchanges that a kind uses, from the inside out."""
    if groups.sequence is None:
        return []
    if "neighbours" in kind.exchanges:
        return ["neighbours"]
    named = {"buckets": groups.buckets, "heads": groups.heads}
    return [name for name, peers in named.items() if peers is not None]


def _neighbours(kind: Kind, topology: Topology, groups: _Groups, budget: Budget, within: Exchange) -> Exchange:
    assert groups.sequence is not None
    assert kind.reach is not None
    before, after = (own + near for own, near in zip(kind.reach, kind.config.convolution_reach, strict=True))
    return NeighboursExchange(before, after, groups.sequence)


def _buckets(kind: Kind, topology: Topology, groups: _Groups, budget: Budget, within: Exchange) -> Exchange:
    assert groups.buckets is not None
    return BucketsExchange(groups.buckets, budget)


def _heads(kind: Kind, topology: Topology, groups: _Groups, budget: Budget, within: Exchange) -> Exchange:
    assert groups.heads is not None
    length = topology.sequence_length if groups.buckets is None else None
    return HeadsExchange(groups.heads, length, within)


EXCHANGES: dict[str, Callable[[Kind, Topology, _Groups, Budget, Exchange], Exchange]] = {
    "neighbours": _neighbours,
    "buckets": _buckets,
    "heads": _heads,
}
"""How each exchange is made, around those made before it, by the name under which kinds declare it."""
