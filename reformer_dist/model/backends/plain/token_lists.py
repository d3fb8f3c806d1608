"""Whole sequences as ordered lists for the plain backend.

In: `OrderedTokens`. Out: the `Stretch`es of every round, for some slices at a time.

Legend: T tokens, N slices (heads of sequences), L places of a round's list with the blocks around it, R rounds,
W block length.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from reformer_dist.model.backends.description import NO_KEY, OrderedTokens
from reformer_dist.model.backends.orders import LAST, Orders
from reformer_dist.model.backends.plain.blocks import Blocks, OrderedList, Stretch, stretches
from reformer_dist.model.randomness import pair_keep


class TokenLists:
    """The rounds' lists of one attention call. Slice n is head n % H of sequence n // H."""

    def __init__(self, blocks: OrderedTokens, v_BTHD: Tensor) -> None:
        """Describe lists for values of this shape, dtype and device."""
        self._blocks, self._orders = blocks, Orders(blocks, v_BTHD)
        self._T, self._dtype, self._device = v_BTHD.shape[1], v_BTHD.dtype, v_BTHD.device
        self._num_blocks = math.ceil(self._T / blocks.rule.block) + blocks.rule.empty
        self.num_rounds, self.budget = blocks.num_rounds, blocks.budget

    def stretches(self, first: int, last: int, index: int) -> Iterator[Stretch]:
        """The list of round `index` for the slices first..last-1, stretch by stretch; each token is once a query.

        Entries are tokens, and T at places that hold none.
        """
        corrected = self._blocks.rule.once and self.num_rounds > 1
        # Slices come in groups that are bounded already: they do not make stretches shorter.
        for part in stretches(self._list(first, last, index), self._blocks, self._dtype, slices_counted=1):
            if corrected:
                part.mask_NCWK.sub_(self._log_meetings(part.blocks, part.entries_NS, first, last))
            yield part

    def own_keep(self, first: int, last: int) -> Tensor | None:
        """Multipliers of every token's weight on its own value, [N, T]: dropout's, or zeros; None for ones."""
        if not self._blocks.rule.own_value:
            return torch.zeros(last - first, self._T, dtype=self._dtype, device=self._device)
        if self._blocks.dropout is None:
            return None
        hashes_NT = self._orders.token_hashes(first, last)
        return pair_keep(hashes_NT, hashes_NT, self._blocks.dropout.probability, self._dtype)

    def _list(self, first: int, last: int, index: int) -> OrderedList:
        """A round's whole list, with the blocks around it."""
        rule, T, W = self._blocks.rule, self._T, self._blocks.rule.block
        filled = self._num_blocks * W
        places_L = torch.arange(-rule.before * W, filled + rule.after * W, device=self._device)
        if rule.circular:
            places_L = (places_L + index * filled) % (self.num_rounds * filled)
            orders_NRT = torch.stack([self._orders.of_round(first, last, r) for r in range(self.num_rounds)], dim=1)
            tokens_NL = orders_NRT[:, places_L // filled, (places_L % filled).clamp(max=T - 1)].long()
            places_L = places_L % filled
        else:
            tokens_NL = self._orders.of_round(first, last, index)[:, places_L.clamp(0, T - 1)].long()
        same = self._orders.segments(first, last, index) if rule.same_bucket else self._orders.documents(first, last)
        real_L = (places_L >= 0) & (places_L < T)
        segments_NL = same.gather(1, tokens_NL)
        segments_NL = segments_NL.where(real_L & (segments_NL != LAST), NO_KEY)
        hashes_NL = None
        if self._blocks.dropout is not None:
            hashes_NL = self._orders.token_hashes(first, last).gather(1, tokens_NL)
        return OrderedList(tokens_NL.where(real_L, T), segments_NL, hashes_NL)

    def _log_meetings(self, blocks: Blocks, tokens_NS: Tensor, first: int, last: int) -> Tensor:
        """Log of the number of rounds in which a query and a key meet: the paper's N_ij, at least 1."""
        rule = self._blocks.rule
        meetings = torch.zeros(1, dtype=self._dtype, device=self._device)
        chunks_T = torch.arange(self._T, device=self._device) // rule.block
        carry = self._num_blocks + 2  # no chunk number reaches it, so that (segment, chunk) as one number is exact
        for index in range(self.num_rounds):
            order_NT = self._orders.of_round(first, last, index).long()
            chunk_NT = torch.empty_like(order_NT).scatter_(1, order_NT, chunks_T.expand_as(order_NT))
            code_NT = self._orders.segments(first, last, index) * carry + chunk_NT
            code_NS = code_NT.gather(1, tokens_NS.clamp(max=self._T - 1))
            back = blocks.queries(code_NS)[..., None] - blocks.keys(code_NS)[:, :, None, :]
            meetings = meetings + ((back <= rule.before) & (back >= -rule.after))
        return meetings.clamp_(min=1).log_()
