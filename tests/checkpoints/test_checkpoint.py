"""Checkpoints: written whole or not at all, verified, found again, and refused with a reason."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from reformer_dist.checkpoints import checkpoint
from reformer_dist.checkpoints import starting_point as resume
from reformer_dist.checkpoints.writing import Writer
from reformer_dist.config import Config, load_config
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.storage.stores import hash_file, open_store
from tests.corpora import prepare_here, random_documents, write_documents

METRICS = [(1, {"train/loss": 2.5}), (2, {"train/loss": 1 / 3, "validation/loss": 1e-300})]
SETTINGS = {"model.embed_dim": 16, "model.num_heads": 2, "model.feed_forward_dim": 16, "model.tie_embeddings": True}


@pytest.fixture(autouse=True)
def one_worker() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def make_config(storage: str, **changes: object) -> Config:
    return load_config(None, {**SETTINGS, "train.storage": storage, **changes})


def write(
    folder: str, step: int, config: Config, keep: int = 99, tokenizer: Tokenizer | None = None, **changes: object
) -> str:
    """A checkpoint of an untrained model, with a stand-in for the engine's state."""
    name = tokenizer.name if tokenizer else "bytes"
    fields = {"tokenizer": name, "corpus_hash": "c", "run_id": "r", "workers": 1, "zero_stage": 1, **changes}
    writer = Writer(folder, keep, tokenizer or BytesTokenizer(), keep_best=True, timeout=60.0)
    weights = {name: value.clone() for name, value in ReformerLM(config.model).state_dict().items()}
    path = writer.save(
        checkpoint.State(step=step, config=config, **fields), weights, {"a": torch.full((9,), step)}, METRICS
    )
    writer.finish()
    return path


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_model_comes_back_from_a_folder_or_url(scheme: str, tmp_path: Path) -> None:
    config = make_config(scheme + str(tmp_path))
    path = write(checkpoint.new_folder(config.train.storage, "a"), 7, config)
    assert checkpoint.latest(config.train.storage, "a") == path
    model, read_config, tokenizer = checkpoint.load_model(path)
    assert (read_config, tokenizer.name) == (config, "bytes")
    for name, value in ReformerLM(config.model).state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not model.training
    assert checkpoint.read_metrics(path) == METRICS
    with checkpoint.optimizer_files(path) as folder:
        assert load_file(folder / "00000-of-00001.safetensors")["a"].tolist() == [7] * 9


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
        checkpoint.verify(bad)
    said: list[str] = []
    assert checkpoint.newest(folder, said.append) == good
    assert len(said) == 1
    assert name in said[0]


def test_interrupted_write_is_no_checkpoint(tmp_path: Path) -> None:
    folder, config = str(tmp_path / "run"), make_config(str(tmp_path))
    good, torn = write(folder, 1, config), write(folder, 2, config)
    (Path(torn) / "manifest.json").unlink()
    said: list[str] = []
    assert checkpoint.newest(folder, said.append) == good
    assert said == []
    assert write(folder, 2, config) == torn
    assert checkpoint.newest(folder) == torn


def test_prune_keeps_the_newest_whole_ones(tmp_path: Path) -> None:
    folder, config = str(tmp_path / "run"), make_config(str(tmp_path))
    paths = [write(folder, step, config) for step in (1, 2, 3, 10)]
    (Path(paths[2]) / "manifest.json").unlink()
    checkpoint.prune(folder, 2)
    assert [path for path in paths if Path(path).exists()] == [paths[1], paths[3]]


def test_a_new_start_hides_older_checkpoints(tmp_path: Path) -> None:
    storage, config = str(tmp_path), make_config(str(tmp_path))
    first = checkpoint.new_folder(storage, "a")
    write(first, 500, config)
    second = checkpoint.new_folder(storage, "a")
    assert second != first
    newer = write(second, 5, config)
    assert checkpoint.latest(storage, "a") == newer
    with pytest.raises(ConfigError, match=r"train\.run_name = b"):
        checkpoint.latest(storage, "b")


