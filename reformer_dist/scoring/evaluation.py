"""Scoring a checkpoint on documents, in one process or several.

In: a checkpoint and, unless others are named, the documents that its training held out. Out: the metrics of its objective,
beside those of the objective's baseline: of all that is scored, by how much came before, by source, by hash rounds.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from reformer_dist import checkpoints
from reformer_dist.config import Config, flatten, load_config
from reformer_dist.config.sections.data import TEXT
from reformer_dist.data.feeding.rewriting import check_lengths
from reformer_dist.data.feeding.sequences import check_fields, num_positions
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.preparation import plan_preparation
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.model.encoder_decoder import EncoderDecoder
from reformer_dist.model.token_model import TokenModel
from reformer_dist.objectives.choice import (
    check_objective,
    check_texts,
    check_vocabulary,
    make_objective,
    vocab_sizes,
)
from reformer_dist.objectives.objective import Objective
from reformer_dist.planning.preflight import Preflight
from reformer_dist.ray_session import ray_session
from reformer_dist.scoring.results import Evaluation, Scores, Share
from reformer_dist.scoring.scorer import Part, Scorer, Settings, plan_of, score_in_workers
from reformer_dist.scoring.tally import Tally, bucket_ends
from reformer_dist.scoring.texts.writing import Progress, WrittenTexts, write_and_score


def evaluate(config: Config, progress: Callable[[int, int], None] = lambda done, total: None) -> Evaluation:
    """Score the checkpoint that `evaluation.checkpoint` names.

    What `config` sets wins over what the checkpoint was trained with: other documents through the data section, and
    settings of the model that leave its weights as they are, such as model.num_hashes.

    Args:
        config: the evaluation section, and whatever else is to differ from the training.
        progress: called with the number of sequences done and of all that will be, once for each setting.

    Raises:
        ConfigError: no such checkpoint, a damaged one, or settings that do not go with its weights.
    """
    path = checkpoints.resolve(config.evaluation.checkpoint, config.train.storage, config.train.run_name)
    read, trained, tokenizer = checkpoints.read_model(path)
    model: TokenModel = read
    config = _overlay(trained, config)
    options = config.evaluation
    check_objective(config)
    check_texts(config)
    Preflight(config).on_this_machine()
    check_vocabulary(config, {TEXT: tokenizer.vocab_size})
    objective = make_objective(config.objective)
    if objective.others.rewriting is not None:
        check_lengths(objective.others.rewriting, config.data)
    base = _changes(model, config)
    model = _with_settings(model, base)
    corpus = _corpus(config, tokenizer)
    check_fields(objective, corpus)
    check_vocabulary(config, vocab_sizes(objective, corpus))
    objective.check(corpus)
    config = _in_context(config, corpus)
    settings = _settings(config)
    chosen, available = _chosen(config, corpus)
    parts = [
        Part(index, tuple(chosen[first : first + config.train.micro_batch_size]))
        for index in range(len(settings))
        for first in range(0, len(chosen), config.train.micro_batch_size)
    ]
    found: dict[int, Tally] = {}
    done = 0
    for part, one in zip(parts, _tallies(config, path, model, base, corpus, [*settings.values()], parts), strict=True):
        found[part.settings] = found[part.settings] + one if part.settings in found else one
        done += len(part.sequences)
        progress(done, len(chosen) * len(settings))
    return Evaluation(
        checkpoint=path,
        corpus=corpus.folder,
        split=options.split,
        unit=objective.unit(corpus.tokenizer_of().unit),
        num_sequences=len(chosen),
        all_sequences=available,
        context=_told(config),
        settings={name: _scores(objective, found[index], config) for index, name in enumerate(settings)},
        baseline_name=objective.baseline_name,
        baseline={} if options.split == "all" else objective.baseline(corpus, options.split),
        config=config,
        written=_written(config, model, tokenizer, corpus, progress),
    )


def _written(
    config: Config, model: TokenModel, tokenizer: Tokenizer, corpus: Corpus, progress: Progress
) -> WrittenTexts | None:
    """What the model writes from sources of the split, if `evaluation.text_scores` asks for it."""
    if not config.evaluation.text_scores:
        return None
    assert isinstance(model, EncoderDecoder), "the objective has a source"
    return write_and_score(config, model, tokenizer, corpus, config.evaluation.split, progress)


def _overlay(trained: Config, given: Config) -> Config:
    """The training's configuration under what was given, for one process."""
    values: dict[str, Any] = dict(flatten(trained.model_dump()))
    if "sources" in given.data.model_fields_set:
        values["data.prepared"] = None  # what the training read instead of sources
    values |= flatten(given.model_dump(exclude_unset=True))
    values |= {"train.workers": 1, "parallel.sequence_shards": 1, "train.use_gpu": given.train.use_gpu}
    return load_config(None, values)


def _changes(model: TokenModel, config: Config) -> Settings:
    """Fields of the model that are to be others than the checkpoint's."""
    wanted = config.model.model_dump()
    return {name: wanted[name] for name, value in model.config.model_dump().items() if wanted[name] != value}


def _with_settings(model: TokenModel, changes: Settings) -> TokenModel:
    if not changes:
        return model
    try:
        return model.with_settings(**changes)
    except ValueError:
        names = ", ".join(f"model.{name} = {value}" for name, value in changes.items())
        raise ConfigError(f"{names} does not go with the checkpoint's weights; leave it out") from None


