"""MLflow's model registry: a folder and the module that reads it in, a version of a registered model out.

The model is MLflow's pyfunc by a loader module, so nothing is pickled: who serves it imports the module from the installed
package and calls its `_load_pyfunc` with the folder.
"""

import os
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path

import pandas

from reformer_dist.errors import ConfigError
from reformer_dist.tracking.runs import Run

Parameters = Mapping[str, float]
"""Names that a question may set, and their defaults; whole numbers stay whole."""


def register(
    run: Run, name: str, loader: str, folder: Path, example: pandas.DataFrame, parameters: Parameters, requirement: str
) -> str:
    """Keep a model in a run and register it; returns its address, models:/NAME/VERSION.

    Args:
        run: to which it belongs.
        name: in the registry.
        loader: dotted name of the module with `_load_pyfunc(folder)`.
        folder: local.
        example: input as it may be asked, columns of text; the answer is a text for each row.
        parameters: see `Parameters`.
        requirement: what pip installs to have the loader.

    Raises:
        ConfigError: MLflow refuses.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    kinds = {int: DataType.long, float: DataType.double}
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, str(column)) for column in example.columns]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema([ParamSpec(key, kinds[type(value)], value) for key, value in parameters.items()]),
    )
    mlflow.set_tracking_uri(run.uri)
    try:
        with open(os.devnull, "w") as nothing, redirect_stderr(nothing):  # it tells of each version that it makes
            made = Model.log(
                artifact_path=None,
                flavor=mlflow.pyfunc,
                name="model",
                run_id=run.id,
                registered_model_name=name,
                loader_module=loader,
                data_path=str(folder.absolute()),
                signature=signature,
                input_example=(example, dict(parameters)),
                pip_requirements=[requirement],
            )
    except MlflowException as error:
        raise ConfigError(f"export.register_as = {name}: {' '.join(str(error).split())[:300]}") from None
    return f"models:/{name}/{made.registered_model_version}"
