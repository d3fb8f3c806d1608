"""The duplication task as a corpus, for trainings and sweeps.

In: a size. Out: a JSONL file of documents w newline w, with w of random letters out of 64. A document and its boundary are a
sequence of the size's length, so that each symbol of the second w lies half a sequence behind its original.

Other than in `duplication`, all tokens are scored: the first w costs 6 bits a symbol whatever the model, the second nothing
for one that copies.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from reformer_dist.benchmarks.learning.duplication import SIZES

LETTERS = "".join(map(chr, range(48, 112)))
"""64 printable ASCII characters."""
DOCUMENTS = 16_384


def run(size_name: Literal["small", "paper"], output: Path) -> None:
    """Write duplication-SIZE.jsonl into `output`, and print what a token costs at best and without copying."""
    length = SIZES[size_name].length
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"duplication-{size_name}.jsonl"
    with path.open("w", encoding="ascii") as file:
        file.writelines(f"{json.dumps({'text': text})}\n" for text in documents(DOCUMENTS, length))
    print(f"{path}: {DOCUMENTS:,} documents for sequences of {length} tokens")
    print(f"bits a token: {bits(length, copies=False):.3f} without copying, {bits(length, copies=True):.3f} at best")


def documents(number: int, length: int, seed: int = 0) -> Iterator[str]:
    """Texts of `length` - 1 characters, a newline in the middle of each."""
    draws = np.random.default_rng(seed).integers(len(LETTERS), size=(number, length // 2 - 1))
    for half in ("".join(LETTERS[i] for i in row) for row in draws):
        yield f"{half}\n{half}"


def bits(length: int, *, copies: bool) -> float:
    """Bits a token of a model that knows the letters and the places of newline and boundary, and copies or does not."""
    halves = 1 if copies else 2
    return float(halves * (length // 2 - 1) * np.log2(len(LETTERS)) / length)
