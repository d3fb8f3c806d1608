"""Token-by-token decoding with memories, equal to running the whole sequence at once.

In: a causal model and a prompt. Out: the next token's logits, again and again. A token costs the same whatever came before:
an LSH layer looks at the last W keys of its bucket in every round, a local layer at the last W tokens. (A full layer looks
at everything.)

Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, N buckets, W window, V vocabulary.
"""

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_dist.model.attention.hashing import hash_buckets
from reformer_dist.model.attention.layer import Attention, LSHCore
from reformer_dist.model.backends.description import unit_keys
from reformer_dist.model.context import Context
from reformer_dist.model.reformer import ReformerLM


class Decoder:
    """A causal model with what it must remember of the tokens so far.

    In exact arithmetic its logits are `model(tokens)`'s. In float32 a token that lies almost between two buckets can hash
    differently on the two paths, since their sums round differently.
    """

    def __init__(self, model: ReformerLM) -> None:
        """Start with nothing read; uses the model in evaluation, whatever its mode.

        Raises:
            ValueError: the model is not causal, or its attention looks at the future's hashes.

        """
        config = model.config
        if not config.causal:
            raise ValueError("model.causal = False cannot be decoded token by token; True works")
        if "lsh" in config.layers and config.lsh_mode != "window":
            raise ValueError(
                f"model.lsh_mode = {config.lsh_mode!r} cannot be decoded token by token, because its chunks depend on the "
                "hashes of later tokens; 'window' works, also on weights trained otherwise"
            )
        self.model = model
        self.length = 0
        self._memories = [_make_memory(block.attention) for block in model.stack.blocks]

    @torch.no_grad()
    def read(self, tokens_BT: Tensor, only_last: bool = False) -> Tensor:
        """Take in tokens [B, T] int64; returns the logits after each [B, T, V], or after the last alone [B, 1, V].

        Raises:
            ValueError: more tokens than max_length.

        """
        model, T = self.model, tokens_BT.shape[1]
        if self.length + T > model.config.max_length:
            raise ValueError(f"{self.length + T} tokens are more than model.max_length = {model.config.max_length}")
        was_training = model.training
        model.eval()
        positions_T = torch.arange(self.length, self.length + T, device=tokens_BT.device)
        first = second = model.embedding(tokens_BT) + model.positions(positions_T[None])
        context = Context(first_position=self.length)
        for block, memory in zip(model.stack.blocks, self._memories, strict=True):
            attended = memory.attend(block.attention.project(second), first_read=self.length == 0)
            first = first + block.attention.join(attended, context)
            second = second + block.feed_forward(first, context)
        self.length += T
        model.train(was_training)
        start = T - 1 if only_last else 0
        return model.output(first[:, start:], second[:, start:])


class Memory(Protocol):
    """What one attention layer keeps of the tokens so far."""

    def attend(self, tensors: tuple[Tensor, ...], first_read: bool) -> Tensor:
        """Outputs [B, T, H, D] of new tokens, which are then remembered; `tensors` as for `attention.Core`."""


class _Store:
    """Rows [B, T, H, D] that grow at the end, with room to spare so that growing is rare."""

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self.length = 0

    def append(self, x_BTHD: Tensor) -> Tensor:
        """Add rows; returns all so far."""
        end = self.length + x_BTHD.shape[1]
        if self._rows is None:
            self._rows = x_BTHD.clone()
        elif end > self._rows.shape[1]:
            self._rows = pad(self._rows, (0, 0, 0, 0, 0, max(64, 2 * end) - self._rows.shape[1]))
        self._rows[:, self.length : end] = x_BTHD
        self.length = end
        return self._rows[:, :end]


