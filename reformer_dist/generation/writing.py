"""Texts for prompts, as jobs/generate.py writes them: by batches, up to a stop, shown while they come.

In: a model, its tokenizer, prompts and options. Out: texts; or a file of them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from io import TextIOWrapper
from pathlib import Path

from torch import Tensor

from reformer_dist.config.sections.generation import GenerationConfig
from reformer_dist.data.reading.beginnings import joined
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.generation.continuing import check_prompt, encoded, stream
from reformer_dist.generation.decoding import Read
from reformer_dist.generation.prompt_workers import readers
from reformer_dist.generation.sampling import Sampling
from reformer_dist.generation.text import TextStream, UntilStop
from reformer_dist.generation.translating import search_of, source_of, written
from reformer_dist.generation.writing_from_sources import check_sources
from reformer_dist.model.encoder_decoder import EncoderDecoder
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.storage.whole_files import whole_file

MOST_SHOWN = 40
"""Characters of a prompt in a line about it."""
Show = Callable[[str], None]
"""Takes pieces of text as they come."""


@dataclass(frozen=True)
class Written:
    """What a prompt became."""

    prompt: str
    text: str
    """What follows it, or was written from it."""
    num_tokens: int
    """Tokens that were drawn for it."""
    follows: bool = True
    """Whether the text goes on with the prompt; one that was written from it stands alone."""

    @property
    def fields(self) -> dict[str, str | int]:
        """As a file has them."""
        return {"prompt": self.prompt, "text": self.text, "num_tokens": self.num_tokens}

    @property
    def shown(self) -> str:
        """As the terminal shows it."""
        return f"{self.prompt}{self.text}\n" if self.follows else self.text


@contextmanager
def texts_for(
    model: ReformerLM | EncoderDecoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: GenerationConfig,
    show: Show,
) -> Iterator[Iterator[Written]]:
    """What becomes of prompts: `write` by as many processes as the options say, or what an encoder-decoder writes from them.

    Raises:
        ConfigError: see `write`, `write_from` and `readers`.

    """
    if isinstance(model, EncoderDecoder):
        yield write_from(model, tokenizer, prompts, options)
        return
    with readers(model, options.workers) as read:
        yield write(model, tokenizer, prompts, options, show, read)


def write_from(
    model: EncoderDecoder, tokenizer: Tokenizer, prompts: Sequence[str], options: GenerationConfig
) -> Iterator[Written]:
    """Write from prompts, some at a time.

    Raises:
        ConfigError: a prompt that the tokenizer does not take, that is empty or too long; before anything is written.

    """
    for prompt in prompts:
        try:
            if not prompt.strip():
                raise ValueError("there is nothing to write from; a text works")
            check_sources(model, [source_of(tokenizer, prompt)])
        except ValueError as error:
            raise ConfigError(f"generation.prompt = {_short(prompt)!r}: {error}") from None
    search = search_of(options, tokenizer.vocab_size)
    texts = written(model, tokenizer, prompts, search, options.batch_size)
    for prompt, text in zip(prompts, texts, strict=True):
        yield Written(prompt, text, len(tokenizer.encode(text)), follows=False)


def read_prompts(options: GenerationConfig, columns: Sequence[str] = ()) -> list[str]:
    """The prompts that the options name.

    Args:
        options: the generation section.
        columns: of the texts that a model's sources were put together from, which a line of a .jsonl file may have
            instead of a prompt.

    Raises:
        ConfigError: a file that is not there, is no UTF-8, holds no prompt, or has a line without one.

    """
    if options.prompts is None:
        return [options.prompt]
    path = Path(options.prompts)
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"generation.prompts = {path}: {error.strerror}; a file of a prompt a line works") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"generation.prompts = {path} is no UTF-8 at byte {error.start}; a text file works") from None
    if path.suffix == ".jsonl":
        lines = [_prompt_of(path, number, line, columns) for number, line in enumerate(lines, 1) if line.strip()]
    if not lines:
        raise ConfigError(f"generation.prompts = {path} is empty; a file of a prompt a line works")
    return lines


def _prompt_of(path: Path, number: int, line: str, columns: Sequence[str]) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    for names in (("prompt",), columns):
        if isinstance(record, dict) and names and all(isinstance(record.get(name), str) for name in names):
            return reduce(joined, [record[name] for name in names])
    others = f", nor {' and '.join(columns)}" if columns else ""
    raise ConfigError(
        f'generation.prompts = {path}: line {number} has no text "prompt"{others}; {{"prompt": "def "}} works'
    )


def write(
    model: ReformerLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: GenerationConfig,
    show: Show,
    read: Read | None = None,
) -> Iterator[Written]:
    """Continue prompts, some at a time, each as it would be alone; the first one of each batch is shown while it comes.

    Prompts are read by `read`, by default in this process.

    Raises:
        ConfigError: a prompt that the tokenizer does not take, or that is too long; before anything is drawn.

    """
    rows = [_row(model, tokenizer, prompt, options) for prompt in prompts]
    sampling = Sampling(
        1.0 if options.temperature is None else options.temperature,
        options.top_k,
        options.top_p,
        options.min_p,
        options.repetition_penalty,
        options.repetition_window,
        tokenizer.vocab_size,
    )
    for first in range(0, len(prompts), options.batch_size):
        batch = slice(first, first + options.batch_size)
        texts = [_Text(tokenizer, row.tolist(), options.stop) for row in rows[batch]]
        try:
            steps = stream(model, rows[batch], options.added_tokens, sampling, options.seed, read)
        except ValueError as error:  # a model that cannot be decoded
            raise ConfigError(str(error)) from None
        show(prompts[first])
        for tokens_B in steps:
            pieces = [text.take(token) for text, token in zip(texts, tokens_B.tolist(), strict=True)]
            show(pieces[0])
            if all(text.is_stopped for text in texts):
                break
        ends = [text.end() for text in texts]
        show(ends[0])
        for prompt, text in zip(prompts[batch], texts, strict=True):
            yield Written(prompt, text.whole, text.num_tokens)


@contextmanager
def lines_in(path: str) -> Iterator[Callable[[Written], None]]:
    """A file that takes what is written, a JSON line each; it is there under its name when all of them are.

    Raises:
        ConfigError: it cannot be written.

    """
    try:
        with whole_file(Path(path)) as whole, TextIOWrapper(whole, encoding="utf-8") as file:
            yield lambda written: print(json.dumps(written.fields, ensure_ascii=False), file=file, flush=True)
    except OSError as error:
        raise ConfigError(
            f"generation.output = {path}: {error.strerror}; a file in a folder that is there works"
        ) from None


class _Text:
    """What follows a prompt, as it comes."""

    def __init__(self, tokenizer: Tokenizer, prompt: list[int], stops: Sequence[str]) -> None:
        self._stream, self._until = TextStream(tokenizer.decode, prompt), UntilStop(stops)
        self.whole, self.num_tokens = "", 0

    @property
    def is_stopped(self) -> bool:
        """Whether a stop was met."""
        return self._until.is_stopped

    def take(self, token: int) -> str:
        """What one token more adds; after a stop nothing."""
        if self.is_stopped:
            return ""
        self.num_tokens += 1
        return self._add(self._until.take(self._stream.take(token)))

    def end(self) -> str:
        """What was held back."""
        return self._add(self._until.take(self._stream.rest()) + self._until.rest())

    def _add(self, text: str) -> str:
        self.whole += text
        return text


def _row(model: ReformerLM, tokenizer: Tokenizer, prompt: str, options: GenerationConfig) -> Tensor:
    """A prompt's tokens."""
    try:
        row = encoded(tokenizer, prompt, options.prefix)
        check_prompt(model, row, options.added_tokens)
    except ValueError as error:
        raise ConfigError(f"generation.prompt = {_short(prompt)!r}: {error}") from None
    return row


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= MOST_SHOWN else f"{prompt[:MOST_SHOWN]}..."
