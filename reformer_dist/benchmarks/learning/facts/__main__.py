"""Write questions about planted facts: python -m reformer_dist.benchmarks.learning.facts --output FOLDER.

train.jsonl has documents of each length by turns, with facts at depths that are drawn evenly. held_out.jsonl has as many
questions of each length at each depth. A record is {"id", "document", "question", "answer", "depth", "length"}, and the same
options write the same files.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from reformer_dist.benchmarks.learning.facts.documents import Question, make_question
from reformer_dist.benchmarks.learning.facts.kinds import MOST_DISTRACTORS
from reformer_dist.cli import answer
from reformer_dist.errors import ConfigError
from reformer_dist.storage.whole_files import whole_file

LENGTHS = (2048, 8192, 65_536)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    """Read the command line and write both files."""
    parser = argparse.ArgumentParser(
        prog="python -m reformer_dist.benchmarks.learning.facts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder")
    add("--train", type=int, default=1000, help="questions to train on (%(default)s)")
    add("--questions", type=int, default=10, help="held-out questions of each length and depth (%(default)s)")
    add("--lengths", type=int, nargs="+", default=LENGTHS, help="bytes of a document (%(default)s)")
    add("--depths", type=float, nargs="+", default=DEPTHS, help="where held-out facts lie, from 0 to 1 (%(default)s)")
    add(
        "--distractors",
        type=int,
        default=8,
        help=f"other facts in a document, up to {MOST_DISTRACTORS}, fewer in one that is too short (%(default)s)",
    )
    add("--seed", type=int, default=0, help="of all draws (%(default)s)")
    answer(partial(_write, parser.parse_args()))


def _write(options: argparse.Namespace) -> None:
    make = partial(make_question, num_distractors=options.distractors)
    train_seed, held_out_seed = 2 * options.seed, 2 * options.seed + 1
    lengths = options.lengths
    train = (make(train_seed, index, lengths[index % len(lengths)]) for index in range(options.train))
    cells = [(length, depth) for length in lengths for depth in options.depths for _ in range(options.questions)]
    held_out = (make(held_out_seed, index, *cell) for index, cell in enumerate(cells))
    options.output.mkdir(parents=True, exist_ok=True)
    for name, questions in (("train", train), ("held_out", held_out)):
        path = options.output / f"{name}.jsonl"
        num_questions, num_bytes = _write_file(path, _checked(questions))
        print(f"{path}: {num_questions:,} questions about {num_bytes:,} bytes of documents")


def _checked(questions: Iterator[Question]) -> Iterator[Question]:
    """The same questions; what keeps one from being made is a user's mistake."""
    try:
        yield from questions
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _write_file(path: Path, questions: Iterable[Question]) -> tuple[int, int]:
    """Write a record a line; returns how many, and the characters of their documents."""
    num_questions = num_characters = 0
    with whole_file(path) as file:
        for question in questions:
            file.write(f"{json.dumps(asdict(question))}\n".encode())
            num_questions, num_characters = num_questions + 1, num_characters + len(question.document)
    return num_questions, num_characters


if __name__ == "__main__":
    main()
