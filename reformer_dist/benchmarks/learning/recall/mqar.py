"""How well does a Reformer recall? Multi-query associative recall (Arora et al. 2023), two layers, by attention and recipe.

In: a size. Out: the accuracy of each attention at each length and width, the best of a grid of learning rates.

All of `paper` takes many hours on a processor. Each cell's row is written when it is done, and a run leaves out the
cells that its file already has, so it may be ended at any time and started again; the most telling cells come first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from reformer_dist.benchmarks.learning.book import Book
from reformer_dist.benchmarks.learning.quality.recipes import named
from reformer_dist.benchmarks.learning.recall.model import RECIPES, VARIANTS
from reformer_dist.benchmarks.learning.recall.mqar_report import best, figure, tables
from reformer_dist.benchmarks.learning.recall.mqar_task import SETTINGS, VOCABULARY
from reformer_dist.benchmarks.learning.recall.mqar_training import ENOUGH, Cell, Outcome, Training, train


@dataclass(frozen=True)
class Size:
    """Which cells there are, and how they are trained."""

    settings: tuple[tuple[int, int], ...]
    """(length, pairs)."""
    widths: tuple[int, ...]
    """Of the model."""
    learning_rates: tuple[float, ...]
    """The grid, the likeliest first."""
    tokens: int
    """Tokens of a step."""
    steps: int
    """At most, in a training."""
    vocabulary: int = VOCABULARY
    """Different tokens."""
    seeds: tuple[int, ...] = (0,)
    """Of weights, rotations and sequences."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Names of VARIANTS."""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """Names of RECIPES."""

    def training(self, length: int) -> Training:
        """How a cell of this length is trained."""
        steps = self.steps
        return Training(self.tokens // length, steps, steps // 20, max(1, steps // 20), 512, self.vocabulary)


SIZES = {
    "small": Size(
        settings=SETTINGS[:2],
        widths=(64,),
        learning_rates=(1e-2,),
        tokens=2048,
        steps=600,
        vocabulary=64,
        variants=("full", "shared", "lsh-4", "local"),
        recipes=("default",),
    ),
    "paper": Size(settings=SETTINGS, widths=(64, 128), learning_rates=(2.2e-3, 1e-2, 4.6e-4), tokens=4096, steps=1000),
}


def run(size_name: Literal["small", "paper"], output: Path, only: tuple[str, ...] = ()) -> None:
    """Train the cells that recall-SIZE.csv in `output` does not have yet; print the table, write recall-SIZE.png.

    Args:
        size_name: what is trained, and how long.
        output: a folder, made if need be.
        only: names of variants and recipes; by default all of both.
    """
    size, book = _only(SIZES[size_name], only), Book(output / f"recall-{size_name}.csv", Cell, Outcome)
    for cell in cells(size):
        if not _is_done(cell, book):
            print(_named(cell))
            book.add(cell, train(cell, size.training(cell.length)))
    print(f"\nQueries answered, vocabulary {size.vocabulary:,}, best of {len(size.learning_rates)} learning rate(s)")
    print(tables(best(book.rows)))
    picture = output / f"recall-{size_name}.png"
    figure(best(book.rows)).savefig(picture)
    print(f"\n{book.path}\n{picture}")


def cells(size: Size) -> Iterator[Cell]:
    """All cells, the most telling first: the default recipe before others, short lengths before long ones."""
    for seed in size.seeds:
        for recipe in size.recipes:
            for width in size.widths:
                for length, pairs in size.settings:
                    for rate in size.learning_rates:
                        for variant in size.variants:
                            yield Cell(recipe, variant, length, pairs, width, rate, seed)


def _only(size: Size, names: tuple[str, ...]) -> Size:
    """The size with these of its variants and of its recipes; with all of a sort where none of it is named."""
    chosen = named(dict.fromkeys((*size.variants, *size.recipes)), names)
    variants = tuple(name for name in size.variants if name in chosen)
    recipes = tuple(name for name in size.recipes if name in chosen)
    return replace(size, variants=variants or size.variants, recipes=recipes or size.recipes)


def _is_done(cell: Cell, book: Book[Cell, Outcome]) -> bool:
    """Whether the file has the cell, or another learning rate of it that has learnt the task."""
    return any(
        row.cell == cell or (row.cell.place == cell.place and row.outcome.accuracy >= ENOUGH) for row in book.rows
    )


def _named(cell: Cell) -> str:
    return (
        f"{cell.recipe} {cell.variant}, length {cell.length}, {cell.pairs} pairs, width {cell.width}, "
        f"rate {cell.learning_rate:g}, seed {cell.seed}"
    )
