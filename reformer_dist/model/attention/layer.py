"""The attention layer: a norm, projections into heads, attention by the heads' kinds, and the projection back.

In: a stream [B, T, E]. Out: the layer's contribution [B, T, E] and what its head groups found; or it is undone. A long
sequence is worked through by pieces of tokens where a kind has a reach, by head groups where it has none.

Legend: B batch, T tokens of this shard, S with those borrowed from neighbours, E model dimension, H heads, D head dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.head_group import HeadGroup
from reformer_dist.model.attention.kinds import KINDS
from reformer_dist.model.attention.memory import Memory
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept
from reformer_dist.model.layers.convolution import convolution_parameters
from reformer_dist.model.layers.norm import norm_parameters
from reformer_dist.model.reversible.borrowed_tokens import (
    Neighbours,
    SurroundedTokens,
    gradients_of,
    surround,
    undo_pieces,
)
from reformer_dist.model.reversible.layer import Layer
from reformer_dist.model.reversible.undoing import Addition, Cut, Leaves, pieces

Near = tuple[SurroundedTokens, Context]
"""A stream between borrowed tokens, and the place of the first of those."""


def make_head_groups(config: ModelConfig, layer: int, budget: Budget) -> list[HeadGroup]:
    """The heads of a layer by kind, in order; today all heads of a layer are of one kind."""
    return [HeadGroup(KINDS[config.layers[layer]](config, layer, budget), slice(0, config.num_heads))]


class Attention(Layer):
    """Attention over one stream.

    A projection has rows for the heads of those kinds that name it, in the order of the heads.
    """

    def __init__(self, config: ModelConfig, layer: int, budget: Budget) -> None:
        super().__init__()
        self.config, self.layer, self.budget = config, layer, budget
        self.keep = config.kept_by_layers[layer]
        self.head_groups = make_head_groups(config, layer, budget)
        """All heads by kind. Where they are too many for a long sequence, they are cut into smaller groups on the way."""
        E, inner = config.embed_dim, config.num_heads * config.head_width
        self.neighbours = Neighbours()
        """Who lends `near_reach` tokens beside the shard, for heads of kinds without a reach of their own."""
        for name, parameter in (norm_parameters(config, E) | convolution_parameters(config)).items():
            self.register_parameter(name, parameter)
        for name in dict.fromkeys(name for group in self.head_groups for name in group.kind.projections):
            rows = self._rows(name, slice(0, config.num_heads))
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(rows.stop, E)))
        self.output_weight = nn.Parameter(torch.empty(E, inner))
        if config.query_key_norm:
            self.temperature = nn.Parameter(torch.full((config.num_heads,), config.head_width**0.5))
        self._names = [name for name, _ in self.named_parameters()]

    @property
    def near_reach(self) -> tuple[int, int]:
        """Tokens before and after a shard's own that `neighbours` lend: what the convolution and next values reach."""
        before, after = self.config.convolution_reach
        return before, max(after, *(int(group.kind.brings_next) for group in self.head_groups))

    def read_first(self, x_BTE: Tensor, group: HeadGroup, memory: Memory) -> Tensor:
        """Some heads' contribution [B, T, E] to the first tokens of sequences, which their memory then keeps."""
        attended_BTHD = memory.read(self.projections(x_BTE, Context(), group))
        return group.join(attended_BTHD, Context(), 0, self._own(group, list(self.parameters())), self.training)

    def projections(self, x_BTE: Tensor, context: Context, group: HeadGroup) -> tuple[Tensor, ...]:
        """Some heads' projections of this shard's tokens, each [B, T, H, D], as their memory takes them."""
        near = surround(x_BTE, context, self.neighbours)
        return self._project_by_pieces(near, group, list(self.parameters()), are_next=False)

    def weights_of(self, group: HeadGroup) -> tuple[list[Tensor], Tensor]:
        """Some heads' weights: of their kind's projections [N, E], and of the way back [E, N]."""
        own = self._own(group, list(self.parameters()))
        return [own[f"{name}_weight"] for name in group.kind.projections], own["output_weight"]

    def _contribution(
        self, x_BTE: Tensor, context: Context, found: list[Any] | None, kept: Kept | None
    ) -> tuple[Tensor, list[Any]]:
        """See `Layer`. What is found is a list by head groups."""
        parameters = list(self.parameters())
        if torch.is_grad_enabled():
            at_once = [self._attend_at_once(x_BTE, context, group, parameters) for group in self.head_groups]
            return _sum([contribution for contribution, _ in at_once]), [known for _, known in at_once]
        out_BTE, now_found = torch.zeros_like(x_BTE), []
        groups = self._groups_for(x_BTE)
        near = self._surround_heads(x_BTE, context)
        for group, known in zip(groups, found or [None] * len(groups), strict=True):
            here = _of_group(kept, group)
            if group.kind.reach is None:
                known = self._add_heads(out_BTE, near, context, known, group, parameters, here)
            else:
                self._add_pieces(out_BTE, x_BTE, context, group, parameters, here)
            now_found.append(known)
        return out_BTE, now_found

    def _undo(
        self,
        x_BTE: Tensor,
        context: Context,
        found: list[Any],
        addition: Addition,
        kept: Kept | None,
        leaves: Leaves,
    ) -> None:
        near = self._surround_heads(x_BTE, context)
        grads = gradients_of(near[0], addition)
        for group, known in zip(self._groups_for(x_BTE), found, strict=True):
            here = _of_group(kept, group)
            if group.kind.reach is None:
                self._undo_heads(near, context, known, group, addition, grads, leaves, here)
            else:
                self._undo_pieces(x_BTE, context, group, addition, leaves, here)
        if self._has_heads:
            self.neighbours.give_back(grads.own, grads.left, grads.right)

    def _groups_for(self, x_BTE: Tensor) -> list[HeadGroup]:
        """The head groups of a stream: those of a kind with a reach whole, the others cut as its length demands."""
        num_tokens, groups = x_BTE.shape[0] * x_BTE.shape[1], []
        for group in self.head_groups:
            groups += group.fitting(num_tokens, self.budget) if group.kind.reach is None else [group]
        return groups

    def _attend_at_once(
        self, x_BTE: Tensor, context: Context, group: HeadGroup, parameters: Sequence[Tensor]
    ) -> tuple[Tensor, Any]:
        """Contribution and what was found, by differentiable operations on all tokens."""
        if group.kind.reach is None:
            tokens, around = surround(x_BTE, context, self.neighbours)
            own = slice(tokens.start, tokens.end)
            weights = self._own(group, parameters)
            projected = group.project(tokens.whole, own, around.documents_BT, weights)
            attended_BTHD, found = group.attend(projected, context, None, self.training)
            return group.join(attended_BTHD, context, 0, weights, self.training), found
        tokens, around = surround(x_BTE, context, group.exchange)
        whole_BSE = tokens.whole
        cut = slice(tokens.start, tokens.end), slice(0, whole_BSE.shape[1])
        return self._attend_piece(group, around, whole_BSE, cut, parameters), None

    def _add_heads(
        self,
        out_BTE: Tensor,
        near: Near,
        context: Context,
        found: Any,
        group: HeadGroup,
        parameters: Sequence[Tensor],
        kept: Kept | None,
    ) -> Any:
        """Add some heads' contribution in place; returns what was found."""
        projected = self._project_by_pieces(near, group, parameters, kept)
        attended_BTHD, found = group.attend(projected, context, found, self.training, kept)
        del projected
        weights = self._own(group, parameters)
        for piece in pieces(out_BTE.shape[1], self.budget.projected_tokens):
            out_BTE[:, piece] += group.join(attended_BTHD[:, piece], context, piece.start, weights, self.training)
        return found

    def _undo_heads(
        self,
        near: Near,
        context: Context,
        found: Any,
        group: HeadGroup,
        addition: Addition,
        grads_of_tokens: SurroundedTokens,
        leaves: Leaves,
        kept: Kept | None,
    ) -> None:
        projected = self._project_by_pieces(near, group, leaves.parameters, kept)
        with torch.enable_grad():
            projected = tuple(x.requires_grad_() for x in projected)
            attended_BTHD, _ = group.attend(projected, context, found, self.training, kept)
        grad_BTHD = torch.empty_like(attended_BTHD)
        is_seen = addition.stream_BTE is not None
        for piece in pieces(attended_BTHD.shape[1], self.budget.projected_tokens):
            attended = attended_BTHD[:, piece].detach().requires_grad_()
            with torch.enable_grad():
                weights = self._own(group, leaves.parameters)
                contribution = group.join(attended, context, piece.start, weights, self.training, is_seen=is_seen)
            addition.take_off(piece, contribution)
            (grad_BTHD[:, piece],) = leaves.pull([contribution], [addition.grad_BTE[:, piece]], [attended])
        grads = torch.autograd.grad(attended_BTHD, projected, grad_BTHD)
        del attended_BTHD, projected, grad_BTHD
        tokens, around = near
        for own, seen in self._near_cuts(tokens):
            x = tokens.read(seen).detach().requires_grad_()
            with torch.enable_grad():
                weights = self._own(group, leaves.parameters)
                documents_BS, results = around.documents_of(seen), None if kept is None else kept.at(own.start)
                parts = group.project(x, _within(own, seen), documents_BS, weights, kept=results, is_seen=False)
            here = tokens.in_shard(own)
            (gradient,) = leaves.pull(parts, [grad[:, here] for grad in grads], [x])
            grads_of_tokens.add(seen, gradient)

    def _add_pieces(
        self,
        out_BTE: Tensor,
        x_BTE: Tensor,
        context: Context,
        group: HeadGroup,
        parameters: Sequence[Tensor],
        kept: Kept | None,
    ) -> None:
        """Add the contribution of heads whose kind has a reach, in place."""
        tokens, around = surround(x_BTE, context, group.exchange)
        for cut in self._cuts(tokens, group):
            own, seen = cut
            contribution = self._attend_piece(group, around, tokens.read(seen), cut, parameters, kept=kept)
            out_BTE[:, tokens.in_shard(own)] += contribution

    def _undo_pieces(
        self,
        x_BTE: Tensor,
        context: Context,
        group: HeadGroup,
        addition: Addition,
        leaves: Leaves,
        kept: Kept | None,
    ) -> None:
        tokens, around = surround(x_BTE, context, group.exchange)
        piece = partial(self._attend_piece, group, around, kept=kept, is_seen=addition.stream_BTE is not None)
        grads = undo_pieces(piece, tokens, self._cuts(tokens, group), addition, leaves)
        group.exchange.give_back(grads.own, grads.left, grads.right)

    def _attend_piece(
        self,
        group: HeadGroup,
        around: Context,
        x_BSE: Tensor,
        cut: Cut,
        parameters: Sequence[Tensor],
        *,
        kept: Kept | None = None,
        is_seen: bool = True,
    ) -> Tensor:
        """The contribution to the tokens `cut[0]`, from the tokens `cut[1]`; `around` is the place of the first there is.

        Where nobody looks at it, it need not be right.
        """
        own, seen = cut
        kept = None if kept is None else kept.at(own.start)
        assert group.kind.reach is not None
        before, after = group.kind.reach
        met = slice(max(seen.start, own.start - before), min(own.stop + after, seen.stop))
        weights = self._own(group, parameters)
        projected = group.project(x_BSE, _within(met, seen), around.documents_of(seen), weights, kept=kept)
        first_position = around.first_position + met.start
        here = replace(around, documents_BT=around.documents_of(met), first_position=first_position)
        attended_BSHD, _ = group.attend(projected, here, None, self.training, kept)
        attended_BTHD = attended_BSHD[:, _within(own, met)]
        return group.join(attended_BTHD, around, own.start, weights, self.training, is_seen=is_seen)

    def _cuts(self, tokens: SurroundedTokens, group: HeadGroup) -> Iterator[Cut]:
        assert group.kind.reach is not None
        reach = (own + near for own, near in zip(group.kind.reach, self.config.convolution_reach, strict=True))
        return tokens.cuts(max(self.budget.projected_tokens, group.kind.shortest_piece), *reach)

    def _near_cuts(self, tokens: SurroundedTokens) -> Iterator[Cut]:
        return tokens.cuts(self.budget.projected_tokens, *self.near_reach)

    def _surround_heads(self, x_BTE: Tensor, context: Context) -> Near:
        """The stream between those tokens that heads of kinds without a reach need for their convolution."""
        return surround(x_BTE, context, self.neighbours if self._has_heads else Neighbours())

    @property
    def _has_heads(self) -> bool:
        """Whether some heads are of a kind without a reach."""
        return any(group.kind.reach is None for group in self.head_groups)

    def _project_by_pieces(
        self,
        near: Near,
        group: HeadGroup,
        parameters: Sequence[Tensor],
        kept: Kept | None = None,
        *,
        are_next: bool = True,
    ) -> tuple[Tensor, ...]:
        """Some heads' projections of all tokens of the shard, without the normalised stream ever being whole."""
        tokens, around = near
        weights, whole = self._own(group, parameters), list[Tensor]()
        for own, seen in self._near_cuts(tokens):
            documents_BS = around.documents_of(seen)
            here = None if kept is None else kept.at(own.start)
            x_BSE, wanted = tokens.read(seen), _within(own, seen)
            parts = group.project(x_BSE, wanted, documents_BS, weights, are_next=are_next, kept=here)
            if not whole:
                whole = [part.new_empty(*tokens.own.shape[:2], *part.shape[2:]) for part in parts]
            for x, part in zip(whole, parts, strict=True):
                x[:, tokens.in_shard(own)] = part
        return tuple(whole)

    def _own(self, group: HeadGroup, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        """The parameters by name, of matrices and temperatures those of some heads."""
        own, heads, width = dict(zip(self._names, parameters, strict=True)), group.heads, self.config.head_width
        for name in group.kind.projections:
            own[f"{name}_weight"] = own[f"{name}_weight"][self._rows(name, heads)]
        own["output_weight"] = own["output_weight"][:, heads.start * width : heads.stop * width]
        if self.config.query_key_norm:
            own["temperature"] = own["temperature"][heads]
        return own

    def _rows(self, name: str, heads: slice) -> slice:
        """The rows of a projection that belong to some heads."""
        users = [group.heads for group in self.head_groups if name in group.kind.projections]
        first, last = (sum(min(head, x.stop) - min(head, x.start) for x in users) for head in (heads.start, heads.stop))
        return slice(first * self.config.head_width, last * self.config.head_width)


def _of_group(kept: Kept | None, group: HeadGroup) -> Kept | None:
    return None if kept is None else kept.at(group.heads.start)


def _within(part: slice, whole: slice) -> slice:
    """A part of a slice, counted from the slice's start."""
    return slice(part.start - whole.start, part.stop - whole.start)


def _sum(contributions: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, contributions)