def test_resume_goes_on_only_with_what_fits(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "text", random_documents({f"{i}.txt": 500 for i in range(9)}))
    corpus = prepare_here(source, tmp_path)
    config = make_config(str(tmp_path), **{"train.run_name": "a"})
    folder = checkpoint.new_folder(str(tmp_path), "a")
    path = write(folder, 5, config, corpus_hash=corpus.hash)

    def decide(**changes: object) -> resume.Place:
        return resume.decide(make_config(str(tmp_path), **{"train.run_name": "a", **changes}), corpus)

    assert decide() == resume.Place(folder, path, 5, "r")
    assert decide(**{"model.loss_chunk": 7, "optimizer.learning_rate": 0.5}).start == path
    anew = decide(**{"train.resume": "none"})
    assert (anew.start, anew.run_id) == (None, None)
    assert anew.folder != folder
    from_path = decide(**{"train.run_name": "b", "train.resume": path})
    assert (from_path.start, from_path.step, from_path.run_id) == (path, 5, None)
    with pytest.raises(ConfigError, match=r"model\.num_hashes = 2, was 4"):
        decide(**{"model.num_hashes": 2})
    beside = {"train.run_name": "b", "train.resume": path}
    resume.check(make_config(str(tmp_path), **beside))
    with pytest.raises(ConfigError, match=r"model\.num_hashes = 2, was 4"):
        resume.check(make_config(str(tmp_path), **beside, **{"model.num_hashes": 2}))
    with pytest.raises(ConfigError, match=rf"train\.resume = {tmp_path}: .*no manifest\.json"):
        resume.check(make_config(str(tmp_path), **{"train.resume": str(tmp_path)}))
    assert decide(**{"train.workers": 2, "train.batch_size": 2, "parallel.zero_stage": 3}).start == path
    write(folder, 6, config, corpus_hash="another")
    with pytest.raises(ConfigError, match=r"another corpus than data\.sources"):
        decide()


def test_a_checkpoint_from_before_there_were_objectives_is_one_of_next_token(tmp_path: Path) -> None:
    path = write(str(tmp_path / "run"), 7, make_config(str(tmp_path)))
    state, manifest = Path(path) / "state.json", Path(path) / "manifest.json"
    tree = json.loads(state.read_text())
    del tree["config"]["objective"]
    state.write_text(json.dumps(tree))
    files = json.loads(manifest.read_text())
    files["state.json"] = {"size": state.stat().st_size, "xxh3": hash_file(open_store(path), "state.json")}
    manifest.write_text(json.dumps(files))
    _, config, _ = checkpoint.load_model(path)
    assert config.objective.name == "next_token"
    assert config == make_config(str(tmp_path))


def test_going_on_with_another_objective_is_refused(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "text", random_documents({f"{i}.txt": 500 for i in range(9)}))
    corpus = prepare_here(source, tmp_path)
    config = make_config(str(tmp_path), **{"train.run_name": "a"})
    path = write(checkpoint.new_folder(str(tmp_path), "a"), 5, config, corpus_hash=corpus.hash)
    copying = {"train.run_name": "a", "objective.name": "copy"}
    with pytest.raises(ConfigError, match=rf"{path} .* another objective \(objective\.name = copy, was next_token\)"):
        resume.decide(make_config(str(tmp_path), **copying), corpus)
    given = resume.decide(make_config(str(tmp_path), **copying, **{"train.resume": path}), corpus)
    assert given.start == path, "to begin another training from these weights is meant"


def test_a_vocabulary_stays_with_its_checkpoint(tmp_path: Path) -> None:
    def prepare_bpe(words: bytes, **fields: object) -> Corpus:
        source = write_documents(tmp_path / words.decode(), {f"{i}.txt": words * 50 for i in range(9)})
        return prepare_here(source, tmp_path, tokenizer="bpe", bpe_vocab_size=280, **fields)

    corpus, other = prepare_bpe(b"to be or not "), prepare_bpe(b"the quick fox ")
    config = make_config(str(tmp_path), **{"data.tokenizer": "bpe", "train.run_name": "a", "model.vocab_size": 280})
    folder = checkpoint.new_folder(str(tmp_path), "a")
    path = write(folder, 5, config, tokenizer=corpus.tokenizer, corpus_hash=corpus.hash)
    _, _, tokenizer = checkpoint.load_model(path)
    assert tokenizer.to_json() == corpus.tokenizer.to_json() != other.tokenizer.to_json()

    beside = make_config(str(tmp_path), **{"data.tokenizer": "bpe", "train.resume": path, "model.vocab_size": 280})
    assert resume.decide(beside, corpus).start == path
    with pytest.raises(ConfigError, match=rf"another vocabulary; data\.tokenizer_file = {path}/tokenizer\.json works"):
        resume.decide(beside, other)
    resume.decide(beside, prepare_bpe(b"the quick fox ", tokenizer_file=f"{path}/tokenizer.json"))
