"""An exported folder is a whole checkpoint with a card, or is not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from reformer_dist import from_pretrained, generate, load_model
from reformer_dist.checkpoints import State
from reformer_dist.errors import ConfigError
from reformer_dist.exporting import folder
from reformer_dist.exporting.card import model_card
from reformer_dist.exporting.folder import export, export_to_huggingface
from reformer_dist.storage.hashed_files import HashingFile
from tests.checkpoints.untrained import make_config, write

ROOT = Path(__file__).parents[2]


def test_it_is_the_checkpoints_model_in_one_line(checkpoint: str, tmp_path: Path) -> None:
    place = tmp_path / "models" / "mine"
    state = export(checkpoint, str(place), "mine", "cc-by-4.0")
    assert state.step == 3
    ours, theirs = load_model(str(place)), load_model(checkpoint)
    assert ours.config == theirs.config
    assert all(torch.equal(x, theirs.state_dict()[name]) for name, x in ours.state_dict().items())
    assert generate(ours, "a", 5) == generate(theirs, "a", 5)
    assert not (place / "optimizer").exists()
    assert os.listdir(place.parent) == ["mine"], "nothing is left beside it"


def test_its_card_says_what_it_is_and_what_it_came_to(checkpoint: str, tmp_path: Path) -> None:
    export(checkpoint, str(tmp_path / "mine"), "mine", "cc-by-4.0")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "reformer_dist")
    assert [(each.metric_type, each.metric_value) for each in card.data.eval_results] == [("loss", 1e-300)]
    assert 'load_model("./mine")' in card.text
    assert "content hash\n`c`" in card.text
    number = sum(x.numel() for x in load_model(checkpoint).parameters())
    assert f"{number:,} weights" in card.text
    assert "4 layers (local, lsh)" in card.text
    assert "it continues sequences of up to 4,096 tokens" in card.text


def test_a_card_of_an_encoder_decoder_names_both_sides() -> None:
    changes = {
        "model.encoder_layers": "full,local,local",
        "model.cross_attention": "lsh",
        "model.max_source_length": 1 << 15,
        "data.source_length": 1 << 14,
        "train.batch_size": 2,
        "objective.name": "pairs",
    }
    fields = {"tokenizer": "bytes", "corpus_hash": "c", "run_id": "r", "workers": 1, "zero_stage": 1}
    card = ModelCard(
        model_card(State(step=3, config=make_config("runs", **changes), **fields), {}, 5, "a", "mit", "./a")
    )
    assert card.data.pipeline_tag == "text2text-generation"
    layers = "an encoder of 3 layers (full, local), a decoder of 4 layers (local, lsh) with lsh cross-attention"
    assert layers in card.text
    assert "it reads sources of up to 32,768 tokens and writes sequences of up to 4,096 tokens" in card.text
    assert "3 steps of 8,192 tokens and 32,768 of sources with the objective `pairs`" in card.text
    assert "from reformer_dist import load_model\n" in card.text
    assert "logits = model(source, tokens)" in card.text
    assert "generate" not in card.text


def test_damage_is_seen(checkpoint: str, tmp_path: Path) -> None:
    export(checkpoint, str(tmp_path / "mine"), "mine", "mit")
    with (tmp_path / "mine" / "model.safetensors").open("r+b") as file:
        file.seek(500)
        file.write(b"x")
    with pytest.raises(ConfigError, match=r"model\.safetensors does not have the hash"):
        load_model(str(tmp_path / "mine"))
    with pytest.raises(ConfigError, match=r"model\.safetensors does not have the hash"):
        export(str(tmp_path / "mine"), str(tmp_path / "again"), "mine", "mit")
    assert not (tmp_path / "again").exists()


def test_nothing_is_overwritten_and_nothing_half_written(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    for there in ("there", "there/file"):
        with pytest.raises(ConfigError, match="is there already; another folder works"):
            export(checkpoint, str(tmp_path / there), "mine", "mit")

    class FullDisk(HashingFile):
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "HashingFile", FullDisk)
    before = set(os.listdir(tmp_path))
    with pytest.raises(OSError, match=r"^export\.output: .*model\.safetensors cannot be written: .*No space left"):
        export(checkpoint, str(tmp_path / "mine"), "mine", "mit")
    assert set(os.listdir(tmp_path)) == before


def test_transformers_format_where_the_mode_allows(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"export\.format = huggingface: .*; export\.format = reformer_dist works"):
        export_to_huggingface(checkpoint, str(tmp_path / "hf"))
    assert not (tmp_path / "hf").exists()
    modes = {"model.lsh_mode": "chunked", "model.local_mode": "chunked", "model.tie_embeddings": False}
    storage = str(tmp_path / "runs")
    theirs = write(f"{storage}/b/1", 1, make_config(storage, **{"train.run_name": "b", **modes}))
    export_to_huggingface(theirs, str(tmp_path / "hf"))
    assert {path.name for path in (tmp_path / "hf").iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    tokens = torch.arange(100)[None]
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(tmp_path / "hf")(tokens), load_model(theirs)(tokens))


def test_the_job_says_where_it_is(checkpoint: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs/export.py"), "--config", str(ROOT / "jobs/configs/tiny.yaml")]
    command += ["--train.storage", str(tmp_path / "runs"), "--train.run_name", "a"]
    job = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (job.returncode, job.stderr) == (0, "")
    assert job.stdout.strip() == str(tmp_path / "runs/exports/a-3")
    job = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (job.returncode, job.stdout, job.stderr.count("\n")) == (2, "", 1)
    assert "is there already" in job.stderr
