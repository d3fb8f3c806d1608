"""Where a training starts: from nothing, or from which checkpoint, in which folder and MLflow run."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reformer_dist import checkpoints
from reformer_dist.checkpoints import first_weights
from reformer_dist.checkpoints.changes import (
    ALLOWABLE,
    curve_changes,
    model_changes,
    same_weights,
    section_changes,
    told,
)
from reformer_dist.config import Config
from reformer_dist.data.preparing.corpus import Corpus, read_stored_tokenizer
from reformer_dist.data.preparing.manifest import TOKENIZER
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import open_store

ANEW = "train.resume none starts anew"


@dataclass(frozen=True)
class Place:
    """Where a training starts.

    Attributes:
        folder: folder or URL of the run, absolute; its checkpoints go there.
        start: checkpoint to start from, None to start from nothing.
        step: steps done at the start.
        run_id: MLflow run to go on with, None for a new one.
        changes: for each field that was another before, by dotted name, what it is and was.
        weights: checkpoint of another model with whose weights a training begins that starts from nothing.
    """

    folder: str
    start: str | None = None
    step: int = 0
    run_id: str | None = None
    changes: Mapping[str, str] = field(default_factory=dict)
    weights: str | None = None


def check(config: Config) -> None:
    """What of `decide` needs no corpus: whether paths are checkpoints, that of `train.resume` of this model and optimizer.

    Its files are not compared with their hashes yet.

    Raises:
        ConfigError: there is none, or it is of another model or optimizer.
    """
    sections = {name.partition(".")[0]: None for name in ALLOWABLE}
    if unknown := [name for name in config.train.allow_changes if name not in ALLOWABLE and name not in sections]:
        raise ConfigError(
            f"train.allow_changes = {','.join(config.train.allow_changes)}: {unknown[0]} is none that it is about;"
            f" {', '.join(sections)} or a field such as {ALLOWABLE[0]} works"
        )
    path = config.train.resume
    if path in ("auto", "none"):
        return
    try:
        checkpoints.read_json(open_store(path), checkpoints.MANIFEST)
        state = checkpoints.read_state(path)
    except (ValueError, OSError) as error:
        raise ConfigError(f"train.resume = {path}: {error}") from None
    _raise(_model_problem(config, path, state), _optimizer_problem(config, path, state))


def check_first_weights(config: Config) -> None:
    """Whether `train.weights_from` is a checkpoint that this model can begin with, unless training goes on from its own.

    Raises:
        ConfigError: it is none, nothing of it fits, or `train.resume` names another.
    """
    if config.train.weights_from is not None and not _is_begun(config):
        first_weights.check(config)


def _is_begun(config: Config) -> bool:
    """Whether training goes on from a checkpoint of its own, whatever has become of the weights that it began with."""
    folder = checkpoints.current_folder(config.train.storage, config.train.run_name)
    return config.train.resume == "auto" and folder is not None and checkpoints.newest_step(folder) > 0


def decide(config: Config, corpus: Corpus) -> Place:
    """Follow `train.resume`.

    Raises:
        ConfigError: the checkpoint is damaged or of another model, optimizer, corpus or tokenizer.
    """
    store = open_store(config.train.storage)
    storage, name = store.url(store.path), config.train.run_name
    current = checkpoints.current_folder(storage, name)
    if config.train.resume == "auto":
        start = checkpoints.newest(current) if current else None
        if current is None or start is None:
            weights = first_weights.find(config, corpus)
            return Place(current or checkpoints.new_folder(storage, name), weights=weights)
        state = checkpoints.read_state(start)
        _check(config, corpus, start, state)
        changes = curve_changes(config, state.config) | model_changes(config, state.config)
        if corpus.hash != state.corpus_hash:  # the same names may hold something else
            names = [",".join(each.data.sources) for each in (config, state.config)]
            changes["data.sources"] = f"{names[0]} ({corpus.hash[:8]}), was {names[1]} ({state.corpus_hash[:8]})"
        return Place(current, start, state.step, state.run_id, changes)
    folder = checkpoints.new_folder(storage, name)
    if config.train.resume == "none":
        return Place(folder, weights=first_weights.find(config, corpus))
    given = open_store(config.train.resume)
    path = given.url(given.path)
    state = checkpoints.verify(path)
    _check(config, corpus, path, state)
    return Place(folder, path, state.step)


def _check(config: Config, corpus: Corpus, path: str, state: checkpoints.State) -> None:
    """Whether a checkpoint is of this model, of this optimizer and of this corpus: what is wrong with each of the three."""
    _raise(
        _model_problem(config, path, state),
        _optimizer_problem(config, path, state),
        _corpus_problem(config, corpus, path, state),
        _curve_problem(config, path, state),
    )


def _raise(*problems: str | None) -> None:
    if found := [problem for problem in problems if problem is not None]:
        raise ConfigError(*found)


def _model_problem(config: Config, path: str, state: checkpoints.State) -> str | None:
    changed = model_changes(config, state.config)
    refused = config.train.not_allowed(changed)
    is_same_shape = not changed or same_weights(config.model, state.config.model)
    if is_same_shape and not refused:
        return None
    works = f"train.allow_changes = {','.join(refused)} goes on all the same, or {ANEW}" if is_same_shape else ANEW
    return f"{path} is of another model ({told(changed)}); {works}"


def _optimizer_problem(config: Config, path: str, state: checkpoints.State) -> str | None:
    now, then = config.optimizer.name, state.config.optimizer.name
    if now != then:
        return f"{path} has the state of optimizer.name = {then}, not of {now}; optimizer.name {then} works, or {ANEW}"
    return None


def _corpus_problem(config: Config, corpus: Corpus, path: str, state: checkpoints.State) -> str | None:
    is_own = config.train.resume == "auto"
    if is_own and corpus.hash != state.corpus_hash and config.train.not_allowed(["data.sources"]):
        return (
            f"{path} was trained on another corpus than data.sources now names;"
            f" train.allow_changes = data.sources goes on with this one, or {ANEW}"
        )
    if is_own and (changed := section_changes("objective", config, state.config)):
        return f"{path} was trained with another objective ({told(changed)}); {ANEW}"
    if corpus.tokenizer_of().name != state.tokenizer:
        return f"{path} was trained with data.tokenizer = {state.tokenizer}; that works, or {ANEW}"
    if corpus.tokenizer_of().to_json() != read_stored_tokenizer(open_store(path)).to_json():
        return f"{path} was trained with another vocabulary; data.tokenizer_file = {path}/{TOKENIZER} works, or {ANEW}"
    return None


def _curve_problem(config: Config, path: str, state: checkpoints.State) -> str | None:
    """What a run would go on with otherwise than it began, but for what is allowed."""
    if config.train.resume != "auto":
        return None
    changes = curve_changes(config, state.config)
    if "train.batch_size" in changes and config.data.order == "documents":
        was = state.config.train.batch_size
        return f"{path} goes on with train.batch_size = {was} alone, since data.order = documents; {ANEW}"
    refused = config.train.not_allowed(changes)
    if not refused:
        return None
    works = f"train.allow_changes = {','.join(refused)} goes on all the same, or {ANEW}"
    return f"{path} began otherwise, and its curve would change ({told(changes, refused)}); {works}"
