"""Counter-based randomness: every draw is a pure function of named counters, never of what was drawn before.

In: a key made of (seed, step, layer, use) and the global row and position of every element. Out: hash rotations' seeds and
dropout masks that come out the same in the reversible recompute, in a resumed run and under any sharding.

Legend: B batch, T tokens of this shard, E width.
"""

import enum

import torch
from torch import Tensor

_MASK_64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_LANES = 4  # one 64-bit draw serves four neighbouring features with 16 bits each


class Use(enum.IntEnum):
    """What a draw is for; a part of its key."""

    ROTATIONS = 1
    EMBEDDING = 2
    ATTENTION_WEIGHTS = 3
    ATTENTION_OUTPUT = 4
    FEED_FORWARD_INNER = 5
    FEED_FORWARD_OUTPUT = 6
    SAMPLING = 7
    HEALTH = 8
    CROSS_ROTATIONS = 9
    CROSS_WEIGHTS = 10
    CROSS_KEYS = 11
    CROSS_OUTPUT = 12


def make_key(*counters: int) -> int:
    """Scramble integers into one 64-bit key (splitmix64, Steele et al. 2014), returned as a signed integer."""
    state = 0
    for counter in counters:
        state = (state + (counter & _MASK_64) + _GOLDEN) & _MASK_64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK_64
        state ^= state >> 31
    return _signed(state)


def scramble(x: Tensor) -> Tensor:
    """Random bits for every int64, by the splitmix64 finaliser; equal inputs give equal outputs, on any device."""
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def token_hash(key: int, first_row: int, first_position: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    """One 64-bit hash for each token of a shard, [B, T] int64, by its global row and position."""
    rows_B1 = torch.arange(first_row, first_row + shape[0], device=device)[:, None]
    positions_T = torch.arange(first_position, first_position + shape[1], device=device)
    return scramble(scramble(rows_B1 + key) + positions_T)


def dropout(x_BTE: Tensor, probability: float, key: int, first_row: int, first_position: int) -> Tensor:
    """Zero elements with the given probability (rounded to 1/65536) and scale the others up.

    Args:
        x_BTE: any floating dtype.
        probability: of zeroing an element.
        key: from `make_key`.
        first_row: global index of row 0.
        first_position: global index of token 0.
    """
    threshold = keep_threshold(probability)
    if threshold == 0:
        return x_BTE
    num_draws = -(-x_BTE.shape[-1] // _LANES)
    counters = torch.arange(1, num_draws + 1, device=x_BTE.device) * _signed(_GOLDEN)
    hash_BT = token_hash(key, first_row, first_position, (x_BTE.shape[0], x_BTE.shape[1]), x_BTE.device)
    lanes_BTE = scramble(hash_BT[..., None] + counters).view(torch.int16)[..., : x_BTE.shape[-1]]
    return x_BTE * (lanes_BTE >= threshold - 32768).to(x_BTE.dtype).mul_(keep_scale(probability))


def pair_keep(hash_query: Tensor, hash_key: Tensor, probability: float, dtype: torch.dtype) -> Tensor:
    """Dropout multipliers (0 or 1 / keep probability) of attention weights, by the hashes of the query and the key.

    The two tensors broadcast; a pair that meets in several rounds gets the same draw in each.
    """
    z = hash_query + hash_key * _signed(_GOLDEN)
    z = (z ^ _shift_right(z, 32)) * _signed(0xD6E8FEB86659FD93)
    drawn = _shift_right(z, 48)
    return (drawn >= keep_threshold(probability)).to(dtype).mul_(keep_scale(probability))


def keep_threshold(probability: float) -> int:
    """A draw of 16 bits is dropped if it is less than this."""
    return round(probability * 65536)


def keep_scale(probability: float) -> float:
    """What is kept is multiplied by this: 1 / the share of draws that are kept."""
    return 65536 / (65536 - keep_threshold(probability))


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