class _StretchMemory:
    """Local and full attention: the newest keys and values."""

    def __init__(self, attention: Attention) -> None:
        self.attention, self.config = attention, attention.config
        self.keys, self.values = _Store(), _Store()

    def attend(self, tensors: tuple[Tensor, ...], first_read: bool) -> Tensor:
        q, k, v = tensors
        keys, values = self.keys.append(k), self.values.append(v)
        if first_read:
            return self.attention.core(tensors, Context(), None, False)[0]
        end = keys.shape[1]
        return torch.cat(
            [self._one(q[:, i : i + 1], keys, values, end - q.shape[1] + i) for i in range(q.shape[1])], dim=1
        )

    def _one(self, q_B1HD: Tensor, keys_BTHD: Tensor, values_BTHD: Tensor, position: int) -> Tensor:
        part = slice(self._oldest(position), position + 1)
        scores = torch.einsum("bqhd,bkhd->bhqk", q_B1HD, keys_BTHD[:, part]) * q_B1HD.shape[-1] ** -0.5
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), values_BTHD[:, part])

    def _oldest(self, position: int) -> int:
        config = self.config
        if self.attention.kind == "full":
            return 0
        if config.local_mode == "window":
            return max(0, position + 1 - config.local_window)
        return max(0, position // config.local_window - config.local_neighbours[0]) * config.local_window


class _BucketMemory:
    """LSH attention: all keys and values, and for each bucket the positions of its last W tokens."""

    def __init__(self, attention: Attention) -> None:
        core = attention.core
        assert isinstance(core, LSHCore)
        self.attention, self.config = attention, attention.config
        self.rotations = core.rotations(0, attention.output_weight.dtype)
        self.keys, self.values = _Store(), _Store()
        self.window = min(self.config.lsh_window, self.config.max_length)
        self.newest_BHRNW: Tensor | None = None
        self.counts_BHRN: Tensor | None = None

    def attend(self, tensors: tuple[Tensor, ...], first_read: bool) -> Tensor:
        qk, v = tensors
        buckets_BHRT = hash_buckets(qk, self.rotations, self.config.bucket_factors).long()
        keys, values = self.keys.append(unit_keys(qk)), self.values.append(v)
        if first_read:
            out, _ = self.attention.core(tensors, Context(), buckets_BHRT, False)
            self._index(buckets_BHRT)
            return out
        start = keys.shape[1] - qk.shape[1]
        return torch.cat(
            [self._one(qk[:, i], v[:, i], buckets_BHRT[..., i], keys, values, start + i) for i in range(qk.shape[1])],
            dim=1,
        )

    def _one(
        self, q_BHD: Tensor, v_BHD: Tensor, bucket_BHR: Tensor, keys: Tensor, values: Tensor, position: int
    ) -> Tensor:
        assert self.newest_BHRNW is not None
        assert self.counts_BHRN is not None
        B, H, R = bucket_BHR.shape
        W = self.window
        slots = bucket_BHR[..., None, None].expand(B, H, R, 1, W)
        seen_BHK = self.newest_BHRNW.gather(3, slots).flatten(2).long()  # K = R * W positions, -1 for none
        batch, head = torch.arange(B)[:, None, None], torch.arange(H)[None, :, None]
        at = seen_BHK.clamp(min=0)
        scores_BHK = torch.einsum("bhd,bhkd->bhk", q_BHD, keys[batch, at, head])
        scores_BHK = scores_BHK.masked_fill(seen_BHK < 0, -torch.inf)
        lonely_BH1 = (seen_BHK < 0).all(-1, keepdim=True)
        weights_BHK = scores_BHK.masked_fill(lonely_BH1, 0.0).softmax(-1)
        out_BHD = torch.einsum("bhk,bhkd->bhd", weights_BHK, values[batch, at, head])
        count_BHR1 = self.counts_BHRN.gather(3, bucket_BHR[..., None])
        here = torch.full((B, H, R, 1, 1), position, dtype=torch.int32, device=q_BHD.device)
        place = bucket_BHR[..., None] * W + count_BHR1 % W
        self.newest_BHRNW.view(B, H, R, -1).scatter_(3, place, here[..., 0])
        self.counts_BHRN.scatter_(3, bucket_BHR[..., None], count_BHR1 + 1)
        return torch.where(lonely_BH1, v_BHD, out_BHD)[:, None]

    def _index(self, buckets_BHRT: Tensor) -> None:
        """File the positions of a whole prompt under their buckets."""
        B, H, R, T = buckets_BHRT.shape
        N, W = math.prod(self.config.bucket_factors), self.window
        counts = torch.zeros(B, H, R, N, dtype=torch.int64, device=buckets_BHRT.device)
        counts.scatter_add_(3, buckets_BHRT, torch.ones_like(buckets_BHRT))
        sorted_BHRT = torch.sort(buckets_BHRT * T + torch.arange(T, device=counts.device)).values
        bucket_BHRT, position_BHRT = sorted_BHRT // T, sorted_BHRT % T
        rank_BHRT = torch.arange(T, device=counts.device) - (counts.cumsum(-1) - counts).gather(3, bucket_BHRT)
        kept_BHRT = rank_BHRT >= counts.gather(3, bucket_BHRT) - W
        place_BHRT = torch.where(kept_BHRT, bucket_BHRT * W + rank_BHRT % W, N * W)  # the last place is thrown away
        newest = torch.full((B, H, R, N * W + 1), -1, dtype=torch.int32, device=counts.device)
        newest.scatter_(3, place_BHRT, position_BHRT.int())
        self.newest_BHRNW = newest[..., :-1].unflatten(3, (N, W)).contiguous()
        self.counts_BHRN = counts


def _make_memory(attention: Attention) -> Memory:
    return _BucketMemory(attention) if attention.kind == "lsh" else _StretchMemory(attention)
