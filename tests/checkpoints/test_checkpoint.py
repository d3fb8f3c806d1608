"""Checkpoints: written whole or not at all, verified, found again, and refused with a reason."""

import json
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file

from reformer_dist import checkpoints, load_model
from reformer_dist.checkpoints import writing
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.storage.hashed_files import hash_file
from reformer_dist.storage.stores import open_store
from tests.checkpoints.untrained import METRICS, Keeping, make_config, write

pytestmark = pytest.mark.usefixtures("one_worker")


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_model_comes_back_from_a_folder_or_url(scheme: str, tmp_path: Path) -> None:
    config = make_config(scheme + str(tmp_path))
    path = write(checkpoints.new_folder(config.train.storage, "a"), 7, config)
    assert checkpoints.latest(config.train.storage, "a") == path
    model, read_config, tokenizer = checkpoints.read_model(path)
    assert (read_config, tokenizer.name) == (config, "bytes")
    for name, value in ReformerLM(config.model).state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not model.training
    assert checkpoints.read_metrics(path) == METRICS
    with checkpoints.optimizer_files(path) as folder:
        assert load_file(folder / "00000-of-00001.safetensors")["a"].tolist() == [7] * 9


def test_a_model_is_loaded_by_its_runs_name_folder_or_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for storage in ("runs", f"memory://{tmp_path}"):
        config = make_config(storage, **{"model.seed": len(storage)})
        path = write(checkpoints.new_folder(storage, "mine"), 7, config)
        run = f"{storage}/mine"
        for model in (load_model("mine", storage), *map(load_model, (path, run, f"{run}/", f"{run}/1"))):
            assert model.config == config.model
            assert model.tokenizer.to_json() == BytesTokenizer().to_json()
            assert not model.training
            assert torch.equal(model.embedding.weight, ReformerLM(config.model).embedding.weight)
    assert load_model("mine").config.seed == len("runs")
    monkeypatch.chdir(Path(checkpoints.latest("runs", "mine")).parent)
    assert load_model("step_00000007").config.seed == len("runs")
    with pytest.raises(ConfigError, match=r"no checkpoint under elsewhere/mine; jobs/train\.py makes one"):
        load_model("mine", "elsewhere")
    with pytest.raises(ConfigError, match=r"no manifest\.json there; give a folder called step_NUMBER"):
        load_model(f"{tmp_path}/runs")


def test_a_manifest_says_size_and_hash_by_name(tmp_path: Path) -> None:
    """The layout that checkpoints have had from the first release on."""
    path = write(str(tmp_path / "run"), 7, make_config(str(tmp_path)))
    content = (Path(path) / "config.yaml").read_bytes()
    manifest = json.loads((Path(path) / "manifest.json").read_text())
    assert manifest["config.yaml"] == {"size": len(content), "xxh3": xxhash.xxh3_128_hexdigest(content)}
    files = {str(file.relative_to(path)) for file in Path(path).rglob("*") if file.is_file()}
    assert files == {*manifest, "manifest.json"}


@pytest.mark.parametrize(
    "name", ["model.safetensors", "state.json", "optimizer/00000-of-00001.safetensors", "config.yaml"]
)
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damage_is_named_and_passed_over(name: str, damage: str, tmp_path: Path) -> None:
    folder, config = str(tmp_path / "run"), make_config(str(tmp_path))
    good, bad = write(folder, 1, config), write(folder, 2, config)
    file = Path(bad) / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if damage == "truncated" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(ConfigError, match=f"{bad}: {name}"):
        checkpoints.verify(bad)
    said: list[str] = []
    assert checkpoints.newest(folder, said.append) == good
    assert len(said) == 1
    assert name in said[0]


def test_interrupted_write_is_no_checkpoint(tmp_path: Path) -> None:
    folder, config = str(tmp_path / "run"), make_config(str(tmp_path))
    good, torn = write(folder, 1, config), write(folder, 2, config)
    (Path(torn) / "manifest.json").unlink()
    said: list[str] = []
    assert checkpoints.newest(folder, said.append) == good
    assert said == []
    assert write(folder, 2, config) == torn
    assert checkpoints.newest(folder) == torn


def test_prune_keeps_the_newest_whole_ones(tmp_path: Path) -> None:
    folder, config = str(tmp_path / "run"), make_config(str(tmp_path))
    paths = [write(folder, step, config) for step in (1, 2, 3, 10)]
    (Path(paths[2]) / "manifest.json").unlink()
    checkpoints.prune(folder, 2)
    assert [path for path in paths if Path(path).exists()] == [paths[1], paths[3]]


def test_a_new_start_hides_older_checkpoints(tmp_path: Path) -> None:
    storage, config = str(tmp_path), make_config(str(tmp_path))
    first = checkpoints.new_folder(storage, "a")
    write(first, 500, config)
    second = checkpoints.new_folder(storage, "a")
    assert second != first
    newer = write(second, 5, config)
    assert checkpoints.latest(storage, "a") == newer
    with pytest.raises(ConfigError, match=r"train\.run_name = b"):
        checkpoints.latest(storage, "b")


def test_older_checkpoints_are_what_they_were(tmp_path: Path) -> None:
    """Before there were choices next_token and AdamW were all there was, without rotary positions."""
    old = {
        "model.rotary": False,
        "model.lsh_values": "own",
        "model.lsh_rotary": True,
        "model.embedding_std": 0.02,
        "optimizer.name": "adamw",
    }
    config = make_config(str(tmp_path), **old)
    path = write(str(tmp_path / "run"), 7, config)
    state, manifest = Path(path) / "state.json", Path(path) / "manifest.json"
    tree = json.loads(state.read_text())
    del tree["config"]["objective"], tree["config"]["optimizer"]["name"]
    for name in ("rotary", "rotary_base", "lsh_values", "lsh_rotary", "embedding_std", "output_scale", "norm", "gated"):
        del tree["config"]["model"][name]
    state.write_text(json.dumps(tree))
    files = json.loads(manifest.read_text())
    files["state.json"] = {"size": state.stat().st_size, "xxh3": hash_file(open_store(path), "state.json")}
    manifest.write_text(json.dumps(files))
    model, read_config, _ = checkpoints.read_model(path)
    assert read_config == config
    assert not model.config.is_rotary
    assert not model.config.lsh_brings_next


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that cannot be written is told and removed, the one before stays, and the next is written again."""
    keeping = Keeping(str(tmp_path))
    keeper, folder, told = keeping.keeper, keeping.folder, keeping.told
    keeper.save(5, None)
    keeper.finish()
    whole = writing.save_file

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(writing, "save_file", full)
    for step in (6, 7):
        keeper.save(step, None)
        keeper._attempt(keeper._writer.finish)
    line = "worker 0 could not write a checkpoint: I/O error: No space left on device (os error 28)"
    assert told == [f"{line}; training goes on, and the checkpoint before stays"] * 2
    assert [path.name for path in Path(folder).iterdir()] == ["step_00000005"]
    monkeypatch.setattr(writing, "save_file", whole)
    keeper.save(9, None)
    keeper.finish()
    assert checkpoints.newest(folder) == f"{folder}/step_00000009"
    monkeypatch.setattr(writing, "save_file", full)
    keeper.save(10, None)
    with pytest.raises(OSError, match="No space left on device"):
        keeper.finish()
    assert checkpoints.newest(folder) == f"{folder}/step_00000009", "the last one that cannot be written is a failure"