def _corpus(config: Config, tokenizer: Tokenizer) -> Corpus:
    """The corpus to score, in the checkpoint's tokens: the one of its training if that is there and meant."""
    preparation = plan_preparation(config.data, config.train.storage)
    text = config.data.text
    if not preparation.is_done and text is not None and tokenizer.name == text.tokenizer:
        preparation = plan_preparation(config.data, config.train.storage, tokenizer)
    if preparation.is_done:
        corpus = preparation.run()
    else:
        with ray_session():
            corpus = preparation.run()
    if corpus.tokenizer_of().to_json() != tokenizer.to_json():
        raise ConfigError(
            f"{corpus.folder} has other tokens than the checkpoint was trained on; name data.sources instead"
        )
    return corpus


def _in_context(config: Config, corpus: Corpus) -> Config:
    """The configuration with sequences as long as `evaluation.context` asks for, and a stride."""
    options, length = config.evaluation, config.data.sequence_length
    others = make_objective(config.objective).others
    if options.context != "sequence" and others.has_source:
        raise ConfigError(
            f"evaluation.context = {options.context}: what is written of a source is whole in its sequence;"
            " evaluation.context = sequence works"
        )
    if options.context == "sliding":
        stride = options.stride or max(1, length // 2)
        if stride > length:
            raise ConfigError(
                f"evaluation.stride = {stride:,} would leave out tokens between windows of data.sequence_length ="
                f" {length:,}; {length // 2} works"
            )
        return config.model_copy(update={"evaluation": options.model_copy(update={"stride": stride})})
    if options.context != "document":
        return config
    longest = int(num_positions(corpus, config.evaluation.split, others).max(initial=1))
    if longest > config.model.max_length:
        raise ConfigError(
            f"evaluation.context = document: a document has {longest:,} positions, model.max_length ="
            f" {config.model.max_length:,}; evaluation.context = sliding works"
        )
    data = config.data.model_copy(update={"sequence_length": longest})
    return config.model_copy(update={"data": data})


def _settings(config: Config) -> dict[str, Settings]:
    """Settings of attention to score under, by name: as configured, other rounds, exact."""
    options, model = config.evaluation, config.model
    if "lsh" not in model.layers:
        if options.rounds or options.exact:
            name = "rounds" if options.rounds else "exact"
            raise ConfigError(f"evaluation.{name}: the checkpoint has no LSH layers; leave it out")
        return {"as trained": {}}
    found: dict[str, Settings] = {_rounds(model.num_hashes): {}}
    found |= {_rounds(n): {"num_hashes": n} for n in options.rounds if n != model.num_hashes}
    if options.exact:
        found["exact"] = {"num_hashes": 1, "num_buckets": 1, "lsh_window": config.data.sequence_length}
    return found


def _rounds(number: int) -> str:
    return f"{number} round{'s' if number > 1 else ''}"


def _chosen(config: Config, corpus: Corpus) -> tuple[list[int], int]:
    """Sequences to score, spread evenly, and how many there are."""
    options = config.evaluation
    available = plan_of(corpus, config).plan.num_sequences
    if not available:
        raise ConfigError(f"evaluation.split = {options.split} is empty in {corpus.folder}; validation works")
    number = min(available, options.max_sequences or available)
    return [index * available // number for index in range(number)], available


def _tallies(
    config: Config,
    checkpoint: str,
    model: TokenModel,
    base: Settings,
    corpus: Corpus,
    settings: Sequence[Settings],
    parts: Sequence[Part],
) -> Iterator[Tally]:
    """The tally of each part, in order."""
    if config.evaluation.workers == 1:
        yield from map(Scorer(config, model, corpus, settings).score, parts)
        return
    with ray_session():
        yield from score_in_workers(config, checkpoint, base, corpus, settings, parts)


def _told(config: Config) -> str:
    length = f"{config.data.sequence_length:,} tokens"
    if config.evaluation.context == "sliding":
        return f"a window of {length} that moves on by {config.evaluation.stride:,}"
    if config.evaluation.context == "document":
        return f"whole documents, up to {length}"
    return f"sequences of {length}, as in training"


def _scores(objective: Objective, found: Tally, config: Config) -> Scores:
    """What the sums mean."""
    ends = bucket_ends(config.data.sequence_length)
    names = [f"{start:,} to {end - 1:,}" for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    sources = _names_of_sources(config.data.sources, len(found.by_source))
    sums = found.by_context.sum(0).tolist()
    return Scores(
        metrics=objective.metrics(sums),
        num_tokens=round(sums[1]),
        num_bytes=found.num_bytes,
        by_context=_shares(objective, names, found.by_context.tolist()),
        by_source=_shares(objective, sources, found.by_source.tolist()) if len(sources) > 1 else (),
    )


def _names_of_sources(sources: Sequence[str], number: int) -> list[str]:
    """Each without the folders that all have in common; by number where a prepared corpus is all that is named."""
    if len(sources) != number:
        return [f"source {index}" for index in range(number)]
    parts = [source.split("/") for source in sources]
    num_shared = 0
    while num_shared < min(map(len, parts)) - 1 and len({each[num_shared] for each in parts}) == 1:
        num_shared += 1
    return ["/".join(each[num_shared:]) for each in parts]


def _shares(objective: Objective, names: Sequence[str], sums: Sequence[Sequence[float]]) -> list[Share]:
    return [
        Share(name, round(each[1]), objective.metrics(each)) for name, each in zip(names, sums, strict=True) if each[1]
    ]
