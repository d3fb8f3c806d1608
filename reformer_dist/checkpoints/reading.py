"""From a checkpoint back to a model, and to the files of its optimizer's state."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as pafs
from safetensors.torch import load as load_tensors
from torch import Tensor

from reformer_dist.checkpoints.finding import is_checkpoint, latest, meant
from reformer_dist.checkpoints.format import OPTIMIZER, WEIGHTS, verify
from reformer_dist.config import Config, TrainConfig
from reformer_dist.data.preparing.corpus import read_stored_tokenizer
from reformer_dist.data.tokenizers.tokenizer import Tokenizer
from reformer_dist.errors import ConfigError
from reformer_dist.model.choice import make_model
from reformer_dist.model.encoder_decoder import EncoderDecoder
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.model.token_model import TokenModel
from reformer_dist.storage.stores import open_store


def load_model(name: str, storage: str | None = None) -> ReformerLM | EncoderDecoder:
    """A trained model on the CPU, in evaluation mode; its `config` and `tokenizer` are those that it was trained with.

    Args:
        name: of a run, whose newest checkpoint is meant, or the path or URL of a checkpoint (a folder step_NUMBER) or
            of a run's folder.
        storage: folder or URL of the runs, by default that of `train.storage`.

    Raises:
        ConfigError: there is no such checkpoint, or it is damaged.
    """
    is_path = "/" in name or is_checkpoint(name)
    path = meant(name) if is_path else latest(storage or TrainConfig().storage, name)
    model, _, tokenizer = read_model(path)
    model.tokenizer = tokenizer
    return model


def read_model(path: str) -> tuple[ReformerLM | EncoderDecoder, Config, Tokenizer]:
    """Verify a checkpoint and build its model on the CPU, in evaluation mode, with its configuration and tokenizer.

    Raises:
        ConfigError: the checkpoint is damaged, or there is none.
    """
    state = verify(path)
    model = make_model(state.config.model)
    if state.config.train.dtype == "float64":
        model.double()
    load_weights(path, model)
    return model.eval(), state.config, read_stored_tokenizer(open_store(path))


def read_language_model(path: str) -> tuple[ReformerLM, Config, Tokenizer]:
    """`read_model` for what goes on from a text alone.

    Raises:
        ConfigError: the model has an encoder, which needs a source; or as `read_model`.
    """
    model, config, tokenizer = read_model(path)
    return language_model(model, path), config, tokenizer


def language_model(model: ReformerLM | EncoderDecoder, name: str) -> ReformerLM:
    """The model of that name, if it has no encoder. Raises ConfigError if it has one."""
    if not isinstance(model, ReformerLM):
        layers = ",".join(model.config.encoder_layers)
        raise ConfigError(
            f"checkpoint {name}: its model has an encoder (model.encoder_layers = {layers}), which needs a source;"
            " a checkpoint of a model without one works"
        )
    return model


def load_weights(path: str, model: TokenModel) -> None:
    """Copy a checkpoint's weights into a model of the same shape."""
    model.load_state_dict(read_weights(path))


def read_weights(path: str) -> dict[str, Tensor]:
    """A checkpoint's weights by name."""
    store = open_store(path)
    with store.filesystem.open_input_stream(store.child(WEIGHTS)) as stream:
        tensors: dict[str, Tensor] = load_tensors(stream.read())
    return tensors


@contextmanager
def optimizer_files(path: str) -> Iterator[Path]:
    """A local folder with each worker's part of the optimizer's state, fetched if the checkpoint lies elsewhere."""
    store = open_store(path)
    if store.is_local:
        yield Path(store.child(OPTIMIZER))
        return
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as temporary:
        pafs.copy_files(store.child(OPTIMIZER), temporary, source_filesystem=store.filesystem)
        yield Path(temporary)
