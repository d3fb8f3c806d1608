"""Lossless compression by a trained model: python -m reformer_dist.compression compress --checkpoint RUN IN OUT, and back.

Any file of bytes, by a checkpoint of a causal model of bytes. The same checkpoint gives it back, with any number of threads
and any batch, on a machine of the same kind; whether it is of that kind is checked before the work.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from reformer_dist.checkpoints import language_model, load_model
from reformer_dist.cli import answer
from reformer_dist.compression.files import Outcome, compress, decompress
from reformer_dist.errors import ConfigError


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m reformer_dist.compression",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("action", choices=("compress", "decompress"))
    add("source", metavar="IN", type=Path)
    add("target", metavar="OUT", type=Path)
    add("--checkpoint", required=True, help="name of a run, or path or URL of its folder or of a checkpoint")
    add("--storage", help="folder or URL of the runs (that of train.storage)")
    add(
        "--batch", type=_positive, default=16, help="stretches at a time; more are faster and take memory (%(default)s)"
    )
    add("--stretch", type=_positive, default=0, help="bytes of a stretch at most (the model's longest sequence)")
    add("--threads", type=_positive, help="CPU threads (as many as there are cores)")
    answer(lambda: _run(parser.parse_args()))


def _run(options: argparse.Namespace) -> None:
    if not options.source.is_file():
        raise ConfigError(f"{options.source}: {'not a file' if options.source.exists() else 'no such file'}")
    if options.target.exists() and options.target.samefile(options.source):
        raise ConfigError(f"{options.target} is the input; another name works")
    if options.threads:
        torch.set_num_threads(options.threads)
    model = language_model(load_model(options.checkpoint, options.storage), options.checkpoint)
    start = time.perf_counter()
    console = Console(stderr=True)
    columns = (TextColumn("bytes"), BarColumn(bar_width=24), TaskProgressColumn(show_speed=True), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def begin(total: int) -> Callable[[int], None]:
            task = bar.add_task("", total=total)
            return lambda number: bar.update(task, advance=number)

        if options.action == "compress":
            outcome = compress(
                model, options.checkpoint, options.source, options.target, options.stretch, options.batch, begin
            )
            _tell(outcome)
            num_bytes = outcome.num_bytes
        else:
            num_bytes = decompress(model, options.source, options.target, options.batch, begin)
    seconds = time.perf_counter() - start
    print(f"{options.target}: {num_bytes:,} bytes in {seconds:.1f} s, {num_bytes / seconds:,.0f} a second")


def _tell(outcome: Outcome) -> None:
    bits = 8 * outcome.compressed_bytes
    a_byte = f", {bits / outcome.num_bytes:.4f} bits a byte" if outcome.num_bytes else ""
    print(f"{outcome.num_bytes:,} bytes became {outcome.compressed_bytes:,}{a_byte}")
    if outcome.num_bytes:
        print(f"the model alone says {outcome.model_bits / outcome.num_bytes:.4f}")
    if outcome.num_stretches > 1:
        print(
            f"{outcome.num_stretches:,} stretches, each told from its own beginning, which costs about "
            f"{outcome.beginnings_bits / 8:,.0f} bytes of these"
        )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


if __name__ == "__main__":
    main()
