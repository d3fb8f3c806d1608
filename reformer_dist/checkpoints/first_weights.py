"""First weights from a checkpoint of another model: which of its tensors a new model begins with, and which are drawn.

In: a checkpoint and a new model. Out: the model with the weights that have a like-named tensor of the same shape there. An
encoder that finds none of its own begins with those of the layers that write, as in Rothe et al. 2020 ("Leveraging
pre-trained checkpoints for sequence generation tasks"): a language model so becomes both sides of an encoder-decoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from reformer_dist.checkpoints.finding import meant
from reformer_dist.checkpoints.format import State, read_state, verify
from reformer_dist.checkpoints.reading import read_weights
from reformer_dist.config import Config, ModelConfig
from reformer_dist.config.sections.data import TEXT, field_named
from reformer_dist.data.preparing.corpus import Corpus, read_stored_tokenizer
from reformer_dist.data.preparing.manifest import TOKENIZER
from reformer_dist.errors import ConfigError
from reformer_dist.model.choice import make_model
from reformer_dist.model.layers.convolution import WEIGHT
from reformer_dist.model.token_model import TokenModel
from reformer_dist.storage.stores import open_store

ENCODER = "encoder."
"""How the names of an encoder's tensors begin."""


@dataclass(frozen=True)
class Origins:
    """Where the tensors of a new model come from.

    Attributes:
        taken: names in the checkpoint, by the new model's names.
        drawn: the others of the new model, as if there were no checkpoint.
        left: names in the checkpoint that nothing is taken from.
    """

    taken: Mapping[str, str]
    drawn: tuple[str, ...]
    left: tuple[str, ...]

    def told(self, path: str) -> str:
        """In one line."""
        total = len(self.taken) + len(self.drawn)
        return f"{len(self.taken)} of {total} tensors begin as those of {path}; MLflow's first_weights.txt names them"

    def listed(self, path: str) -> str:
        """In a line for each tensor."""
        lines = [f"{name} <- {origin}" for name, origin in self.taken.items()]
        lines += [f"{name}: drawn" for name in self.drawn]
        return "\n".join([f"Weights of {path}.", *lines, *(f"not taken: {name}" for name in self.left), ""])


def origins(now: ModelConfig, then: ModelConfig) -> Origins:
    """What a model of one configuration can begin with of a model of another.

    A convolution is taken only where it reaches as far to either side: one that saw the past alone does not fit an encoder.
    """
    wanted, given = (_shapes(config) for config in (now, then))
    taken = {}
    for name, shape in wanted.items():
        for origin in (name, name.removeprefix(ENCODER)):
            if given.get(origin) == shape and _reaches_alike(now, name, then, origin):
                taken[name] = origin
                break
    drawn = tuple(name for name in wanted if name not in taken)
    return Origins(taken, drawn, tuple(name for name in given if name not in taken.values()))


def check(config: Config) -> None:
    """Whether `train.weights_from` is a checkpoint that this model can begin with something of.

    Raises:
        ConfigError: it is none, nothing of it fits, or training goes on from another.
    """
    given = config.train.weights_from
    assert given is not None
    if config.train.resume not in ("auto", "none"):
        raise ConfigError(
            f"train.weights_from = {given} is for a new training, train.resume = {config.train.resume} goes on with one;"
            " leave out one of them"
        )
    path, state = _read(given)
    shapes = _shapes(config.model)
    if not any(len(shapes[name]) > 1 for name in origins(config.model, state.config.model).taken):
        raise ConfigError(
            f"train.weights_from = {path}: no matrix of this model has its name and shape there;"
            f" model.embed_dim {state.config.model.embed_dim} works"
        )


def find(config: Config, corpus: Corpus) -> str | None:
    """The checkpoint that `train.weights_from` means; None if it means none.

    Raises:
        ConfigError: it is damaged, or of another vocabulary.
    """
    if config.train.weights_from is None:
        return None
    path, _ = _read(config.train.weights_from)
    verify(path)
    theirs = read_stored_tokenizer(open_store(path))
    if corpus.tokenizer_of().to_json() != theirs.to_json():
        settings = [
            config.data.setting_of(field_named(TEXT, config.data.record_fields), name)
            for name in ("tokenizer", "tokenizer_file")
        ]
        works = f"{settings[0]} {theirs.name}" + (
            f" with {settings[1]} {path}/{TOKENIZER}" if theirs.name == "bpe" else ""
        )
        raise ConfigError(f"train.weights_from = {path} was trained with another vocabulary; {works} works")
    return path


def _read(given: str) -> tuple[str, State]:
    """The checkpoint that is meant, and its state."""
    try:
        path = meant(given)
        return path, read_state(path)
    except (ConfigError, ValueError, OSError) as error:
        raise ConfigError(f"train.weights_from = {given}: {error}") from None


def load(path: str, model: TokenModel) -> Origins:
    """Copy what `origins` says from a checkpoint into a new model."""
    found = origins(model.config, read_state(path).config.model)
    stored, own = read_weights(path), model.state_dict()
    with torch.no_grad():
        for name, origin in found.taken.items():
            own[name].copy_(stored[origin])
    return found


def _shapes(config: ModelConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        state: Mapping[str, Tensor] = make_model(config).state_dict()
    return {name: tensor.shape for name, tensor in state.items()}


def _reaches_alike(now: ModelConfig, name: str, then: ModelConfig, origin: str) -> bool:
    if not name.endswith(WEIGHT):
        return True
    ours, theirs = (
        (config.encoder if each.startswith(ENCODER) else config).convolution_reach
        for config, each in ((now, name), (then, origin))
    )
    return ours == theirs
