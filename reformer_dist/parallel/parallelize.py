"""Making a plain model work on shards of sequences, from outside.

In: a `ReformerLM` and a `Topology`. Out: the same model, whose attention layers exchange with the sequence group. All else
(embeddings, feed-forward, norms, loss) treats tokens one by one and needs nothing.
"""

from reformer_dist.model.attention.layer import Attention, LSHCore, local_reach
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.parallel.collectives import Traffic
from reformer_dist.parallel.exchanges import BucketsExchange, HeadsExchange
from reformer_dist.parallel.neighbours import GroupNeighbours
from reformer_dist.parallel.topology import Topology


def parallelize(model: ReformerLM, topology: Topology) -> Traffic:
    """Replace, in place, what must communicate; returns the counter of what it sends.

    `config.Config` has refused what cannot work: heads that do not divide, modes that need the whole sequence.
    """
    traffic = Traffic()
    for module in model.modules():
        if isinstance(module, Attention):
            _wire(module, topology, traffic)
    return traffic


def _wire(attention: Attention, topology: Topology, traffic: Traffic) -> None:
    if topology.sequence_group is None:
        return
    if attention.is_local:
        attention.neighbours = GroupNeighbours(*local_reach(attention.config), topology.sequence_group, traffic)
        return
    if topology.bucket_group is not None:
        assert isinstance(attention.core, LSHCore)
        attention.core = BucketsExchange(attention.core, topology.bucket_group, traffic)
    if topology.head_group is not None:
        length = topology.sequence_length if topology.bucket_group is None else None
        attention.core = HeadsExchange(attention.core, topology.head_group, traffic, length)
