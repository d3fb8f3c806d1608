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
from torch.nn.functional import linear, normalize

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.head_group import HeadGroup
from reformer_dist.model.attention.kinds import KINDS
from reformer_dist.model.attention.memory import Memory
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.layers.norm import norm_parameters, normalise
from reformer_dist.model.randomness import Use, dropout, make_key
from reformer_dist.model.reversible.borrowed_tokens import SurroundedTokens, undo_pieces
from reformer_dist.model.reversible.layer import Layer
from reformer_dist.model.reversible.undoing import Addition, Cut, Leaves, pieces


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
        self.head_groups = make_head_groups(config, layer, budget)
        """All heads by kind. Where they are too many for a long sequence, they are cut into smaller groups on the way."""
        E, inner = config.embed_dim, config.num_heads * config.head_width
        for name, parameter in norm_parameters(config, E).items():
            self.register_parameter(name, parameter)
        for name in dict.fromkeys(name for group in self.head_groups for name in group.kind.projections):
            rows = self._rows(name, slice(0, config.num_heads))
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(rows.stop, E)))
        self.output_weight = nn.Parameter(torch.empty(E, inner))
        if config.query_key_norm:
            self.temperature = nn.Parameter(torch.full((config.num_heads,), config.head_width**0.5))
        self._names = [name for name, _ in self.named_parameters()]

    def make_memories(self) -> list[Memory]:
        """Empty memories for `decode`.

        Raises:
            ValueError: what a token sees depends on later ones.

        """
        return [group.kind.make_memory(group.heads, self.output_weight.dtype) for group in self.head_groups]

    def decode(self, x_BTE: Tensor, context: Context, memories: Sequence[Memory]) -> Tensor:
        """The contribution [B, T, E] to new tokens, which come after those in `memories` and are put there."""
        parameters = list(self.parameters())
        contributions = []
        for group, memory in zip(self.head_groups, memories, strict=True):
            attended_BTHD = memory.attend(self._project(x_BTE, group, parameters))
            contributions.append(self._join(attended_BTHD, context, 0, group, parameters))
        return _sum(contributions)

    def _contribution(self, x_BTE: Tensor, context: Context, found: list[Any] | None) -> tuple[Tensor, list[Any]]:
        """See `Layer`. What is found is a list by head groups."""
        parameters = list(self.parameters())
        if torch.is_grad_enabled():
            at_once = [self._attend_at_once(x_BTE, context, group, parameters) for group in self.head_groups]
            return _sum([contribution for contribution, _ in at_once]), [known for _, known in at_once]
        out_BTE, now_found = torch.zeros_like(x_BTE), []
        groups = self._groups_for(x_BTE)
        for group, known in zip(groups, found or [None] * len(groups), strict=True):
            if group.kind.reach is None:
                known = self._add_heads(out_BTE, x_BTE, context, known, group, parameters)
            else:
                self._add_pieces(out_BTE, x_BTE, context, group, parameters)
            now_found.append(known)
        return out_BTE, now_found

    def _undo(self, x_BTE: Tensor, context: Context, found: list[Any], addition: Addition, leaves: Leaves) -> None:
        for group, known in zip(self._groups_for(x_BTE), found, strict=True):
            if group.kind.reach is None:
                self._undo_heads(x_BTE, context, known, group, addition, leaves)
            else:
                self._undo_pieces(x_BTE, context, group, addition, leaves)

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
            projected = self._project(x_BTE, group, parameters)
            attended_BTHD, found = group.attend(projected, context, None, self.training)
            return self._join(attended_BTHD, context, 0, group, parameters), found
        tokens, around = _surround(x_BTE, context, group)
        # Empty ends too, so that every worker takes part in giving back.
        whole_BSE = torch.cat([tokens.left, x_BTE, tokens.right], dim=1)
        cut = slice(tokens.start, tokens.end), slice(0, whole_BSE.shape[1])
        return self._attend_piece(group, around, whole_BSE, cut, parameters), None

    def _add_heads(
        self,
        out_BTE: Tensor,
        x_BTE: Tensor,
        context: Context,
        found: Any,
        group: HeadGroup,
        parameters: Sequence[Tensor],
    ) -> Any:
        """Add some heads' contribution in place; returns what was found."""
        attended_BTHD, found = group.attend(
            self._project_by_pieces(x_BTE, group, parameters), context, found, self.training
        )
        for piece in pieces(x_BTE.shape[1], self.budget.projected_tokens):
            out_BTE[:, piece] += self._join(attended_BTHD[:, piece], context, piece.start, group, parameters)
        return found

    def _undo_heads(
        self, x_BTE: Tensor, context: Context, found: Any, group: HeadGroup, addition: Addition, leaves: Leaves
    ) -> None:
        projected = self._project_by_pieces(x_BTE, group, leaves.parameters)
        with torch.enable_grad():
            projected = tuple(x.requires_grad_() for x in projected)
            attended_BTHD, _ = group.attend(projected, context, found, self.training)
        grad_BTHD = torch.empty_like(attended_BTHD)
        for piece in pieces(x_BTE.shape[1], self.budget.projected_tokens):
            attended = attended_BTHD[:, piece].detach().requires_grad_()
            with torch.enable_grad():
                contribution = self._join(attended, context, piece.start, group, leaves.parameters)
            addition.stream_BTE[:, piece] -= contribution.detach()
            (grad_BTHD[:, piece],) = leaves.pull([contribution], [addition.grad_BTE[:, piece]], [attended])
        grads = torch.autograd.grad(attended_BTHD, projected, grad_BTHD)
        del attended_BTHD, projected, grad_BTHD
        for piece in pieces(x_BTE.shape[1], self.budget.projected_tokens):
            x = x_BTE[:, piece].detach().requires_grad_()
            with torch.enable_grad():
                parts = self._project(x, group, leaves.parameters)
            (gradient,) = leaves.pull(parts, [grad[:, piece] for grad in grads], [x])
            addition.grad_input_BTE[:, piece] += gradient

    def _add_pieces(
        self, out_BTE: Tensor, x_BTE: Tensor, context: Context, group: HeadGroup, parameters: Sequence[Tensor]
    ) -> None:
        """Add the contribution of heads whose kind has a reach, in place."""
        tokens, around = _surround(x_BTE, context, group)
        for cut in self._cuts(tokens, group):
            own, seen = cut
            out_BTE[:, tokens.in_shard(own)] += self._attend_piece(group, around, tokens.read(seen), cut, parameters)

    def _undo_pieces(
        self, x_BTE: Tensor, context: Context, group: HeadGroup, addition: Addition, leaves: Leaves
    ) -> None:
        tokens, around = _surround(x_BTE, context, group)
        piece = partial(self._attend_piece, group, around)
        grads = undo_pieces(piece, tokens, self._cuts(tokens, group), addition, leaves)
        group.exchange.give_back(grads.own, grads.left, grads.right)

    def _attend_piece(
        self, group: HeadGroup, around: Context, x_BSE: Tensor, cut: Cut, parameters: Sequence[Tensor]
    ) -> Tensor:
        """The contribution to the tokens `cut[0]`, from the tokens `cut[1]`; `around` is the place of the first there is."""
        own, seen = cut
        documents_BT = None if around.documents_BT is None else around.documents_BT[:, seen]
        here = replace(around, documents_BT=documents_BT, first_position=around.first_position + seen.start)
        attended_BSHD, _ = group.attend(self._project(x_BSE, group, parameters), here, None, self.training)
        attended_BTHD = attended_BSHD[:, own.start - seen.start : own.stop - seen.start]
        return self._join(attended_BTHD, around, own.start, group, parameters)

    def _cuts(self, tokens: SurroundedTokens, group: HeadGroup) -> Iterator[Cut]:
        assert group.kind.reach is not None
        return tokens.cuts(max(self.budget.projected_tokens, group.kind.shortest_piece), *group.kind.reach)

    def _project(self, x_BTE: Tensor, group: HeadGroup, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The kind's projections of some heads, each [B, T, H, D]."""
        own = self._by_name(parameters)
        x_BTE = normalise(x_BTE, own, self.config)
        projected = {}
        for name in group.kind.projections:
            weight = own[f"{name}_weight"][self._rows(name, group.heads)]
            projected[name] = linear(x_BTE, weight).unflatten(-1, (-1, self.config.head_width))
        if self.config.query_key_norm:
            temperature_H1 = own["temperature"][group.heads, None]
            for name in projected.keys() - {"value"}:
                projected[name] = _at_temperature(projected[name], None if name == "key" else temperature_H1)
        return tuple(projected.values())

    def _project_by_pieces(self, x_BTE: Tensor, group: HeadGroup, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The same, without the normalised stream ever being whole."""
        whole: list[Tensor] = []
        for piece in pieces(x_BTE.shape[1], self.budget.projected_tokens):
            parts = self._project(x_BTE[:, piece], group, parameters)
            if not whole:
                whole = [part.new_empty(*x_BTE.shape[:2], *part.shape[2:]) for part in parts]
            for x, part in zip(whole, parts, strict=True):
                x[:, piece] = part
        return tuple(whole)

    def _join(
        self, attended_BTHD: Tensor, context: Context, start: int, group: HeadGroup, parameters: Sequence[Tensor]
    ) -> Tensor:
        """Some heads' results back to the model's width, [B, T, E]; the first token is `start` after the context's."""
        width = self.config.head_width
        columns = slice(group.heads.start * width, group.heads.stop * width)
        out_BTE = linear(attended_BTHD.flatten(2), self._by_name(parameters)["output_weight"][:, columns])
        if self.training and self.config.hidden_dropout > 0:
            key = make_key(self.config.seed, context.step, self.layer, Use.ATTENTION_OUTPUT)
            first_position = context.first_position + start
            out_BTE = dropout(out_BTE, self.config.hidden_dropout, key, context.first_row, first_position)
        return out_BTE

    def _by_name(self, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._names, parameters, strict=True))

    def _rows(self, name: str, heads: slice) -> slice:
        """The rows of a projection that belong to some heads."""
        users = [group.heads for group in self.head_groups if name in group.kind.projections]
        first, last = (sum(min(head, x.stop) - min(head, x.start) for x in users) for head in (heads.start, heads.stop))
        return slice(first * self.config.head_width, last * self.config.head_width)


def _at_temperature(x_BTHD: Tensor, temperature_H1: Tensor | None) -> Tensor:
    """Queries as long as their head's temperature, or keys so long that scores q . k / sqrt(D) are temperature x cosine."""
    unit_BTHD = normalize(x_BTHD, dim=-1)
    return unit_BTHD * (x_BTHD.shape[-1] ** 0.5 if temperature_H1 is None else temperature_H1)


def _surround(x_BTE: Tensor, context: Context, group: HeadGroup) -> tuple[SurroundedTokens, Context]:
    """The stream between its neighbours' tokens, and the place of the first of those."""
    tokens = SurroundedTokens(x_BTE, *group.exchange.borrow(x_BTE))
    documents_BS = context.documents_BT
    if documents_BS is not None:
        left, right = group.exchange.borrow(documents_BS)
        documents_BS = torch.cat([left, documents_BS, right], dim=1)
    return tokens, replace(context, documents_BT=documents_BS, first_position=context.first_position - tokens.start)


def _sum(contributions: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, contributions)
