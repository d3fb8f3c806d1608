"""Checkpoints: written whole or not at all, verified, found again, and refused with a reason."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file

from reformer_dist import checkpoints, load_model
from reformer_dist.checkpoints import starting_point, writing
from reformer_dist.checkpoints.writing import Writer
from reformer_dist.config import Config, load_config
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.tokenizers.single_bytes import BytesTokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.storage.hashed_files import hash_file
from reformer_dist.storage.stores import open_store
from reformer_dist.training.worker import Work, _Keeper
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
        checkpoints.State(step=step, config=config, **fields), weights, {"a": torch.full((9,), step)}, METRICS
    )
    writer.finish()
    return path


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


def test_a_model_is_loaded_by_its_runs_name_path_or_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for storage in ("runs", f"memory://{tmp_path}"):
        config = make_config(storage, **{"model.seed": len(storage)})
        path = write(checkpoints.new_folder(storage, "mine"), 7, config)
        for model in (load_model("mine", storage), load_model(path)):
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
        load_model(f"{tmp_path}/runs/mine")


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


def test_resume_goes_on_only_with_what_fits(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "text", random_documents({f"{i}.txt": 500 for i in range(9)}))
    corpus = prepare_here(source, tmp_path)
    config = make_config(str(tmp_path), **{"train.run_name": "a"})
    folder = checkpoints.new_folder(str(tmp_path), "a")
    path = write(folder, 5, config, corpus_hash=corpus.hash)

    def decide(**changes: object) -> starting_point.Place:
        return starting_point.decide(make_config(str(tmp_path), **{"train.run_name": "a", **changes}), corpus)

    assert decide() == starting_point.Place(folder, path, 5, "r")
    assert decide(**{"model.loss_chunk": 7, "train.steps": 9, "model.output_scale": 0.5}).start == path
    anew = decide(**{"train.resume": "none"})
    assert (anew.start, anew.run_id) == (None, None)
    assert anew.folder != folder
    from_path = decide(**{"train.run_name": "b", "train.resume": path})
    assert (from_path.start, from_path.step, from_path.run_id) == (path, 5, None)
    with pytest.raises(ConfigError, match=r"model\.num_hashes = 2, was 4"):
        decide(**{"model.num_hashes": 2})
    beside = {"train.run_name": "b", "train.resume": path}
    starting_point.check(make_config(str(tmp_path), **beside))
    with pytest.raises(ConfigError, match=r"model\.num_hashes = 2, was 4"):
        starting_point.check(make_config(str(tmp_path), **beside, **{"model.num_hashes": 2}))
    other = {"optimizer.name": "muon" if config.optimizer.name == "adamw" else "adamw"}
    for refused in (decide, lambda **changes: starting_point.check(make_config(str(tmp_path), **beside, **changes))):
        with pytest.raises(ConfigError, match=rf"^{path} .* optimizer\.name {config.optimizer.name} works, or .*anew$"):
            refused(**other)
    with pytest.raises(ConfigError, match=rf"train\.resume = {tmp_path}: .*no manifest\.json"):
        starting_point.check(make_config(str(tmp_path), **{"train.resume": str(tmp_path)}))
    wide = {"train.workers": 2, "train.batch_size": 2, "parallel.zero_stage": 3}
    assert decide(**wide, **{"train.allow_changes": "train.batch_size"}).start == path
    write(folder, 6, config, corpus_hash="another")
    with pytest.raises(ConfigError, match=r"another corpus than data\.sources .*allow_changes = data\.sources goes on"):
        decide()
    place = decide(**{"train.allow_changes": "data.sources"})
    assert (place.step, place.changes) == (6, {"data.sources": f"stdlib ({corpus.hash[:8]}), was stdlib (another)"})


def test_a_model_that_its_weights_fit_may_go_on_otherwise(tmp_path: Path) -> None:
    """More hash rounds or other dropout from some step on, but no other width, whatever is allowed."""
    source = write_documents(tmp_path / "text", random_documents({f"{i}.txt": 500 for i in range(9)}))
    corpus = prepare_here(source, tmp_path)
    config = make_config(str(tmp_path), **{"train.run_name": "a"})
    path = write(checkpoints.new_folder(str(tmp_path), "a"), 5, config, corpus_hash=corpus.hash)

    def decide(**changes: object) -> starting_point.Place:
        given = {name.replace("__", "."): value for name, value in changes.items()}
        return starting_point.decide(make_config(str(tmp_path), **{"train.run_name": "a", **given}), corpus)

    rounds = {"model__num_hashes": 8, "model__hidden_dropout": 0.5}
    with pytest.raises(ConfigError) as refused:
        decide(**rounds)
    (line,) = refused.value.problems
    assert line.startswith(f"{path} is of another model (model.")
    works = "train.allow_changes = model.num_hashes,model.hidden_dropout goes on all the same"
    assert line.endswith(f"; {works}, or train.resume none starts anew")
    place = decide(**rounds, train__allow_changes="model")
    assert place.start == path
    was = config.model.hidden_dropout
    assert place.changes == {"model.num_hashes": "8, was 4", "model.hidden_dropout": f"0.5, was {was}"}
    with pytest.raises(ConfigError, match=r"another model \(model\.embed_dim = 32, was 16\); train\.resume none"):
        decide(model__embed_dim=32, train__allow_changes="model")


def test_a_run_that_would_go_on_otherwise_says_so(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "text", random_documents({f"{i}.txt": 500 for i in range(9)}))
    corpus = prepare_here(source, tmp_path)
    config = make_config(str(tmp_path), **{"train.run_name": "a"})
    folder = checkpoints.new_folder(str(tmp_path), "a")
    path = write(folder, 5, config, corpus_hash=corpus.hash)
    rate, batch = config.optimizer.learning_rate, config.train.batch_size

    def decide(**changes: object) -> starting_point.Place:
        given = {name.replace("__", "."): value for name, value in changes.items()}
        return starting_point.decide(make_config(str(tmp_path), **{"train.run_name": "a", **given}), corpus)

    with pytest.raises(ConfigError) as refused:
        decide(optimizer__learning_rate=0.5, train__batch_size=8, train__seed=3, data__reset_positions=False)
    assert refused.value.problems == (
        f"{path} began otherwise, and its curve would change (train.batch_size = 8, was {batch}; train.seed = 3, was 0; "
        f"data.reset_positions = False, was True; optimizer.learning_rate = 0.5, was {rate}); train.allow_changes = "
        "train.batch_size,train.seed,data.reset_positions,optimizer.learning_rate goes on all the same,"
        " or train.resume none starts anew",
    )
    place = decide(optimizer__learning_rate=0.5, train__batch_size=8, train__allow_changes="optimizer,train.batch_size")
    assert (place.start, place.step) == (path, 5)
    assert place.changes == {"train.batch_size": f"8, was {batch}", "optimizer.learning_rate": f"0.5, was {rate}"}
    assert decide().changes == {}
    with pytest.raises(
        ConfigError, match=rf"goes on with train\.batch_size = {batch} alone, since data\.order = documents"
    ):
        decide(train__batch_size=8, data__order="documents", train__allow_changes="train,data")
    assert decide(train__resume=path, train__batch_size=8).start == path, "another run may begin as it likes"
    with pytest.raises(
        ConfigError,
        match=r"^train\.allow_changes = tune: tune is none that it is about; train, data, optimizer, model or",
    ):
        starting_point.check(make_config(str(tmp_path), **{"train.allow_changes": "tune"}))


def test_samples_go_on_where_another_batch_size_ended(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "text", random_documents({f"{i}.txt": 500 for i in range(9)}))
    corpus = prepare_here(source, tmp_path)
    four, six = (make_config(str(tmp_path), **{"train.run_name": "a", "train.batch_size": size}) for size in (4, 6))
    folder = checkpoints.new_folder(str(tmp_path), "a")
    first = write(folder, 5, four)  # as an older release wrote it, without samples
    assert Work(four, corpus, folder, first, "r").starting_point() == (first, 5, 0)
    path, step, offset = Work(six, corpus, folder, first, "r").starting_point()
    assert (path, step, step * 6 + offset) == (first, 5, 20)
    second = write(folder, 8, six, samples=8 * 6 + offset)
    path, step, offset = Work(four, corpus, folder, None, "r").starting_point()
    assert (path, step, step * 4 + offset) == (second, 8, 20 + 3 * 6)
    other = Work(six, corpus, checkpoints.new_folder(str(tmp_path), "b"), second, "r")
    assert other.starting_point() == (second, 8, 0), "a run that starts from another's is its own from the beginning"


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


def test_going_on_with_another_objective_is_refused(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "text", random_documents({f"{i}.txt": 500 for i in range(9)}))
    corpus = prepare_here(source, tmp_path)
    config = make_config(str(tmp_path), **{"train.run_name": "a"})
    path = write(checkpoints.new_folder(str(tmp_path), "a"), 5, config, corpus_hash=corpus.hash)
    copying = {"train.run_name": "a", "objective.name": "copy"}
    with pytest.raises(ConfigError, match=rf"{path} .* another objective \(objective\.name = copy, was next_token\)"):
        starting_point.decide(make_config(str(tmp_path), **copying), corpus)
    given = starting_point.decide(make_config(str(tmp_path), **copying, **{"train.resume": path}), corpus)
    assert given.start == path, "to begin another training from these weights is meant"


def test_a_vocabulary_stays_with_its_checkpoint(tmp_path: Path) -> None:
    def prepare_bpe(words: bytes, **fields: object) -> Corpus:
        source = write_documents(tmp_path / words.decode(), {f"{i}.txt": words * 50 for i in range(9)})
        return prepare_here(source, tmp_path, tokenizer="bpe", bpe_vocab_size=280, **fields)

    corpus, other = prepare_bpe(b"to be or not "), prepare_bpe(b"the quick fox ")
    config = make_config(str(tmp_path), **{"data.tokenizer": "bpe", "train.run_name": "a", "model.vocab_size": 280})
    folder = checkpoints.new_folder(str(tmp_path), "a")
    path = write(folder, 5, config, tokenizer=corpus.tokenizer, corpus_hash=corpus.hash)
    _, _, tokenizer = checkpoints.read_model(path)
    assert tokenizer.to_json() == corpus.tokenizer.to_json() != other.tokenizer.to_json()

    beside = make_config(str(tmp_path), **{"data.tokenizer": "bpe", "train.resume": path, "model.vocab_size": 280})
    assert starting_point.decide(beside, corpus).start == path
    with pytest.raises(ConfigError, match=rf"another vocabulary; data\.tokenizer_file = {path}/tokenizer\.json works"):
        starting_point.decide(beside, other)
    starting_point.decide(beside, prepare_bpe(b"the quick fox ", tokenizer_file=f"{path}/tokenizer.json"))


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that cannot be written is told and removed, the one before stays, and the next is written again."""
    config = make_config(str(tmp_path), **{"train.run_name": "a"})
    corpus = SimpleNamespace(tokenizer_of=BytesTokenizer, hash="c")
    folder, told = checkpoints.new_folder(str(tmp_path), "a"), list[object]()
    engine = SimpleNamespace(
        copy_weights=lambda into: into.update({n: x.clone() for n, x in ReformerLM(config.model).state_dict().items()}),
        copy_state=lambda into: into.update(a=torch.zeros(9)),
    )
    keeper = _Keeper(Work(config, corpus, folder, None, "r"), engine, None, told.append, 0)
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
