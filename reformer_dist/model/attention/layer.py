"""The attention layer: projections around local, LSH or full attention.

In: a stream [B, T, E]. Out: the layer's contribution [B, T, E] and what to reuse in a replay, or the replay itself. Where
nothing needs the whole at once, long sequences are worked through a few heads or a stretch of tokens at a time.

Legend: B batch, T tokens of this shard, E model dimension, H heads, D head dimension, R hash rounds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from reformer_dist.config import ModelConfig
from reformer_dist.model.attention.kinds import CORES
from reformer_dist.model.attention.kinds import Core as Core
from reformer_dist.model.attention.kinds import LSHCore as LSHCore
from reformer_dist.model.attention.kinds import attention_dropout as attention_dropout
from reformer_dist.model.context import Context
from reformer_dist.model.randomness import Use, dropout, make_key
from reformer_dist.model.reversible.borrowed_tokens import Neighbours, NoNeighbours, Strip, replay_pieces
from reformer_dist.model.reversible.undoing import Cut, Leaves, Replay, pieces, replay

_TOKENS_AT_A_TIME = 1 << 11  # of projections, and of local attention
_ELEMENTS_AT_A_TIME = 1 << 23  # of a tensor of queries; past it heads take turns
_ELEMENTS_EXCHANGED = 1 << 21  # the same where workers exchange, who hold what is sent and what is received beside it


class Attention(nn.Module):
    """LayerNorm, projections into heads, attention and the way back.

    The parameters are this module's own, not those of inner modules, because ZeRO gathers them when this module is called.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer, self.kind = config, layer, config.layers[layer]
        E, inner = config.embed_dim, config.num_heads * config.head_width
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(E)), nn.Parameter(torch.zeros(E))
        for name in ("query_key", "value") if self.kind == "lsh" else ("query", "key", "value"):
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(inner, E)))
        self.output_weight = nn.Parameter(torch.empty(E, inner))
        self.core: Core = CORES[self.kind](config, layer)
        self.neighbours: Neighbours = NoNeighbours()
        self.is_local = self.kind == "local" and config.local_mode == "window"
        """Whether a token's result depends on the tokens around it alone."""

    def forward(
        self,
        x_BTE: Tensor,
        context: Context,
        found: list[Any] | None = None,
        tensors: Replay | None = None,
        anchor: Tensor | None = None,
    ) -> tuple[Tensor, list[Any] | None]:
        """The layer's contribution to the stream [B, T, E], and what its core found; with `tensors`, what replays it.

        What is found is by turns of heads.
        """
        parameters = list(self.parameters())
        if tensors is not None:
            assert anchor is not None
            work = partial(self._replay, x_BTE, context, found, tensors)
            return replay(work, anchor, parameters), found
        if self.is_local:
            return self._forward_local(x_BTE, context, parameters), None
        if torch.is_grad_enabled():
            attended_BTHD, part = self.core(self.project(x_BTE), context, None, self.training)
            return self.join(attended_BTHD, context), [part]
        out_BTE = torch.zeros_like(x_BTE)
        turns, parts = self._turns(x_BTE), []
        for heads, known in zip(turns, found or [None] * len(turns), strict=True):
            attended_BTHD, part = self._attend_heads(self._project_by_pieces(x_BTE, heads), context, known, heads)
            parts.append(part)
            for piece in pieces(x_BTE.shape[1], _TOKENS_AT_A_TIME):
                out_BTE[:, piece] += self._join(attended_BTHD[:, piece], context, piece.start, heads, parameters)
            del attended_BTHD
        return out_BTE, parts

    def project(self, x_BTE: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (LSH: queries-keys and values), each [B, T, H, D]."""
        return self._project(x_BTE, slice(0, self.config.num_heads), list(self.parameters()))

    def join(self, attended_BTHD: Tensor, context: Context) -> Tensor:
        """All heads' results back to the model's width, [B, T, E]."""
        return self._join(attended_BTHD, context, 0, slice(0, self.config.num_heads), list(self.parameters()))

    def _project(self, x_BTE: Tensor, heads: slice, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
        norm_weight, norm_bias, *weights, _ = parameters
        x_BTE = layer_norm(x_BTE, norm_weight.shape, norm_weight, norm_bias, self.config.layer_norm_eps)
        rows = self._features(heads)
        return tuple(linear(x_BTE, weight[rows]).unflatten(-1, (-1, self.config.head_width)) for weight in weights)

    def _join(
        self, attended_BTHD: Tensor, context: Context, start: int, heads: slice, parameters: Sequence[Tensor]
    ) -> Tensor:
        out_BTE = linear(attended_BTHD.flatten(2), parameters[-1][:, self._features(heads)])
        if self.training and self.config.hidden_dropout > 0:
            key = make_key(self.config.seed, context.step, self.layer, Use.ATTENTION_OUTPUT)
            first_position = context.first_position + start
            out_BTE = dropout(out_BTE, self.config.hidden_dropout, key, context.first_row, first_position)
        return out_BTE

    def _features(self, heads: slice) -> slice:
        return slice(heads.start * self.config.head_width, heads.stop * self.config.head_width)

    def _forward_local(self, x_BTE: Tensor, context: Context, parameters: Sequence[Tensor]) -> Tensor:
        strip, around = self._surround(x_BTE, context)
        if torch.is_grad_enabled():
            # Empty ends too, so that every worker gives back.
            whole = torch.cat([strip.left, x_BTE, strip.right], dim=1)
            return self._stretch(around, whole, (slice(strip.start, strip.end), slice(0, whole.shape[1])), parameters)
        out_BTE = torch.empty_like(x_BTE)
        for own, seen in self._stretches(strip):
            out_BTE[:, strip.home(own)] = self._stretch(around, strip.read(seen), (own, seen), parameters)
        return out_BTE

    def _surround(self, x_BTE: Tensor, context: Context) -> tuple[Strip, Context]:
        """The stream with what the window sees of its neighbours, and the place of that."""
        strip = Strip(x_BTE, *self.neighbours.borrow(x_BTE))
        documents_BS = context.documents_BT
        if documents_BS is not None:
            left, right = self.neighbours.borrow(documents_BS)
            documents_BS = torch.cat([left, documents_BS, right], dim=1)
        return strip, replace(context, documents_BT=documents_BS, first_position=context.first_position - strip.start)

    def _stretches(self, strip: Strip) -> Iterator[Cut]:
        return strip.cuts(max(_TOKENS_AT_A_TIME, 4 * self.config.local_window), *local_reach(self.config))

    def _stretch(self, around: Context, x_BTE: Tensor, cut: Cut, parameters: Sequence[Tensor]) -> Tensor:
        """Local attention's contribution to the tokens `cut[0]`, from the tokens `cut[1]`."""
        own, seen = cut
        documents_BT = None if around.documents_BT is None else around.documents_BT[:, seen]
        here = replace(around, documents_BT=documents_BT, first_position=around.first_position + seen.start)
        heads = slice(0, self.config.num_heads)
        attended_BTHD, _ = self.core(self._project(x_BTE, heads, parameters), here, None, self.training)
        inner_BTHD = attended_BTHD[:, own.start - seen.start : own.stop - seen.start]
        return self._join(inner_BTHD, around, own.start, heads, parameters)

    def _turns(self, x_BTE: Tensor) -> list[slice]:
        """Heads that are worked on at a time: fewer, the longer the sequence."""
        tokens, shards = x_BTE.shape[0] * x_BTE.shape[1], self.core.head_shards
        alone = isinstance(self.core, tuple(CORES.values()))
        fitting = (_ELEMENTS_AT_A_TIME if alone else _ELEMENTS_EXCHANGED) // (tokens * self.config.head_width)
        count = max(1, fitting // shards) * shards
        H = self.config.num_heads
        return [slice(first, min(first + count, H)) for first in range(0, H, count)]

    def _project_by_pieces(
        self, x_BTE: Tensor, heads: slice, parameters: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """Projections of some heads, without the normalised stream ever being whole."""
        parameters = list(self.parameters()) if parameters is None else parameters
        whole: list[Tensor] = []
        for piece in pieces(x_BTE.shape[1], _TOKENS_AT_A_TIME):
            parts = self._project(x_BTE[:, piece], heads, parameters)
            if not whole:
                whole = [part.new_empty(*x_BTE.shape[:2], *part.shape[2:]) for part in parts]
            for x, part in zip(whole, parts, strict=True):
                x[:, piece] = part
        return tuple(whole)

    def _attend_heads(
        self, projected: tuple[Tensor, ...], context: Context, found: Any, heads: slice
    ) -> tuple[Tensor, Any]:
        here = replace(context, first_head=context.first_head + heads.start)
        return self.core(projected, here, found, self.training)

    @torch.no_grad()
    def _replay(
        self, x_BTE: Tensor, context: Context, found: list[Any] | None, tensors: Replay, leaves: Leaves
    ) -> None:
        if self.is_local:
            self._replay_local(x_BTE, context, tensors, leaves)
            return
        turns = self._turns(x_BTE)
        for heads, known in zip(turns, found or [None] * len(turns), strict=True):
            self._replay_heads(x_BTE, context, known, heads, tensors, leaves)

    def _replay_local(self, x_BTE: Tensor, context: Context, tensors: Replay, leaves: Leaves) -> None:
        strip, around = self._surround(x_BTE, context)
        piece = partial(self._stretch, around)
        grads = replay_pieces(piece, strip, self._stretches(strip), tensors, leaves)
        self.neighbours.give_back(grads.own, grads.left, grads.right)

    def _replay_heads(
        self, x_BTE: Tensor, context: Context, found: Any, heads: slice, tensors: Replay, leaves: Leaves
    ) -> None:
        projected = self._project_by_pieces(x_BTE, heads, leaves.parameters)
        with torch.enable_grad():
            projected = tuple(x.requires_grad_() for x in projected)
            attended_BTHD, _ = self._attend_heads(projected, context, found, heads)
        grad_BTHD = torch.empty_like(attended_BTHD)
        for piece in pieces(x_BTE.shape[1], _TOKENS_AT_A_TIME):
            attended = attended_BTHD[:, piece].detach().requires_grad_()
            with torch.enable_grad():
                contribution = self._join(attended, context, piece.start, heads, leaves.parameters)
            tensors.stream_BTE[:, piece] -= contribution.detach()
            (grad_BTHD[:, piece],) = leaves.pull([contribution], [tensors.grad_BTE[:, piece]], [attended])
        grads = torch.autograd.grad(attended_BTHD, projected, grad_BTHD)
        del attended_BTHD, projected, grad_BTHD
        for piece in pieces(x_BTE.shape[1], _TOKENS_AT_A_TIME):
            x = x_BTE[:, piece].detach().requires_grad_()
            with torch.enable_grad():
                parts = self._project(x, heads, leaves.parameters)
            (gradient,) = leaves.pull(parts, [grad[:, piece] for grad in grads], [x])
            tensors.grad_input_BTE[:, piece] += gradient


def local_reach(config: ModelConfig) -> tuple[int, int]:
    """Tokens before and after its own that a token sees in local attention's window mode."""
    return (config.local_window - 1, 0) if config.causal else (config.local_window, config.local_window)
