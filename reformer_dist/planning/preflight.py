"""What can be known to go wrong before a worker is taken, each as one line that says what works."""

import os

import pyarrow.fs as pafs
import torch

from reformer_dist.config import Config
from reformer_dist.data.feeding.sequences import check_fields, source_plans
from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.vocabulary import planned_vocab_size
from reformer_dist.errors import ConfigError
from reformer_dist.objectives.choice import check_objective, check_vocabulary, make_objective
from reformer_dist.storage.stores import one_line, open_store

WORKERS_PER_CORE = 4
"""Workers that may share a core; those of an elastic training have one each, so that Ray can count them."""


def check_config(config: Config) -> None:
    """What the configuration alone shows, and this machine's storage.

    Raises:
        ConfigError: an objective that does not go with the model, a vocabulary that is too small for the tokenizer, or a
            storage that cannot be written.
    """
    check_objective(config)
    if config.data.prepared is None:
        check_vocabulary(config, planned_vocab_size(config.data))
    _check_writable(config.train.storage)


def check_corpus(config: Config, corpus: Corpus) -> None:
    """Whether a prepared corpus is one that this configuration can train on.

    Raises:
        ConfigError: a vocabulary that is too large for the model, a field that the corpus lacks, or less text than a step
            takes.
    """
    check_fields(make_objective(config.objective), corpus)
    check_vocabulary(config, corpus.tokenizer.vocab_size)
    plans = source_plans(corpus, "train", config.data)
    if empty := [source for source, plan in enumerate(plans) if not plan.num_sequences]:
        raise ConfigError(f"data.weights: source {empty[0]} has no document in the train split; leave it out")
    num_sequences = sum(plan.num_sequences for plan in plans)
    if config.train.batch_size > num_sequences:
        raise ConfigError(
            f"train.batch_size = {config.train.batch_size} is more than the {num_sequences} sequences that data.sources"
            f" have for training; {num_sequences} works, or a smaller data.sequence_length, or more text"
        )


def check_machine(config: Config) -> None:
    """Whether this machine can hold the workers, for a Ray that is started here.

    Raises:
        ConfigError: more workers than its cores or GPUs allow.
    """
    if config.train.use_gpu:
        _check_gpus(config, torch.cuda.device_count(), "this machine")
    else:
        _check_cores(config, os.cpu_count() or 1, "this machine's", "cores", ", or join a cluster with RAY_ADDRESS")


def check_cluster(config: Config, resources: dict[str, float]) -> None:
    """Whether a running cluster can hold the workers.

    Raises:
        ConfigError: more workers than it has CPUs or GPUs for.
    """
    if config.train.use_gpu:
        _check_gpus(config, int(resources.get("GPU", 0)), "the cluster")
    _check_cores(config, int(resources.get("CPU", 0)), "the cluster's", "CPUs", "")


def _check_cores(config: Config, cores: int, whose: str, unit: str, otherwise: str) -> None:
    elastic = not isinstance(config.train.workers, int)
    each = 1 if elastic else WORKERS_PER_CORE
    if config.train.min_workers > each * cores:
        works = f"{each * cores},{config.train.max_workers}" if elastic else each * cores
        raise ConfigError(
            f"{_workers(config)} is more than {each} for each of {whose} {cores} {unit}; {works} works{otherwise}"
        )


def _workers(config: Config) -> str:
    """The field as it was given; of an elastic training the least number is what must be there."""
    workers = config.train.workers
    return f"train.workers = {workers if isinstance(workers, int) else ','.join(map(str, workers))}"


def _check_gpus(config: Config, gpus: int, place: str) -> None:
    if gpus == 0:
        raise ConfigError(f"train.use_gpu = true, but {place} has no GPU; false works")
    if config.train.min_workers > gpus:
        works = gpus if isinstance(config.train.workers, int) else f"{gpus},{config.train.max_workers}"
        raise ConfigError(f"{_workers(config)} need a GPU each, and {place} has {gpus}; {works} works")


def _check_writable(storage: str) -> None:
    try:
        store = open_store(storage)
        store.filesystem.create_dir(store.path, recursive=True)
        probe = store.child(f".writable-{os.getpid()}")
        with store.filesystem.open_output_stream(probe) as stream:
            stream.write(b"")
        if store.filesystem.get_file_info(probe).type != pafs.FileType.File:
            raise OSError("a file written there is not found again")
        store.filesystem.delete_file(probe)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"train.storage = {storage} cannot be written: {one_line(error)}; runs works, or any folder or URL you may write"
        ) from None
