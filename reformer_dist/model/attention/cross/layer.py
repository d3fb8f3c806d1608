"""The cross-attention layer: a decoder's stream asks, an encoder's memory answers.

In: a stream [B, T, E], and the memory of the source in its context. Out: the layer's contribution [B, T, E]; or it is
undone, which adds to the memory's gradient. Queries are worked through by pieces of tokens, keys and values by groups of
heads, so memory grows with source plus target.

Legend: B batch, T tokens of this shard, s tokens of this shard of the source, S of the whole source, E model dimension,
H heads, D head dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.cross.exchange import SourceExchange
from reformer_dist.model.attention.cross.kind import SourceHeads
from reformer_dist.model.attention.cross.kinds import CROSS_KINDS
from reformer_dist.model.attention.head_group import at_temperature
from reformer_dist.model.attention.rotary import turn_each
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context, Source
from reformer_dist.model.keeping import Kept, Results, found_or_made, product
from reformer_dist.model.layers.norm import norm_parameters, normalise
from reformer_dist.model.randomness import Use, dropout, make_key
from reformer_dist.model.reversible.layer import Layer
from reformer_dist.model.reversible.undoing import Addition, Leaves, pieces


class CrossAttention(Layer):
    """Attention of one stream to a source."""

    def __init__(self, config: ModelConfig, layer: int, budget: Budget) -> None:
        super().__init__()
        self.config, self.layer, self.budget = config, layer, budget
        self.keep = config.kept_by_layers[layer]
        self.kind = CROSS_KINDS[config.cross_attention](config, layer, budget)
        self.exchange = SourceExchange()
        """How the shards of a source meet; `parallelize` puts it in."""
        E, inner = config.embed_dim, config.num_heads * config.head_width
        for name, parameter in norm_parameters(config, E).items():
            self.register_parameter(name, parameter)
        for name in ("query", "key", "value"):
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(inner, E)))
        self.output_weight = nn.Parameter(torch.empty(E, inner))
        if config.query_key_norm:
            self.temperature = nn.Parameter(torch.full((config.num_heads,), config.head_width**0.5))
        self._names = [name for name, _ in self.named_parameters()]

    def heads_of(self, source: Source) -> SourceHeads:
        """All heads' keys and values of a source, for decoding."""
        return self._heads_of(source, slice(0, self.config.num_heads), self._by_name(list(self.parameters())))

    def answer(self, x_BTE: Tensor, heads: SourceHeads, index: Any, context: Context) -> Tensor:
        """The contribution to some tokens [B, T, E], from all heads of `heads_of` and what their kind knows of the keys."""
        parameters, group = self._by_name(list(self.parameters())), slice(0, self.config.num_heads)
        q_BTHD = self._queries(x_BTE, context, group, parameters)
        found = self.kind.find(q_BTHD, context, False)
        attended_BTHD = self.kind.attend(q_BTHD, heads, index, found, context, False)
        return self._join(attended_BTHD, context, group, parameters)

    def _contribution(
        self, x_BTE: Tensor, context: Context, found: list[Any] | None, kept: Kept | None
    ) -> tuple[Tensor, list[Any]]:
        """See `Layer`. What is found is a list by groups of heads, of what the kind found of all queries."""
        parameters, source = self._by_name(list(self.parameters())), _source_of(context)
        groups = [slice(0, self.config.num_heads)] if torch.is_grad_enabled() else self._groups(x_BTE, source)
        out_BTE, now_found = torch.zeros_like(x_BTE), []
        for group, known in zip(groups, found or [None] * len(groups), strict=True):
            own = None if kept is None else kept.at(group.start)
            heads = self._heads_of(source, group, parameters, own)
            here = replace(context, first_head=group.start)
            with torch.no_grad():
                index = self.kind.index(heads, here, self.training)
            if torch.is_grad_enabled():  # at once, for plain autograd
                q_BTHD = self._queries(x_BTE, here, group, parameters)
                known = self.kind.find(q_BTHD, here, self.training) if known is None else known
                attended_BTHD = self.kind.attend(q_BTHD, heads, index, known, here, self.training)
                out_BTE = out_BTE + self._join(attended_BTHD, here, group, parameters)
                now_found.append(known)
                continue
            of_pieces = []
            for number, piece in enumerate(self._pieces(x_BTE, heads)):
                there = here.of_tokens(piece)
                q_BTHD = self._queries(x_BTE[:, piece], there, group, parameters, _of_piece(own, piece))
                known_here = self.kind.find(q_BTHD, there, self.training) if known is None else known[number]
                attended_BTHD = self.kind.attend(q_BTHD, heads, index, known_here, there, self.training)
                out_BTE[:, piece] += self._join(attended_BTHD, there, group, parameters)
                of_pieces.append(known_here)
            now_found.append(of_pieces)
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
        source, parameters = _source_of(context), self._by_name(leaves.parameters)
        assert source.grad_BSE is not None
        for group, known in zip(self._groups(x_BTE, source), found, strict=True):
            own, here = None if kept is None else kept.at(group.start), replace(context, first_head=group.start)
            heads = self._heads_of(source, group, parameters, own)
            index = self.kind.index(heads, here, self.training)
            k, v = heads.k_BSHD.requires_grad_(), heads.v_BSHD.requires_grad_()
            grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
            for known_here, piece in zip(known, self._pieces(x_BTE, heads), strict=True):
                there, x = here.of_tokens(piece), x_BTE[:, piece].detach().requires_grad_()
                with torch.enable_grad():
                    q_BTHD = self._queries(x, there, group, parameters, _of_piece(own, piece))
                    attended_BTHD = self.kind.attend(q_BTHD, heads, index, known_here, there, self.training)
                    is_seen = addition.stream_BTE is not None
                    contribution = self._join(attended_BTHD, there, group, parameters, is_seen=is_seen)
                addition.take_off(piece, contribution)
                grads = leaves.pull([contribution], [addition.grad_BTE[:, piece]], [x, k, v])
                for total, gradient in zip((addition.grad_input_BTE[:, piece], grad_k, grad_v), grads, strict=True):
                    if gradient is not None:
                        total += gradient
                # Else the next piece, the projections' gradients and the next heads would be made beside all this.
                del grads, gradient, total, x, q_BTHD, attended_BTHD, contribution
            del heads, index, k, v
            grad_k, grad_v = self.exchange.give_back(grad_k), self.exchange.give_back(grad_v)
            self._undo_keys(source, group, (grad_k, grad_v), leaves, parameters)
            del grad_k, grad_v

    def _undo_keys(
        self,
        source: Source,
        group: slice,
        grads: tuple[Tensor, Tensor],
        leaves: Leaves,
        parameters: dict[str, Tensor],
    ) -> None:
        """Add to the memory's gradient, and to those of the projections of keys and values."""
        assert source.grad_BSE is not None
        for piece in pieces(source.memory_BSE.shape[1], self.budget.projected_tokens):
            memory = source.memory_BSE[:, piece].detach().requires_grad_()
            with torch.enable_grad():
                places = source.positions_of(piece)
                projected = self._keys_and_values(memory, places, group, parameters, is_seen=False)
            (gradient,) = leaves.pull(projected, [grad[:, piece] for grad in grads], [memory])
            source.grad_BSE[:, piece] += gradient

    def _groups(self, x_BTE: Tensor, source: Source) -> list[slice]:
        """Groups of as many heads as the budget allows at a time: fewer, the longer the source."""
        num_keys = x_BTE.shape[0] * source.memory_BSE.shape[1] * self.exchange.num_shards
        count = max(1, self.budget.head_elements // (num_keys * self.config.head_width))
        last = self.config.num_heads
        return [slice(first, min(first + count, last)) for first in range(0, last, count)]

    def _pieces(self, x_BTE: Tensor, heads: SourceHeads) -> Iterator[slice]:
        return pieces(x_BTE.shape[1], min(self.budget.projected_tokens, self.kind.tokens_at_a_time(heads)))

    def _heads_of(
        self, source: Source, group: slice, parameters: dict[str, Tensor], kept: Kept | None = None
    ) -> SourceHeads:
        """Some heads' keys and values of the whole source."""
        memory_BSE = source.memory_BSE

        def by_pieces() -> Results:
            parts = [
                self._keys_and_values(memory_BSE[:, piece], source.positions_of(piece), group, parameters)
                for piece in pieces(memory_BSE.shape[1], self.budget.projected_tokens)
            ]
            return tuple(torch.cat(each, dim=1) for each in zip(*parts, strict=True))

        if torch.is_grad_enabled():
            whole = slice(0, memory_BSE.shape[1])
            k, v = self._keys_and_values(memory_BSE, source.positions_of(whole), group, parameters)
        else:
            k, v = found_or_made(kept, "keys and values", "projections", by_pieces)
        documents, positions = source.documents_BS, source.positions_BS
        return SourceHeads(
            self.exchange.gather(k),
            self.exchange.gather(v),
            None if documents is None else self.exchange.gather(documents),
            None if positions is None else self.exchange.gather(positions),
        )

    def _queries(
        self,
        x_BTE: Tensor,
        context: Context,
        group: slice,
        parameters: dict[str, Tensor],
        kept: Kept | None = None,
    ) -> Tensor:
        normalised = normalise(x_BTE, parameters, self.config)
        q_BTHD = self._project(normalised, "query", group, parameters, kept)
        if self.config.query_key_norm:
            q_BTHD = at_temperature(q_BTHD, parameters["temperature"][group, None])
        return self._turned(q_BTHD, context.positions_like(x_BTE)) if self.config.cross_rotary else q_BTHD

    def _keys_and_values(
        self,
        memory_BSE: Tensor,
        positions_BS: Tensor,
        group: slice,
        parameters: dict[str, Tensor],
        *,
        is_seen: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Where nobody looks at them, they need not be right."""
        is_normed = self.config.query_key_norm
        k_BSHD = self._project(memory_BSE, "key", group, parameters, is_seen=is_seen or is_normed)
        v_BSHD = self._project(memory_BSE, "value", group, parameters, is_seen=is_seen)
        if self.config.query_key_norm:
            k_BSHD = at_temperature(k_BSHD, None)
        return self._turned(k_BSHD, positions_BS) if self.config.cross_rotary else k_BSHD, v_BSHD

    def _turned(self, x_BTHD: Tensor, positions_BT: Tensor) -> Tensor:
        return turn_each(x_BTHD, positions_BT, self.config.rotary_base)

    def _project(
        self,
        x: Tensor,
        name: str,
        group: slice,
        parameters: dict[str, Tensor],
        kept: Kept | None = None,
        *,
        is_seen: bool = True,
    ) -> Tensor:
        """A projection of some heads, [B, T, H, D]."""
        width = self.config.head_width
        weight = parameters[f"{name}_weight"][group.start * width : group.stop * width]
        x = product(x, weight, kept=kept, name=name, level="projections", is_seen=is_seen)
        return x.unflatten(-1, (-1, width))

    def _join(
        self,
        attended_BTHD: Tensor,
        context: Context,
        group: slice,
        parameters: dict[str, Tensor],
        *,
        is_seen: bool = True,
    ) -> Tensor:
        """Some heads' results back to the model's width."""
        width = self.config.head_width
        columns = slice(group.start * width, group.stop * width)
        out_BTE = product(attended_BTHD.flatten(2), parameters["output_weight"][:, columns], is_seen=is_seen)
        if self.training and self.config.hidden_dropout > 0:
            key = make_key(self.config.seed, context.step, self.layer, Use.CROSS_OUTPUT)
            out_BTE = dropout(out_BTE, self.config.hidden_dropout, key, context.first_row, context.first_position)
        return out_BTE

    def _by_name(self, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._names, parameters, strict=True))


def _of_piece(kept: Kept | None, piece: slice) -> Kept | None:
    return None if kept is None else kept.at(piece.start)


def _source_of(context: Context) -> Source:
    assert context.source is not None, "a layer that reads a source needs one"
    return context.source
