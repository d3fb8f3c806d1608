"""Continue prompts with a trained model: python jobs/generate.py --config FILE --generation.prompt TEXT.

A model with an encoder writes from its prompts: it translates or summarises them, or answers. A single text is shown while
it is drawn. --generation.prompts names a file of prompts, one a line, and --generation.output a file for what becomes of
them.
"""

import sys
import time
from contextlib import nullcontext

from reformer_dist.checkpoints import read_model, read_state, resolve
from reformer_dist.cli import run_job
from reformer_dist.config import Config
from reformer_dist.generation.writing import Written, lines_in, read_prompts, texts_for


def main(config: Config) -> None:
    """Print or write the prompts and what becomes of them."""
    options = config.generation
    path = resolve(options.checkpoint, config.train.storage, config.train.run_name)
    prompts = read_prompts(options, read_state(path).config.data.source_columns)
    model, _, tokenizer = read_model(path)
    print(f"{path}, seed {options.seed}", file=sys.stderr)
    is_shown = options.output is None and len(prompts) == 1 and not model.config.encoder_layers
    take = nullcontext(_end_line if is_shown else _print) if options.output is None else lines_in(options.output)
    start, num_tokens = time.perf_counter(), 0
    with take as take_text, texts_for(model, tokenizer, prompts, options, _show if is_shown else _keep) as texts:
        for text in texts:
            take_text(text)
            num_tokens += text.num_tokens
    seconds = time.perf_counter() - start
    print(f"{num_tokens:,} tokens in {seconds:.1f} s, {num_tokens / seconds:,.0f} tokens/s", file=sys.stderr)
    if options.output is not None:
        print(options.output)


def _keep(piece: str) -> None:
    """Show nothing yet."""


def _show(piece: str) -> None:
    print(piece, end="", flush=True)


def _end_line(text: Written) -> None:
    print()


def _print(text: Written) -> None:
    print(text.shown, flush=True)


if __name__ == "__main__":
    run_job(main, __doc__)
