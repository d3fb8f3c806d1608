"""Ask trained models about planted facts: python -m reformer_dist.benchmarks.learning.facts.asking RUN ... --output FOLDER.

Each model answers the same questions at every length and depth, longer documents than it was trained on among them. Answers
go to answers.csv, a row for each length and depth as soon as it is there, so that the same command goes on where it ended;
answers.png shows them as heat maps. LSH has as many buckets as each length asks for. A run may be asked with other settings
of its model behind a colon, such as RUN:cross_attention=lsh,num_hashes=8.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from reformer_dist.benchmarks.learning.book import Book
from reformer_dist.benchmarks.learning.facts.documents import Question, make_question
from reformer_dist.benchmarks.learning.recall.passkey_report import Asked, Found, figure, tables
from reformer_dist.checkpoints import load_model
from reformer_dist.cli import answer
from reformer_dist.data.reading.beginnings import joined
from reformer_dist.errors import ConfigError
from reformer_dist.generation.translating import source_of, translate
from reformer_dist.model.encoder_decoder import EncoderDecoder
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.scoring.texts.answers import exact_match, f1

LENGTHS = (2048, 8192, 32_768, 65_536)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
HELD_OUT_SEED = 1
"""That of `facts` with --seed 0, so no training on its train.jsonl has seen these documents."""


def main() -> None:
    """Read the command line, ask, and write the table and the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m reformer_dist.benchmarks.learning.facts.asking",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", help="runs under --storage, or paths of checkpoints, with other settings behind a colon")
    add("--storage", default=None, help="folder or URL of the runs (that of train.storage)")
    add("--output", type=Path, required=True, help="folder")
    add("--lengths", type=int, nargs="+", default=LENGTHS, help="bytes of a document (%(default)s)")
    add("--depths", type=float, nargs="+", default=DEPTHS, help="where the facts lie, from 0 to 1 (%(default)s)")
    add("--questions", type=int, default=16, help="questions of each length and depth (%(default)s)")
    add(
        "--trained",
        type=int,
        default=2048,
        help="longest document of the training, marked in the picture (%(default)s)",
    )
    answer(partial(_ask_all, parser.parse_args()))


def _ask_all(options: argparse.Namespace) -> None:
    book = Book(options.output / "answers.csv", Asked, Found)
    for run in options.runs:
        path, _, changes = run.partition(":") if "://" not in run else (run, "", "")
        model, name = load_model(path, options.storage), path.rstrip("/").rpartition("/")[2]
        settings = dict(change.split("=", 1) for change in changes.split(",") if "=" in change)
        name = ", ".join([name, *(f"{field} {value}" for field, value in settings.items())])
        for length in options.lengths:
            for depth in options.depths:
                cell = Asked(name, model.config.seed, length, depth)
                if not book.has(cell):
                    book.add(cell, ask(model, questions(length, depth, options.questions), **settings))
                    print(f"{name}: {length:,} bytes, depth {depth:.0%}: {book.rows[-1].outcome.whole:.0%}", flush=True)
    print(f"\nAnswers that are right, {options.questions} questions of each length and depth, in percent")
    print(tables(book.rows, "bytes"))
    picture = options.output / "answers.png"
    figure(book.rows, options.trained, "fact", "bytes of the document").savefig(picture)
    print(f"\n{book.path}\n{picture}")


def questions(length: int, depth: float, number: int) -> list[Question]:
    """Held-out questions of a length and depth; those of another length or depth are about the same facts."""
    return [make_question(HELD_OUT_SEED, index, length, depth) for index in range(number)]


def ask(model: ReformerLM | EncoderDecoder, asked: Sequence[Question], **settings: str) -> Found:
    """What a model answers to questions about documents of one length; the share that is right, and the mean F1.

    Args:
        model: a trained one.
        asked: the questions.
        settings: other fields of its model section, as in `with_settings`.

    Raises:
        ConfigError: a model without an encoder, whose positions end before the documents, or settings that it cannot have.
    """
    if not isinstance(model, EncoderDecoder):
        raise ConfigError(f"a {type(model).__name__} reads no document; a run with model.encoder_layers works")
    texts = [joined(question.question, question.document) for question in asked]
    longest = max(len(source_of(model.tokenizer, text)) for text in texts)
    try:
        reader = model.with_settings(max_source_length=longest, **settings)
    except ValueError as error:
        raise ConfigError(f"model.max_source_length = {longest:,}: {' '.join(str(error).split())}") from None
    reader.tokenizer = model.tokenizer
    answers = translate(reader.eval(), texts, num_tokens=min(model.config.max_length, 32), batch_size=1)
    references = [[question.answer] for question in asked]
    figures = {**exact_match(answers, references).figures, **f1(answers, references).figures}
    return Found(figures["exact_match"] / 100, figures["f1"] / 100)


if __name__ == "__main__":
    main()
