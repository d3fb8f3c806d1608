"""Making a plain model work on shards of sequences, from outside.

In: a `ReformerLM` and a `Topology`. Out: the same model, whose attention layers exchange with the sequence group. All else
(embeddings, feed-forward, norms, loss) treats tokens one by one and needs nothing.
"""

from reformer_dist.model.attention import Attention, Core, LSHCore
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.parallel.collectives import Traffic
from reformer_dist.parallel.sequence_attention import BucketsExchange, HaloExchange, HeadsExchange
from reformer_dist.parallel.topology import Topology


def parallelize(model: ReformerLM, topology: Topology) -> Traffic:
    """Replace, in place, what must communicate; returns the counter of what it sends.

    `config.Config` has refused what cannot work: heads that do not divide, modes that need the whole sequence.
    """
    traffic = Traffic()
    for module in model.modules():
        if isinstance(module, Attention):
            module.core = _exchange(module, topology, traffic)
    return traffic


def _exchange(attention: Attention, topology: Topology, traffic: Traffic) -> Core:
    core, config = attention.core, attention.config
    if topology.bucket_group is not None:
        if attention.kind == "lsh":
            assert isinstance(core, LSHCore)
            core = BucketsExchange(core, topology.bucket_group, traffic)
        else:
            assert attention.kind == "local"
            before, after = (config.local_window - 1, 0) if config.causal else (config.local_window,) * 2
            core = HaloExchange(core, before, after, topology.bucket_group, traffic)
    if topology.head_group is not None:
        length = topology.sequence_length if topology.bucket_group is None else None
        core = HeadsExchange(core, topology.head_group, traffic, length)
    return core
