"""Heads of an attention layer that are worked on at a time: all of one kind, with the exchange that their shards use.

In: a stream and the layer's weights of these heads. Out: their projections [B, T, H, D]; of these their results, whichever
worker attended them; and of those the contribution to the stream.

Legend: B batch, T tokens of this shard, S with those around them, E model dimension, H heads, D head dimension.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize, pad

from reformer_dist.model.attention.exchange import Exchange, NoExchange
from reformer_dist.model.attention.kind import Kind
from reformer_dist.model.budget import Budget
from reformer_dist.model.context import Context
from reformer_dist.model.keeping import Kept, product
from reformer_dist.model.layers.convolution import convolve
from reformer_dist.model.layers.norm import normalise
from reformer_dist.model.randomness import Use, dropout, make_key


@dataclass(frozen=True)
class HeadGroup:
    """Some heads of a layer."""

    kind: Kind
    """What they compute."""
    heads: slice
    """First and last + 1 of them in the layer."""
    exchange: Exchange = field(default_factory=NoExchange)
    """How the shards of their sequences meet; `parallelize` puts it in."""

    def fitting(self, num_tokens: int, budget: Budget) -> list["HeadGroup"]:
        """These heads in groups of as many as the budget allows at a time: fewer, the longer the sequence."""
        shards = self.exchange.head_shards
        fitting = self.exchange.elements_at_a_time(budget) // (num_tokens * self.kind.config.head_width)
        count = max(1, fitting // shards) * shards
        first, last = self.heads.start, self.heads.stop
        return [replace(self, heads=slice(start, min(start + count, last))) for start in range(first, last, count)]

    def project(
        self,
        x_BSE: Tensor,
        wanted: slice,
        documents_BS: Tensor | None,
        own: Mapping[str, Tensor],
        *,
        are_next: bool = True,
        kept: Kept | None = None,
        is_seen: bool = True,
    ) -> tuple[Tensor, ...]:
        """The kind's projections of the wanted tokens, each [B, T, H, D]; the others stand around them.

        Args:
            x_BSE: the stream.
            wanted: which of its tokens.
            documents_BS: document of each token; None where all are of one.
            own: the layer's parameters by name, of matrices and temperatures those of these heads.
            are_next: of a kind that brings next values, whether they are to be those of the tokens after the wanted ones.
            kept: where products are kept.
            is_seen: whether somebody looks at them; if not, they need not be right.

        """
        config = self.kind.config
        x_BSE = convolve(normalise(x_BSE, own, config), own, documents_BS, config)
        projected = {}
        for name in self.kind.projections:
            is_next = are_next and self.kind.brings_next and name == "value"
            x_BTE = _after(x_BSE, wanted, documents_BS) if is_next else x_BSE[:, wanted]
            is_looked_at = is_seen or (config.query_key_norm and name != "value")
            x_BTN = product(
                x_BTE, own[f"{name}_weight"], kept=kept, name=name, level="projections", is_seen=is_looked_at
            )
            projected[name] = x_BTN.unflatten(-1, (-1, config.head_width))
        if config.query_key_norm:
            for name in projected.keys() - {"value"}:
                temperature_H1 = None if name == "key" else own["temperature"][:, None]
                projected[name] = at_temperature(projected[name], temperature_H1)
        return tuple(projected.values())

    def join(
        self,
        attended_BTHD: Tensor,
        context: Context,
        start: int,
        own: Mapping[str, Tensor],
        training: bool,
        *,
        is_seen: bool = True,
    ) -> Tensor:
        """Results back to the model's width, [B, T, E]; the first token is `start` after the context's."""
        config = self.kind.config
        out_BTE = product(attended_BTHD.flatten(2), own["output_weight"], is_seen=is_seen)
        if training and config.hidden_dropout > 0:
            key = make_key(config.seed, context.step, self.kind.layer, Use.ATTENTION_OUTPUT)
            out_BTE = dropout(out_BTE, config.hidden_dropout, key, context.first_row, context.first_position + start)
        return out_BTE

    def attend(
        self, tensors: tuple[Tensor, ...], context: Context, found: Any, training: bool, kept: Kept | None = None
    ) -> tuple[Tensor, Any]:
        """Attend over the tokens of all shards.

        Args:
            tensors: the kind's projections of these heads, each [B, T, H, D].
            context: place of the tokens.
            found: see `Kind.attend`; where workers divide the heads, it is of this worker's part.
            training: see `Kind.attend`.
            kept: see `Kind.attend`.

        Returns:
            [B, T, H, D], and what was found.

        """
        context = replace(context, first_head=context.first_head + self.heads.start)
        tensors, context = self.exchange.to_heads(tensors, context)
        attended_BTHD, found = self.kind.attend(tensors, context, found, training, self.exchange, kept)
        del tensors  # may be freed before results travel
        return self.exchange.to_shards(attended_BTHD), found


def at_temperature(x_BTHD: Tensor, temperature_H1: Tensor | None) -> Tensor:
    """Queries as long as their head's temperature, or keys so long that scores q . k / sqrt(D) are temperature x cosine."""
    unit_BTHD = normalize(x_BTHD, dim=-1)
    return unit_BTHD * (x_BTHD.shape[-1] ** 0.5 if temperature_H1 is None else temperature_H1)


def _after(x_BSE: Tensor, wanted: slice, documents_BS: Tensor | None) -> Tensor:
    """The tokens after the wanted ones; zeros where there is none, or none of the same document."""
    after = slice(wanted.start + 1, min(wanted.stop + 1, x_BSE.shape[1]))
    x_BTE = x_BSE[:, after]
    if documents_BS is not None:
        is_same_BT = documents_BS[:, after] == documents_BS[:, after.start - 1 : after.stop - 1]
        x_BTE = x_BTE * is_same_BT[..., None]
    missing = wanted.stop + 1 - after.stop
    return pad(x_BTE, (0, 0, 0, missing)) if missing else x_BTE
