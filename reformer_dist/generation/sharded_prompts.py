"""Reading a prompt by several workers, each a shard of it, by the passes that train; one of them goes on alone.

In: a model into which `parallelize` has put exchanges, a prompt, a topology of one sequence group. Out: on the first worker
a decoder that has read the prompt, and the logits after it.

Legend: B batch (1), T tokens of the prompt, t of a shard, E model dimension, V vocabulary.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.generation.decoding import Decoder
from reformer_dist.model.attention.decoding import DecodingAttention
from reformer_dist.model.context import Context
from reformer_dist.model.layers.decoding import DecodingFeedForward
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.parallel.topology import Topology


@torch.no_grad()
def read_sharded(model: ReformerLM, prompt_T: Tensor, topology: Topology) -> tuple[Decoder, Tensor] | None:
    """Read the whole prompt; every worker calls it with the same one. Each holds its shard's activations alone.

    The first worker also holds what decoding remembers, of which it gets each worker's part layer by layer.

    Returns:
        a decoder of one row and the logits [1, V] after the prompt, on the first worker; None on the others.

    """
    shard = _Shard(prompt_T, topology)
    was_training = model.training
    model.eval()
    decoder = Decoder(model)
    reach = model.config.convolution_reach[0]
    first_BTE = second_BTE = model.embed(shard.tokens_BT, shard.positions_BT)
    for block, attention, feed_forward in zip(
        model.stack.blocks, decoder.layers[::2], decoder.layers[1::2], strict=True
    ):
        assert isinstance(attention, DecodingAttention)
        assert isinstance(feed_forward, DecodingFeedForward)
        projections = [
            tuple(shard.gathered(x) for x in of_group) for of_group in attention.projections(second_BTE, shard.context)
        ]
        last_BTE = shard.last(second_BTE, reach)
        if shard.is_first:
            attention.fill(projections, last_BTE)
        first_BTE = first_BTE + block.attention.contribute(second_BTE, shard.context)[0]
        last_BTE = shard.last(first_BTE, reach)
        if shard.is_first:
            feed_forward.fill(last_BTE)
        second_BTE = second_BTE + block.feed_forward.contribute(first_BTE, shard.context)[0]
    ends = shard.last(first_BTE, 1), shard.last(second_BTE, 1)
    logits_BV = model.output(*ends)[:, 0]
    model.train(was_training)
    decoder.lengths = [len(prompt_T)]
    return (decoder, logits_BV) if shard.is_first else None


class _Shard:
    """A worker's part of a prompt; the last ones may be padded."""

    def __init__(self, prompt_T: Tensor, topology: Topology) -> None:
        self._length, self._group = len(prompt_T), topology.sequence_group
        self._num_shards, self.is_first = topology.sequence_shards, topology.shard == 0
        t = -(-self._length // self._num_shards)
        self._start = topology.shard * t
        own = prompt_T[self._start : self._start + t]
        self.tokens_BT = pad(own, (0, t - len(own)))[None]
        places_BT = torch.arange(self._start, self._start + t, device=prompt_T.device)[None]
        is_token_BT = places_BT < self._length
        self.positions_BT = torch.where(is_token_BT, places_BT, 0)
        is_padded = t * self._num_shards > self._length
        documents_BT = torch.where(is_token_BT, 0, -1) if is_padded else None
        self.context = Context(documents_BT=documents_BT, first_position=self._start)

    def gathered(self, x_BT: Tensor) -> Tensor:
        """On the first worker the tokens of all shards, [B, T, ...], without padding; elsewhere nothing that is read."""
        if self._num_shards == 1:
            return x_BT
        x_BT = x_BT.contiguous()
        parts = [torch.empty_like(x_BT) for _ in range(self._num_shards)] if self.is_first else None
        dist.gather(x_BT, parts, group=self._group, group_dst=0)
        return x_BT if parts is None else torch.cat(parts, dim=1)[:, : self._length]

    def last(self, x_BTE: Tensor, number: int) -> Tensor:
        """The prompt's last tokens [B, number, E], fewer if it is shorter; on every worker."""
        number = min(number, self._length)
        first = self._length - number
        last_BTE = x_BTE.new_zeros(x_BTE.shape[0], number, x_BTE.shape[2])
        begin, end = max(first, self._start), min(self._length, self._start + x_BTE.shape[1])
        if begin < end:
            last_BTE[:, begin - first : end - first] = x_BTE[:, begin - self._start : end - self._start]
        if self._num_shards > 1 and number:
            dist.all_reduce(last_BTE, group=self._group)
        return last_BTE
