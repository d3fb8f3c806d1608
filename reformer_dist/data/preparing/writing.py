"""Writing a corpus: parts in; a folder that holds their token files, and what makes it a corpus, out."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data

from reformer_dist.config import DataConfig
from reformer_dist.data.preparing.finishing import write_manifest
from reformer_dist.data.preparing.manifest import MANIFEST
from reformer_dist.data.preparing.parts import Part, write_part
from reformer_dist.data.streaming import iterate_tables, quiet
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.storage.locks import turn
from reformer_dist.storage.stores import Store

REPORT_SECONDS = 10.0


def write_corpus(
    parts: Sequence[Part],
    data: DataConfig,
    tokenizers: Mapping[str, Tokenizer],
    store: Store,
    report: Callable[[str], None],
    num_binary: int = 0,
) -> None:
    """Write every part as a Ray Data dataset with a row for each, then the table of documents and the manifest.

    Parts that an interrupted attempt has finished are kept. Where a text that is written in part turns out to be bad and
    `data.on_bad` is skip, the parts that hold some of it are written again without it.

    Args:
        parts: all parts of the corpus.
        data: formats, columns and splits.
        tokenizers: for each field what makes its tokens.
        store: where the files go.
        report: takes lines of progress.
        num_binary: files that were left out before.

    Raises:
        ConfigError: a split without a token.
        OSError: a document that cannot be read or a file that cannot be written.
    """
    assert ray.is_initialized(), "Ray must be running: reformer_dist.ray_session"
    definitions = {name: tokenizer.to_json() for name, tokenizer in tokenizers.items()}
    write: Any = partial(write_part, data=data, tokenizers=definitions, folder=store.url(store.path))

    def with_ray_data(some: Sequence[Part]) -> Iterator[dict[str, Any]]:
        listing = ray.data.from_items([part.to_row() for part in some], override_num_blocks=len(some))
        dataset = quiet(listing.map_batches(write, batch_size=1, batch_format="pyarrow"))
        for table in iterate_tables(dataset.iterator()):
            yield from table.to_pylist()

    write_parts(parts, with_ray_data, report)
    write_manifest(len(parts), data, tokenizers, store, num_binary)


def write_parts(
    parts: Sequence[Part],
    write: Callable[[Sequence[Part]], Iterable[dict[str, Any]]],
    report: Callable[[str], None] = print,
) -> None:
    """Have all parts written; those with a piece of a text that must be left out a second time, without it.

    Args:
        parts: all parts of the corpus.
        write: hands parts to `write_part` and yields its rows as they come.
        report: takes lines of progress.

    Raises:
        OSError: a document that cannot be read or a file that cannot be written.
    """
    num_kept = 0
    last_report = time.monotonic()
    while parts:
        bad: dict[str, str] = {}
        for num_done, row in enumerate(write(parts), start=1):
            if row["error"]:
                raise OSError(row["error"])
            num_kept += row["was_there"]
            for url, problem in json.loads(row["bad"]).items():
                bad[url] = min(problem, bad.get(url, problem))  # whichever part was first
            if time.monotonic() - last_report > REPORT_SECONDS:
                last_report = time.monotonic()
                report(f"prepared {num_done} of {len(parts)} files")
        pairs = [(part, part.without(bad)) for part in parts]
        parts = [without for part, without in pairs if without is not part]
        if parts:
            report(f"{len(bad)} large documents are bad; {len(parts)} files are made again without them")
    if num_kept:
        report(f"{num_kept} files were there from an interrupted attempt")


@contextmanager
def complete_folder(store: Store, report: Callable[[str], None] = print) -> Iterator[Store | None]:
    """A place to write a corpus so that `store` holds all of it or no manifest; None when it turns out to be there.

    On a local disk this is a folder beside it, held by one process at a time (`report` is told of another) and renamed
    at the end. Object stores cannot rename: there it is `store` itself, which the manifest, written last, completes.
    """
    if not store.is_local:
        yield store
        return
    final, aside = Path(store.path), Path(f"{store.path}.partial")
    with turn(aside, lambda: report("another process prepares this corpus; waiting for it")):
        if (final / MANIFEST).exists():
            for file in aside.iterdir():
                file.unlink()
            aside.rmdir()
            yield None
            return
        yield replace(store, path=str(aside))
        aside.rename(final)
