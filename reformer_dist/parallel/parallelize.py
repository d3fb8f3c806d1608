"""Making a plain model work on shards of sequences, from outside.

In: a `ReformerLM` and a `Topology`. Out: the same model, whose attention layers exchange with the sequence group, and whose
convolutions borrow from the neighbours in it. All else (embeddings, norms, loss) treats tokens one by one and needs nothing.
"""

from collections.abc import Callable
from dataclasses import replace

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
from reformer_dist.parallel.collectives import Traffic
from reformer_dist.parallel.heads import HeadsExchange
from reformer_dist.parallel.neighbours import NeighboursExchange
from reformer_dist.parallel.sources import GatheredSources
from reformer_dist.parallel.topology import Topology


def parallelize(model: TokenModel, topology: Topology) -> Traffic:
    """Put exchanges in, in place; returns the counter of what they send.

    `config.Config` has refused what cannot work: heads that do not divide, modes that need the whole sequence.
    """
    traffic = Traffic()
    _put_exchanges(model.stack, topology, traffic, model.budget)
    if isinstance(model, EncoderDecoder):
        of_source = replace(topology, sequence_length=topology.source_length)
        _put_exchanges(model.encoder.stack, of_source, traffic, model.budget)
    return traffic


def _put_exchanges(stack: ReversibleStack, topology: Topology, traffic: Traffic, budget: Budget) -> None:
    """Into the layers of a stack whose sequences are as long as the topology says."""
    group = topology.sequence_group
    for layer in stack.layers:
        if isinstance(layer, Attention | FeedForward) and any(layer.near_reach) and group is not None:
            layer.neighbours = NeighboursExchange(*layer.near_reach, group, traffic)
        if isinstance(layer, CrossAttention) and group is not None:
            layer.exchange = GatheredSources(group, traffic)
        if isinstance(layer, Attention):
            layer.head_groups = [
                replace(heads, exchange=_make_exchange(heads.kind, topology, traffic, budget))
                for heads in layer.head_groups
            ]


def _make_exchange(kind: Kind, topology: Topology, traffic: Traffic, budget: Budget) -> Exchange:
    exchange: Exchange = NoExchange()
    for name in _exchanges_between(topology, kind):
        assert name in kind.exchanges, f"{name} cannot serve {type(kind).__name__}"
        exchange = EXCHANGES[name](kind, topology, traffic, budget, exchange)
    return exchange


def _exchanges_between(topology: Topology, kind: Kind) -> list[str]:
    """Names of the exchanges that a kind uses, from the inside out."""
    if topology.sequence_group is None:
        return []
    if "neighbours" in kind.exchanges:
        return ["neighbours"]
    groups = {"buckets": topology.bucket_group, "heads": topology.head_group}
    return [name for name, group in groups.items() if group is not None]


def _neighbours(kind: Kind, topology: Topology, traffic: Traffic, budget: Budget, within: Exchange) -> Exchange:
    assert topology.sequence_group is not None
    assert kind.reach is not None
    before, after = (own + near for own, near in zip(kind.reach, kind.config.convolution_reach, strict=True))
    return NeighboursExchange(before, after, topology.sequence_group, traffic)


def _buckets(kind: Kind, topology: Topology, traffic: Traffic, budget: Budget, within: Exchange) -> Exchange:
    assert topology.bucket_group is not None
    return BucketsExchange(topology.bucket_group, traffic, budget)


def _heads(kind: Kind, topology: Topology, traffic: Traffic, budget: Budget, within: Exchange) -> Exchange:
    assert topology.head_group is not None
    length = topology.sequence_length if topology.bucket_group is None else None
    return HeadsExchange(topology.head_group, traffic, length, within)


EXCHANGES: dict[str, Callable[[Kind, Topology, Traffic, Budget, Exchange], Exchange]] = {
    "neighbours": _neighbours,
    "buckets": _buckets,
    "heads": _heads,
}
"""How each exchange is made, around those made before it, by the name under which kinds declare it."""
