"""Reading what span corruption wrote."""

import numpy as np

BYTES = 256
"""Tokens of bytes; those behind them are sentinels."""


def spans_of(target: np.ndarray) -> list[tuple[int, list[int]]]:
    """Each sentinel of a target, boundary to boundary, and the span behind it."""
    first, *tokens, last = target.tolist()
    assert (first, last) == (0, 0)
    spans: list[tuple[int, list[int]]] = []
    for token in tokens:
        if token >= BYTES:
            spans.append((token, []))
        else:
            spans[-1][1].append(token)
    return spans


def put_back(source: np.ndarray, target: np.ndarray) -> list[int]:
    """The text that a source and its target were made of."""
    spans = iter(spans_of(target))
    first, *tokens = source.tolist()
    assert first == 0
    text: list[int] = []
    for token in tokens:
        if token >= BYTES:
            sentinel, span = next(spans)
            assert sentinel == token
            text += span
        else:
            text.append(token)
    assert next(spans, None) is None, "every span has its place"
    return text
