"""What runs where an exported model is served: `mlflow models serve -m models:/NAME/VERSION --env-manager local`.

In: rows with a column `prompt`. Out: each prompt and what follows it. MLflow calls `_load_pyfunc` with the exported folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas

from reformer_dist.checkpoints import State, language_model, load_model
from reformer_dist.config import Config, ModelConfig
from reformer_dist.errors import ConfigError
from reformer_dist.exporting.folder import open_output
from reformer_dist.generation import generate
from reformer_dist.model.reformer import ReformerLM
from reformer_dist.tracking import registry, runs
from reformer_dist.version import __version__

PARAMETERS: registry.Parameters = {"num_tokens": 100, "temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "seed": 0}
"""As of `generate`."""
EXAMPLE = pandas.DataFrame({"prompt": ["import ", "def "]})
KIND = "export"
"""Of the run in MLflow to which a registered model belongs."""


class Served:
    """Continues prompts."""

    def __init__(self, model: ReformerLM) -> None:
        self._model = model

    def predict(self, model_input: pandas.DataFrame, params: Mapping[str, Any] | None = None) -> list[str]:
        """Each prompt and its continuation.

        Args:
            model_input: a column `prompt` [n].
            params: some of PARAMETERS.
        """
        texts: list[str] = generate(self._model, list(model_input["prompt"]), **{**PARAMETERS, **(params or {})})
        return texts


def _load_pyfunc(folder: str) -> Served:
    """What MLflow asks for."""
    return Served(language_model(load_model(str(Path(folder).absolute())), folder))


def check_servable(config: ModelConfig, folder: str) -> None:
    """Raise ConfigError for a model that continues nothing, or a folder that is no local one."""
    if not open_output(folder).is_local:
        raise ConfigError(f"export.output = {folder}: export.register_as reads a local folder; exported works")
    if config.encoder_layers:
        raise ConfigError("export.register_as: a model with an encoder needs a source, which a served prompt is not")
    if not (config.causal and config.lsh_mode == "window"):
        raise ConfigError("export.register_as: a model that is not causal, or not in window mode, continues nothing")


def register(config: Config, state: State, folder: str) -> str:
    """Register an exported folder as `export.register_as`, in a run that is a child of the training's.

    Returns:
        its address, models:/NAME/VERSION.

    Raises:
        ConfigError: MLflow cannot be reached or refuses.
    """
    name, requirement = config.export.register_as, f"reformer_dist=={__version__}"
    assert name is not None
    train = config.train.model_copy(update={"run_name": f"{config.train.run_name} exported"})
    config = config.model_copy(update={"train": train})
    with runs.open_experiment(config).start(config, parent_run=state.run_id, kind=KIND) as run:
        return registry.register(run, name, __name__, Path(folder), EXAMPLE, PARAMETERS, requirement)
