"""An exported folder as a version of a model in MLflow's registry, from where it can be served."""

import logging
import os
from contextlib import redirect_stderr
from pathlib import Path

from reformer_dist.checkpoints import State
from reformer_dist.config import Config
from reformer_dist.errors import ConfigError
from reformer_dist.storage.stores import open_store
from reformer_dist.tracking import runs
from reformer_dist.version import __version__

KIND = "export"
"""Of the run in MLflow to which the model belongs, a child of the training's."""


def register(config: Config, state: State, folder: str) -> str:
    """Log the model and register it as `export.register_as`; returns its address, models:/NAME/VERSION.

    Raises:
        ConfigError: the folder is no local one, MLflow cannot be reached or refuses.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    if not open_store(folder).is_local:
        raise ConfigError(f"export.output = {folder}: export.register_as reads a local folder; exported works")
    if not state.config.model.causal:
        raise ConfigError("export.register_as: the model is not causal and continues nothing; leave it out")
    name = config.export.register_as
    train = config.train.model_copy(update={"run_name": f"{config.train.run_name} exported"})
    config = config.model_copy(update={"train": train})
    with runs.open_experiment(config).start(config, parent_run=state.run_id, kind=KIND) as run:
        mlflow.set_tracking_uri(run.uri)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        try:
            with open(os.devnull, "w") as nothing, redirect_stderr(nothing):
                from reformer_dist.exporting.served import EXAMPLE, FOLDER, SIGNATURE

                made = Model.log(
                    artifact_path=None,
                    flavor=mlflow.pyfunc,
                    name="model",
                    run_id=run.id,
                    registered_model_name=name,
                    python_model=str(Path(__file__).with_name("served.py")),
                    artifacts={FOLDER: str(Path(folder).absolute())},
                    signature=SIGNATURE,
                    input_example=EXAMPLE,
                    pip_requirements=[f"reformer_dist=={__version__}"],
                )
        except MlflowException as error:
            raise ConfigError(f"export.register_as = {name}: {' '.join(str(error).split())[:300]}") from None
    return f"models:/{name}/{made.registered_model_version}"
