"""The loops that preparing is compared with, on a small corpus: they run, and take as many bytes as they are told."""

import json
from pathlib import Path

import pytest

from reformer_dist.benchmarks.data.plain_loops import rates
from reformer_dist.config import DataConfig
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.data.tokenizers.choice import make_tokenizer


@pytest.mark.parametrize("name", ["lines.jsonl", "long.txt"])
def test_loops_and_task_prepare_the_same_sources(tmp_path: Path, name: str) -> None:
    text = "grey was the sea and nobody spoke " * 2000
    lines = [json.dumps({"text": text}) for _ in range(4)] if name.endswith("jsonl") else [text] * 4
    (tmp_path / name).write_text("\n".join(lines))
    data = DataConfig.model_validate({"sources": (str(tmp_path / name),)})
    found = rates(plan_preparation(data, str(tmp_path)), make_tokenizer("bytes"), num_bytes=100_000)
    assert min(found) > 0
