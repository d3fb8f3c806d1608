"""The order of every hash round's tokens, computed by torch: by document, then bucket, then position.

In: `OrderedTokens`. Out: for some slices and a round, the tokens in order, and what must agree between a query and a key.

Legend: B batch, T tokens, H heads, N slices (heads of sequences).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.backends.description import NO_KEY, PADDING, OrderedTokens
from reformer_dist.model.randomness import scramble, token_hash

LAST = (1 << 31) - 1  # segment of padding: it sorts behind all others


class Orders:
    """Orders of one attention call; slice n is head n % H of sequence n // H."""

    def __init__(self, blocks: OrderedTokens, v_BTHD: Tensor) -> None:
        """Nothing is sorted yet; `v_BTHD` gives shape and device."""
        self.blocks = blocks
        self.B, self.T, self.H, _ = v_BTHD.shape
        self.device = v_BTHD.device
        self._known: dict[tuple[int, int], Tensor] = {}

    def of_round(self, first: int, last: int, index: int) -> Tensor:
        """Tokens of a round in order, [N, T] int32; kept, since the backward pass asks again."""
        if (first, index) not in self._known:
            self._known[first, index] = self._sort(first, last, index).int()
        return self._known[first, index]

    def sorted_round(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Tokens of round `index` in order, for all slices, and the segment of each place.

        Both are [N, T]; segments are small integers that must agree, NO_KEY for padding, and None where all are one.
        """
        blocks, slices = self.blocks, (0, self.B * self.H)
        tokens_NT = self._sort(*slices, index)
        if not blocks.rule.same_bucket or blocks.buckets_BHRT is None:
            if blocks.context.documents_BT is None:
                return tokens_NT, None
            segments_NT = self.documents(*slices).gather(1, tokens_NT)
            return tokens_NT, segments_NT.masked_fill(segments_NT == LAST, NO_KEY)
        segments_NT = self.segments(*slices, index).gather(1, tokens_NT)
        is_new_NT = segments_NT[:, 1:] != segments_NT[:, :-1]
        ranks_NT = pad(is_new_NT.cumsum(1), (1, 0))
        return tokens_NT, ranks_NT.masked_fill(segments_NT == LAST, NO_KEY)

    def documents(self, first: int, last: int) -> Tensor:
        """Document of every token, LAST for padding, [N, T] int64."""
        documents_BT = self.blocks.context.documents_BT
        if documents_BT is None:
            return torch.zeros(1, 1, dtype=torch.int64, device=self.device).expand(last - first, self.T)
        sequences_N = torch.arange(first, last, device=self.device) // self.H
        documents_NT = documents_BT[sequences_N]
        return documents_NT.masked_fill(documents_NT == PADDING, LAST)

    def segments(self, first: int, last: int, index: int) -> Tensor:
        """(document, bucket) of every token as one number, LAST for padding, [N, T] int64."""
        documents_NT = self.documents(first, last)
        if self.blocks.buckets_BHRT is None:
            return documents_NT
        buckets_NT = self.blocks.buckets_BHRT[:, :, index].flatten(0, 1)[first:last].long()
        return (documents_NT * self.blocks.num_buckets + buckets_NT).masked_fill_(documents_NT == LAST, LAST)

    def token_hashes(self, first: int, last: int) -> Tensor:
        """A hash of (row, position, head) for every token, for dropout, [N, T] int64."""
        context, dropout = self.blocks.context, self.blocks.dropout
        assert dropout is not None
        hashes_BT = token_hash(dropout.key, context.first_row, context.first_position, (self.B, self.T), self.device)
        slices_N = torch.arange(first, last, device=self.device)
        return scramble(hashes_BT[slices_N // self.H] + (slices_N % self.H + context.first_head)[:, None])

    def _sort(self, first: int, last: int, index: int) -> Tensor:
        positions_T = torch.arange(self.T, device=self.device)
        if self.blocks.buckets_BHRT is None:
            return positions_T.expand(last - first, self.T)
        return torch.sort(self.segments(first, last, index) * self.T + positions_T).values % self.T
