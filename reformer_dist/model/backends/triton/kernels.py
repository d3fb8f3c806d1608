"""Attention over ordered lists of rows, and its gradient, as Triton kernels: what native/attend.h does, for a GPU.

A hash round orders the tokens of a slice (one head of one sequence) into a list of panels of BLOCK places; the rounds' lists
lie one behind the other. A place holds the row of a token's vectors, or -1. A program takes one panel's queries and walks
over the panels of keys around it (`forward`, `backward_queries`), or its keys, and walks over the queries that see them
(`backward_keys`). In a round each row stands at one place, so that a program alone reads and writes its rows' results:
rounds are added up in place, one launch after the other, without atomic operations, and every sum is always made in the
same order.

Statistics and sums are float32 for vectors of fewer bits (float64 for float64, which only the interpreter sees).

Arguments of all kernels:
    q, k, v          vectors of a row at row * stride; with SHARED k is q, and keys are q at unit length
    grad             gradients of the outputs at row * grad_stride; sums of q, k and v at row * sum_stride
    rows, segments   [slices, rounds, panels, BLOCK] int32; -1 for places without a token; segments must agree, those of
                     padding are -1; None where all tokens are of one segment
    hashes           int64 of rows, for dropout; None without
    index            of the round whose results are added up
    first, tiles     first panel of the round that is worked on, and how many
    panels, rounds   panels of a round, rounds
    per              panels of a chunk; a chunk meets `before` chunks before it and `after` behind it
    nearest, furthest  distance back in the list, with REACH; without it chunks wrap around, over all rounds
    threshold, kept  draws below it are dropped, what a kept weight is multiplied by
    scale            of the scores, where keys are not SHARED
    D, WIDTH         of a vector, and the next power of two
"""

import triton
import triton.language as tl

_COUNTS = ("index", "first", "tiles", "panels", "rounds", "per", "before", "after", "nearest", "furthest", "threshold")
"""Numbers that change from call to call: no code of its own is compiled for a 1 or a multiple of 16."""


@triton.jit
def _keeps(query_hash, key_hash, threshold):
    """Dropout's decision for pairs, as `pair_keep` in randomness.py and `keeps` in panels.h."""
    z = query_hash.to(tl.uint64, bitcast=True) + key_hash.to(tl.uint64, bitcast=True) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 32)) * 0xD6E8FEB86659FD93
    return (z >> 48).to(tl.int32) >= threshold


@triton.jit
def _entries(rows, segments, panel, BLOCK: tl.constexpr):
    """Row and segment at every place of a panel."""
    at = panel * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + at)
    segment = tl.where(row < 0, -1, 0) if segments is None else tl.load(segments + at)
    return row, segment


@triton.jit
def _offsets(row, stride, WIDTH: tl.constexpr):
    return row.to(tl.int64)[:, None] * stride + tl.arange(0, WIDTH)[None, :]


@triton.jit
def _is_inside(row, D: tl.constexpr, WIDTH: tl.constexpr):
    return (row[:, None] >= 0) & (tl.arange(0, WIDTH)[None, :] < D)


@triton.jit
def _vectors(x, row, stride, D: tl.constexpr, WIDTH: tl.constexpr):
    """Vectors of the rows, [BLOCK, WIDTH], zeros around."""
    return tl.load(x + _offsets(row, stride, WIDTH), mask=_is_inside(row, D, WIDTH), other=0.0)


@triton.jit
def _add(x, row, stride, change, D: tl.constexpr, WIDTH: tl.constexpr):
    """Add to the vectors of the rows."""
    at, inside = x + _offsets(row, stride, WIDTH), _is_inside(row, D, WIDTH)
    tl.store(at, tl.load(at, mask=inside, other=0.0) + change, mask=inside)


@triton.jit
def _key_scales(keys, scale, SHARED: tl.constexpr, D: tl.constexpr, STATISTICS: tl.constexpr):
    """What a score is multiplied by for each key: 1 / its length, or the constant scale."""
    x = keys.to(STATISTICS)
    return tl.rsqrt(tl.sum(x * x, 1) + D * 1e-6) if SHARED else tl.zeros([x.shape[0]], STATISTICS) + scale


@triton.jit
def _span(tile, index, panels, per, before, after, REACH: tl.constexpr):
    """First and last + 1 panel that the panel `tile` of a round meets, counted over all rounds; a circle may leave them."""
    chunk = tile // per * per
    low, high = chunk - before * per, chunk + (1 + after) * per
    if REACH:
        low, high = tl.maximum(low, 0), tl.minimum(high, panels)
    return index * panels + low, index * panels + high


@triton.jit
def _wrapped(panel, panels, rounds):
    total = panels * rounds
    return (panel % total + total) % total


@triton.jit
def _sees(
    query_row,
    query_segment,
    query_place,
    key_row,
    key_segment,
    key_place,
    nearest,
    furthest,
    REACH: tl.constexpr,
    COMPARE: tl.constexpr,
):
    """Whether a query sees a key; the rows of a slice stand in order of position."""
    sees = (query_segment == key_segment) & (key_segment >= 0)
    if REACH:
        back = query_place - key_place
        sees = sees & (back >= nearest) & (back <= furthest)
    if COMPARE == "earlier":
        sees = sees & (key_row < query_row)
    if COMPARE == "up to":
        sees = sees & (key_row <= query_row)
    if COMPARE == "other":
        sees = sees & (key_row != query_row)
    return sees


