"""Where a training starts: which checkpoint it goes on from, with what, and what is refused."""

from pathlib import Path

import pytest

from reformer_dist import checkpoints
from reformer_dist.checkpoints import starting_point
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.errors import ConfigError
from reformer_dist.training.worker import Work
from tests.checkpoints.untrained import make_config, write
from tests.corpora import prepare_here, random_documents, write_documents

pytestmark = pytest.mark.usefixtures("one_worker")


class Begun:
    """A run called a with a checkpoint of step 5."""

    def __init__(self, storage: Path) -> None:
        source = write_documents(storage / "text", random_documents({f"{i}.txt": 500 for i in range(9)}))
        self._storage = str(storage)
        self.corpus = prepare_here(source, storage)
        self.config = make_config(self._storage, **{"train.run_name": "a"})
        self.folder = checkpoints.new_folder(self._storage, "a")
        self.path = write(self.folder, 5, self.config, corpus_hash=self.corpus.hash)

    def decide(self, **changes: object) -> starting_point.Place:
        """Where it starts with other fields, given as `model__num_hashes` or by dotted name."""
        given = {name.replace("__", "."): value for name, value in changes.items()}
        config = make_config(self._storage, **{"train.run_name": "a", **given})
        return starting_point.decide(config, self.corpus)


def test_resume_goes_on_only_with_what_fits(tmp_path: Path) -> None:
    run = Begun(tmp_path)
    corpus, config, folder, path, decide = run.corpus, run.config, run.folder, run.path, run.decide

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
    run = Begun(tmp_path)
    config, path, decide = run.config, run.path, run.decide

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
    run = Begun(tmp_path)
    config, path, decide = run.config, run.path, run.decide
    rate, batch = config.optimizer.learning_rate, config.train.batch_size

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
