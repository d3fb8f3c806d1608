"""The terminal of a training: one moving line where someone watches, a plain line now and then where a log does."""

import os
import sys
import time
from contextlib import suppress
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from reformer_dist.config import Config
from reformer_dist.data.tokenizers.bpe import BPETokenizer
from reformer_dist.data.tokenizers.choice import TOKENIZERS, make_tokenizer
from reformer_dist.objectives.choice import make_objective

PLAIN_INTERVAL = 5.0
"""Least seconds between two plain lines."""


class _Output(Console):
    """Standard output; what nobody reads, or a full disk does not take, is dropped."""

    is_closed = False
    """Whether who read it is gone."""

    def on_broken_pipe(self) -> None:
        """Print no more."""
        self.quiet = self.is_closed = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends


class Terminal:
    """Shows metrics as they come; a context manager, since the moving line must be ended."""

    def __init__(self, config: Config, console: Console | None = None) -> None:
        self._num_steps = config.train.steps
        assert config.data.text is not None, "every objective reads it"
        name = config.data.text.tokenizer
        token = make_tokenizer(name).unit if name in TOKENIZERS else BPETokenizer.unit
        self._unit = f"bits/{make_objective(config.objective).unit(token)}"
        self._console = console or _Output(file=sys.stdout, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=self._num_steps)
        self._first: tuple[float, int] | None = None
        self._last_line = -PLAIN_INTERVAL

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @property
    def is_closed(self) -> bool:
        """Whether whoever read the output is gone, as `head` is after its lines."""
        return isinstance(self._console, _Output) and self._console.is_closed

    def line(self, text: str) -> None:
        """Print a line of its own, unless the disk that it goes to is full: a training is worth more than its log."""
        with suppress(OSError):
            self._console.print(text, markup=False)

    def metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Show what a worker reported after `step` steps."""
        if "validation/bits_per_token" in metrics:
            self.line(
                f"step {step}/{self._num_steps}  validation {metrics['validation/bits_per_token']:.3f} {self._unit}"
            )
        if "train/bits_per_token" not in metrics:
            return
        now = time.monotonic()
        self._first = self._first or (now, step)
        text = (
            f"{metrics['train/bits_per_token']:.3f} {self._unit}  {metrics['train/tokens_per_second']:,.0f} tokens/s"
            f"  {self._time_left(now, step)}"
        )
        self._bar.update(self._task, completed=step, description=text)
        due = now - self._last_line >= PLAIN_INTERVAL or step == self._num_steps
        if due and not self._console.is_terminal:
            self._last_line = now
            self.line(f"step {step}/{self._num_steps}  {text}")

    def restart(self, step: int) -> None:
        """Show that training starts from `step`, the first time or after a failure."""
        self._first = None
        self._last_line = -PLAIN_INTERVAL  # the first step since is worth a line however soon it comes
        self._bar.update(self._task, completed=step)

    def _time_left(self, now: float, step: int) -> str:
        assert self._first is not None
        start, first_step = self._first
        if step == first_step:
            return "time left unknown"
        seconds = round((now - start) / (step - first_step) * (self._num_steps - step))
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d} left" if hours else f"{minutes}:{seconds:02d} left"