@triton.jit(do_not_specialize=_COUNTS)
def forward(
    q, k, v, stride, out, lse, met_itself, rows, segments, hashes,
    index, first, tiles, panels, rounds, per, before, after, nearest, furthest, threshold, kept, scale,
    SHARED: tl.constexpr, REACH: tl.constexpr, COMPARE: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Bring a round's attention into `out` (rows of D) and `lse`, those of the rounds before, 0 and -inf at first.

    `met_itself`, if not None, gets how often each row's query met its own key, int16.
    """
    STATISTICS: tl.constexpr = lse.dtype.element_ty
    tile = first + tl.program_id(0) % tiles
    start = (tl.program_id(0) // tiles).to(tl.int64) * rounds * panels * BLOCK
    places = tl.arange(0, BLOCK)
    rows += start
    if segments is not None:
        segments += start
    row, segment = _entries(rows, segments, index * panels + tile, BLOCK)
    queries = _vectors(q, row, stride, D, WIDTH)
    if hashes is not None:
        row_hash = tl.load(hashes + row, mask=row >= 0, other=0)
    highest = tl.full([BLOCK], float("-inf"), STATISTICS)
    total = tl.zeros([BLOCK], STATISTICS)
    result = tl.zeros([BLOCK, WIDTH], STATISTICS)
    num_met = tl.zeros([BLOCK], tl.int32)
    low, high = _span(tile, index, panels, per, before, after, REACH)
    for panel in range(low, high):
        key_row, key_segment = _entries(rows, segments, _wrapped(panel, panels, rounds), BLOCK)
        keys = _vectors(k, key_row, stride, D, WIDTH)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        scores *= _key_scales(keys, scale, SHARED, D, STATISTICS)[None, :]
        sees = _sees(
            row[:, None], segment[:, None], (index * panels + tile) * BLOCK + places[:, None],
            key_row[None, :], key_segment[None, :], panel * BLOCK + places[None, :], nearest, furthest, REACH, COMPARE,
        )  # fmt: skip
        scores = tl.where(sees, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(scores - shift[:, None])
        fade = tl.exp(highest - shift)
        total = total * fade + tl.sum(weights, 1)
        if hashes is not None:
            key_hash = tl.load(hashes + key_row, mask=key_row >= 0, other=0)
            weights = tl.where(_keeps(row_hash[:, None], key_hash[None, :], threshold), weights * kept, 0.0)
        values = _vectors(v, key_row, stride, D, WIDTH)
        result = result * fade[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        highest = higher
        if met_itself is not None:
            itself = (key_row[None, :] == row[:, None]) & (key_segment >= 0)[None, :]
            num_met += tl.sum(itself.to(tl.int32), 1)
    # Combine with the rounds before: exp(lse) are their weights.
    real = row >= 0
    past = tl.load(lse + row, mask=real, other=float("-inf"))
    here = highest + tl.log(tl.where(total == 0.0, 1.0, total))  # highest is -inf where nothing was seen
    largest = tl.maximum(past, here)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    weight = tl.exp(past - shift) + tl.exp(here - shift)
    both = largest + tl.log(tl.where(largest == float("-inf"), 1.0, weight))
    shift = tl.where(both == float("-inf"), 0.0, both)
    at, inside = out + _offsets(row, D, WIDTH), _is_inside(row, D, WIDTH)
    mixed = tl.load(at, mask=inside, other=0.0) * tl.exp(past - shift)[:, None]
    tl.store(at, mixed + result * tl.exp(highest - shift)[:, None], mask=inside)
    tl.store(lse + row, both, mask=real)
    if met_itself is not None:
        tl.store(met_itself + row, num_met.to(tl.int16), mask=real)


@triton.jit(do_not_specialize=_COUNTS)
def backward_queries(
    q, k, v, stride, grad, grad_stride, lse, delta, dq, sum_stride, rows, segments, hashes,
    index, first, tiles, panels, rounds, per, before, after, nearest, furthest, threshold, kept, scale,
    SHARED: tl.constexpr, REACH: tl.constexpr, COMPARE: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a round's gradients of the queries to `dq`.

    `lse` are the log-sum-exps of all rounds together, inf where nothing was seen; `delta` the products of output and its
    gradient: exp(score - lse) is a pair's combined weight, and weight * (dweight - delta) its score's gradient.
    """
    STATISTICS: tl.constexpr = lse.dtype.element_ty
    tile = first + tl.program_id(0) % tiles
    start = (tl.program_id(0) // tiles).to(tl.int64) * rounds * panels * BLOCK
    places = tl.arange(0, BLOCK)
    rows += start
    if segments is not None:
        segments += start
    row, segment = _entries(rows, segments, index * panels + tile, BLOCK)
    queries, grads = _vectors(q, row, stride, D, WIDTH), _vectors(grad, row, grad_stride, D, WIDTH)
    row_lse = tl.load(lse + row, mask=row >= 0, other=float("inf"))
    row_delta = tl.load(delta + row, mask=row >= 0, other=0.0)
    if hashes is not None:
        row_hash = tl.load(hashes + row, mask=row >= 0, other=0)
    dqueries = tl.zeros([BLOCK, WIDTH], STATISTICS)
    low, high = _span(tile, index, panels, per, before, after, REACH)
    for panel in range(low, high):
        key_row, key_segment = _entries(rows, segments, _wrapped(panel, panels, rounds), BLOCK)
        keys, values = _vectors(k, key_row, stride, D, WIDTH), _vectors(v, key_row, stride, D, WIDTH)
        scales = _key_scales(keys, scale, SHARED, D, STATISTICS)[None, :]
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scales
        sees = _sees(
            row[:, None], segment[:, None], (index * panels + tile) * BLOCK + places[:, None],
            key_row[None, :], key_segment[None, :], panel * BLOCK + places[None, :], nearest, furthest, REACH, COMPARE,
        )  # fmt: skip
        weights = tl.where(sees, tl.exp(scores - row_lse[:, None]), 0.0)
        dweights = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
        if hashes is not None:
            key_hash = tl.load(hashes + key_row, mask=key_row >= 0, other=0)
            dweights = tl.where(_keeps(row_hash[:, None], key_hash[None, :], threshold), dweights * kept, 0.0)
        dscores = weights * (dweights - row_delta[:, None]) * scales
        dqueries += tl.dot(dscores.to(keys.dtype), keys, input_precision=PRECISION)
    _add(dq, row, sum_stride, dqueries, D, WIDTH)


@triton.jit(do_not_specialize=_COUNTS)
def backward_keys(
    q, k, v, stride, grad, grad_stride, lse, delta, dk, dv, sum_stride, rows, segments, hashes,
    index, first, tiles, panels, rounds, per, before, after, nearest, furthest, threshold, kept, scale,
    SHARED: tl.constexpr, REACH: tl.constexpr, COMPARE: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the gradients of a round's keys and values to `dk` and `dv`; scores are [keys, queries] here."""
    STATISTICS: tl.constexpr = lse.dtype.element_ty
    tile = first + tl.program_id(0) % tiles
    start = (tl.program_id(0) // tiles).to(tl.int64) * rounds * panels * BLOCK
    places = tl.arange(0, BLOCK)
    rows += start
    if segments is not None:
        segments += start
    row, segment = _entries(rows, segments, index * panels + tile, BLOCK)
    keys, values = _vectors(k, row, stride, D, WIDTH), _vectors(v, row, stride, D, WIDTH)
    scales = _key_scales(keys, scale, SHARED, D, STATISTICS)
    if hashes is not None:
        row_hash = tl.load(hashes + row, mask=row >= 0, other=0)
    dkeys = tl.zeros([BLOCK, WIDTH], STATISTICS)
    dvalues = tl.zeros([BLOCK, WIDTH], STATISTICS)
    low, high = _span(tile, index, panels, per, after, before, REACH)  # those whose queries see this panel
    for panel in range(low, high):
        query_row, query_segment = _entries(rows, segments, _wrapped(panel, panels, rounds), BLOCK)
        queries, grads = _vectors(q, query_row, stride, D, WIDTH), _vectors(grad, query_row, grad_stride, D, WIDTH)
        query_lse = tl.load(lse + query_row, mask=query_row >= 0, other=float("inf"))
        query_delta = tl.load(delta + query_row, mask=query_row >= 0, other=0.0)
        scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION) * scales[:, None]
        sees = _sees(
            query_row[None, :], query_segment[None, :], panel * BLOCK + places[None, :],
            row[:, None], segment[:, None], (index * panels + tile) * BLOCK + places[:, None],
            nearest, furthest, REACH, COMPARE,
        )  # fmt: skip
        weights = tl.where(sees, tl.exp(scores - query_lse[None, :]), 0.0)
        dweights = tl.dot(values, tl.trans(grads), input_precision=PRECISION)
        dropped = weights
        if hashes is not None:
            query_hash = tl.load(hashes + query_row, mask=query_row >= 0, other=0)
            keeps = _keeps(query_hash[None, :], row_hash[:, None], threshold)
            dropped = tl.where(keeps, weights * kept, 0.0)
            dweights = tl.where(keeps, dweights * kept, 0.0)
        dvalues += tl.dot(dropped.to(grads.dtype), grads, input_precision=PRECISION)
        dscores = weights * (dweights - query_delta[None, :])
        dkeys += tl.dot(dscores.to(queries.dtype), queries, input_precision=PRECISION)
    dkeys *= scales[:, None]
    if SHARED:  # a key is q s with s = (|q|^2 + eps)^-1/2: its gradient g reaches q as s g - s^3 (q . g) q
        x = keys.to(STATISTICS)
        dkeys -= (scales * scales * tl.sum(x * dkeys, 1))[:, None] * x
    _add(dk, row, sum_stride, dkeys, D, WIDTH)
    _add(dv, row, sum_stride, dvalues, D, WIDTH)
