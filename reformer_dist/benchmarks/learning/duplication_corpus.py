"""The duplication task as a corpus, for trainings and sweeps.

In: a size. Out: a JSONL file of documents w newline w, with w of random letters out of 64.

With the objective next_token all tokens are scored: the first w costs 6 bits a symbol whatever the model, the second nothing
for one that copies. With the objective copy only the second w is.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from reformer_dist.benchmarks.learning.duplication_task import NUM_DOCUMENTS, SIZES, write_documents

LETTERS = "".join(map(chr, range(48, 112)))
"""64 printable ASCII characters."""


def run(size_name: Literal["small", "paper"], output: Path) -> None:
    """Write duplication-SIZE.jsonl into `output`, and print what a token costs at best and without copying."""
    length = SIZES[size_name].length
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"duplication-{size_name}.jsonl"
    write_documents(path, length, LETTERS, "\n")
    print(f"{path}: {NUM_DOCUMENTS:,} documents for sequences of {length} tokens")
    print(f"bits a token: {bits(length, copies=False):.3f} without copying, {bits(length, copies=True):.3f} at best")


def bits(length: int, *, copies: bool) -> float:
    """Bits a token of a model that knows the letters and the places of newline and boundary, and copies or does not."""
    halves = 1 if copies else 2
    return float(halves * (length // 2 - 1) * np.log2(len(LETTERS)) / length)
