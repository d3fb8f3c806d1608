"""Where a training starts: from nothing, or from which checkpoint, in which folder and MLflow run."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reformer_dist import checkpoints
from reformer_dist.config import Config, OptimizerConfig, Section
from reformer_dist.data.preparing.corpus import Corpus, read_stored_tokenizer
from reformer_dist.data.preparing.manifest import TOKENIZER
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import open_store

SPEED_ONLY = {"feed_forward_chunk", "loss_chunk", "reversible", "attention_kernel"}
"""Fields of the model section that change its memory and speed but not what it is."""
START_ONLY = {"embedding_std", "output_scale"}
"""Those that change only the weights that a training begins with."""
CURVE: Mapping[str, tuple[str, ...]] = {
    "train": ("batch_size", "seed", "dtype"),
    "data": ("sequence_length", "order", "weights", "reset_positions", "attend_across_documents"),
    "optimizer": tuple(name for name in OptimizerConfig.model_fields if name != "name"),
}
"""Fields by section that decide the curve from any step on. Steps are not among them: more of them go on."""
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
    """

    folder: str
    start: str | None = None
    step: int = 0
    run_id: str | None = None
    changes: Mapping[str, str] = field(default_factory=dict)


def check(config: Config) -> None:
    """What of `decide` needs no corpus: whether a path in `train.resume` is a checkpoint of this model and optimizer.

    Its files are not compared with their hashes yet.

    Raises:
        ConfigError: there is none, or it is of another model or optimizer.
    """
    names = {f"{section}.{name}" for section, fields in CURVE.items() for name in fields}
    if unknown := [name for name in config.train.allow_changes if name not in names | CURVE.keys()]:
        raise ConfigError(
            f"train.allow_changes = {','.join(config.train.allow_changes)}: {unknown[0]} is none that it is about;"
            f" {', '.join(CURVE)} or a field such as {sorted(names)[0]} works"
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
            return Place(current or checkpoints.new_folder(storage, name))
        state = checkpoints.read_state(start)
        _check(config, corpus, start, state)
        return Place(current, start, state.step, state.run_id, curve_changes(config, state.config))
    folder = checkpoints.new_folder(storage, name)
    if config.train.resume == "none":
        return Place(folder)
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
    changed = _changes("model", config.model, state.config.model)
    return f"{path} is of another model ({changed}); {ANEW}" if changed else None


def _optimizer_problem(config: Config, path: str, state: checkpoints.State) -> str | None:
    now, then = config.optimizer.name, state.config.optimizer.name
    if now != then:
        return f"{path} has the state of optimizer.name = {then}, not of {now}; optimizer.name {then} works, or {ANEW}"
    return None


def _corpus_problem(config: Config, corpus: Corpus, path: str, state: checkpoints.State) -> str | None:
    if corpus.hash != state.corpus_hash and config.train.resume == "auto":
        return f"{path} was trained on another corpus than data.sources now names; {ANEW}"
    if config.train.resume == "auto" and (changed := _changes("objective", config.objective, state.config.objective)):
        return f"{path} was trained with another objective ({changed}); {ANEW}"
    if corpus.tokenizer_of().name != state.tokenizer:
        return f"{path} was trained with data.tokenizer = {state.tokenizer}; that works, or {ANEW}"
    if corpus.tokenizer_of().to_json() != read_stored_tokenizer(open_store(path)).to_json():
        return f"{path} was trained with another vocabulary; data.tokenizer_file = {path}/{TOKENIZER} works, or {ANEW}"
    return None


def curve_changes(now: Config, then: Config) -> dict[str, str]:
    """Fields of CURVE that differ, by dotted name: what each is and was."""
    found = {}
    for section, fields in CURVE.items():
        for name in fields:
            new, old = (getattr(getattr(config, section), name) for config in (now, then))
            if new != old:
                found[f"{section}.{name}"] = f"{new}, was {old}"
    return found


def _curve_problem(config: Config, path: str, state: checkpoints.State) -> str | None:
    """What a run would go on with otherwise than it began, but for what is allowed."""
    if config.train.resume != "auto":
        return None
    changes, allowed = curve_changes(config, state.config), config.train.allow_changes
    if "train.batch_size" in changes and config.data.order == "documents":
        was = state.config.train.batch_size
        return f"{path} goes on with train.batch_size = {was} alone, since data.order = documents; {ANEW}"
    refused = {name: text for name, text in changes.items() if not {name, name.partition(".")[0]} & {*allowed}}
    if not refused:
        return None
    told = "; ".join(f"{name} = {text}" for name, text in refused.items())
    works = f"train.allow_changes = {','.join(refused)} goes on all the same, or {ANEW}"
    return f"{path} began otherwise, and its curve would change ({told}); {works}"


def _changes(section: str, now: Section, then: Section) -> str:
    """The fields that differ, such as "model.num_hashes = 4, was 2"."""
    return ", ".join(
        f"{section}.{name} = {getattr(now, name)}, was {getattr(then, name)}"
        for name in type(now).model_fields
        if name not in SPEED_ONLY | START_ONLY and getattr(now, name) != getattr(then, name)
    )
