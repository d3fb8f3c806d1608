"""Making a plain model work on shards of sequences, from outside.

In: a `ReformerLM` and a `Topology`. Out: the same model, whose attention layers exchange with the sequence group. All else
(embeddings, feed-forward, norms, loss) treats tokens one by one and needs nothing.
"""

from reformer_dist.model.attention import Attention
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.parallel.sequence_attention import HeadsExchange
from reformer_dist.parallel.topology import Topology


def parallelize(model: ReformerLM, topology: Topology) -> None:
    """Replace, in place, what must communicate.

    Raises:
        ValueError: the heads do not divide over the shards.
    """
    group = topology.sequence_group
    if group is None:
        return
    heads, shards = model.config.num_heads, topology.sequence_shards
    if heads % shards:
        raise ValueError(
            f"parallel.sequence_shards = {shards} does not divide model.num_heads = {heads}; {heads} works"
        )
    for module in model.modules():
        if isinstance(module, Attention):
            module.core = HeadsExchange(module.core, group, topology.sequence_length)
