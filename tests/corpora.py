"""Small corpora for tests, prepared in this process without Ray."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from reformer_dist.config import Config, DataConfig, ObjectiveConfig, load_config
from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.finishing import write_manifest
from reformer_dist.data.preparing.parts import Part, write_part
from reformer_dist.data.preparing.preparation import Preparation, plan_preparation
from reformer_dist.data.preparing.vocabulary import trained_tokenizers
from reformer_dist.data.preparing.writing import complete_folder, write_parts
from reformer_dist.objectives.choice import make_objective
from reformer_dist.storage.stores import open_store

NEXT_TOKEN = make_objective(ObjectiveConfig())


def write_documents(folder: Path, documents: Mapping[str, bytes]) -> Path:
    """Write files by name; returns the folder."""
    for name, content in documents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def random_documents(lengths: Mapping[str, int], seed: int = 0) -> dict[str, bytes]:
    """Documents of random letters and signs, each a byte (never NUL), of the given lengths."""
    generator = np.random.default_rng(seed)
    return {name: generator.integers(1, 128, n, np.uint8).tobytes() for name, n in lengths.items()}


def prepare_here(source: Path | str, storage: Path | str, validation_fraction: float = 0.2, **fields: object) -> Corpus:
    """What `prepare` does, one part after the other in this process; more fields of the data section by name."""
    data = DataConfig.model_validate({"sources": (str(source),), "validation_fraction": validation_fraction, **fields})
    return run_here(plan_preparation(data, str(storage)))


def run_here(preparation: Preparation) -> Corpus:
    """What `Preparation.run` does, one part after the other in this process."""
    data = preparation.data
    tokenizers = trained_tokenizers(preparation.parts, data, preparation.tokenizers)
    definitions = {name: tokenizer.to_json() for name, tokenizer in tokenizers.items()}
    with complete_folder(open_store(preparation.folder)) as store:
        assert store is not None
        folder = store.url(store.path)
        write_parts(preparation.parts, lambda parts: (write_here(part, data, definitions, folder) for part in parts))
        write_manifest(len(preparation.parts), data, tokenizers, store, preparation.num_binary)
    return Corpus.open(preparation.folder)


def write_here(part: Part, data: DataConfig, tokenizer: str | Mapping[str, str], folder: str) -> dict[str, Any]:
    """The row that `write_part` answers with; the tokenizer's JSON, or one for each field."""
    definitions = {TEXT: tokenizer} if isinstance(tokenizer, str) else tokenizer
    (row,) = write_part(pa.Table.from_pylist([part.to_row()]), data, definitions, folder).to_pylist()
    return row


def grid_config(data_groups: int, shards: int, **overrides: object) -> Config:
    """A configuration for a grid of workers; fields by dotted name, with __ for the dot."""
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    workers = data_groups * shards
    grid = {"train.workers": (workers, workers), "parallel.sequence_shards": shards, "model.num_heads": 12}
    return load_config(overrides={**grid, "model.embed_dim": 24, **fields}).with_workers(workers)
