"""LSH attention in window mode over a sharded sequence: each hash round's tokens travel to their sorted place.

In: this shard's queries-keys and values of some heads, and their buckets. Out: this shard's results, equal to one worker's.
Any number of workers; none ever holds a whole sequence.

Legend: B batch, t tokens of this shard, H heads, R hash rounds, N slices (heads of sequences), P workers.
"""

import math

import torch
from torch import Tensor

from reformer_dist.model.attention.exchange import Exchange
from reformer_dist.model.attention.lsh.call import LSHCall
from reformer_dist.model.backends.rules import Rule, window_rule
from reformer_dist.model.budget import Budget
from reformer_dist.model.randomness import pair_keep, scramble, token_hash
from reformer_dist.parallel.buckets.attention import Settings, bucket_attention
from reformer_dist.parallel.buckets.routing import Route, Router
from reformer_dist.parallel.collectives import Peers, all_gather


class BucketsExchange(Exchange):
    """A worker attends its share of the sorted tokens of every round. The order that it finds are routes."""

    def __init__(self, peers: Peers, budget: Budget) -> None:
        """Share sequences with these workers, in the order of their shards."""
        self.peers, self.budget = peers, budget

    def find_order(self, call: LSHCall, buckets_BHRT: Tensor) -> list[Route]:
        """See `Exchange`."""
        hashes_BtH = _head_hashes(call)
        hashes_Nt = None if hashes_BtH is None else hashes_BtH.transpose(1, 2).flatten(0, 1)
        router = Router(_rule(call), self.peers, self.budget)
        return router.routes(buckets_BHRT, call.context.documents_BT, math.prod(call.config.bucket_factors), hashes_Nt)

    def attend_in_order(self, call: LSHCall, order: list[Route]) -> Tensor:
        """See `Exchange`."""
        hashes_BtH, own_keep_BtH = _head_hashes(call), None
        if call.dropout is not None and hashes_BtH is not None:
            scrambled_BtH = scramble(hashes_BtH)
            own_keep_BtH = pair_keep(scrambled_BtH, scrambled_BtH, call.dropout.probability, call.v_BTHD.dtype)
        if call.config.lsh_brings_next:
            own_keep_BtH = call.v_BTHD.new_zeros(call.v_BTHD.shape[:3])
        del hashes_BtH
        settings = Settings(
            _rule(call),
            self.peers,
            call.dropout,
            call.config.attention_kernel,
            self.budget,
            call.kept,
        )
        return bucket_attention(call.qk_BTHD, call.v_BTHD, order, own_keep_BtH, settings)

    def gather(self, x: Tensor) -> Tensor:
        """See `Exchange`."""
        return all_gather(x, self.peers)


def _rule(call: LSHCall) -> Rule:
    return window_rule(call.config.lsh_window, call.config.causal, call.qk_BTHD.shape[1], with_self=False)


def _head_hashes(call: LSHCall) -> Tensor | None:
    """Dropout hashes of (row, position, head), [B, t, H], as `Orders` draws them before it scrambles them, if any."""
    if call.dropout is None:
        return None
    context, device = call.context, call.qk_BTHD.device
    B, t, H, _ = call.qk_BTHD.shape
    hashes_Bt = token_hash(call.dropout.key, context.first_row, context.first_position, (B, t), device)
    return hashes_Bt[..., None] + torch.arange(context.first_head, context.first_head + H, device=device)
