"""What MLflow runs where an exported model is served: `mlflow models serve -m models:/NAME/VERSION --env-manager local`.

In: rows with a field `prompt`. Out: each prompt and what follows. MLflow reads this file as it is (a model from code), so
nothing is pickled; the folder that `load_model` takes lies beside it as an artifact.
"""

from typing import Any

import mlflow
import pandas
from mlflow.models.signature import ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from reformer_dist.checkpoints import load_model
from reformer_dist.generation import generate

FOLDER = "model"
"""Name of the artifact."""
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "prompt")]),
    outputs=Schema([ColSpec(DataType.string)]),
    params=ParamSchema(
        [
            ParamSpec("num_tokens", DataType.long, 100),
            ParamSpec("temperature", DataType.double, 1.0),
            ParamSpec("top_p", DataType.double, 1.0),
            ParamSpec("min_p", DataType.double, 0.0),
            ParamSpec("seed", DataType.long, 0),
        ]
    ),
)
EXAMPLE = (pandas.DataFrame({"prompt": ["import ", "def "]}), {"num_tokens": 20})
"""Input and parameters that MLflow shows."""


class Served(PythonModel):
    """Continues prompts."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model, once."""
        self._model = load_model(context.artifacts[FOLDER])

    def predict(
        self, context: PythonModelContext, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """Each prompt and its continuation.

        Args:
            context: where the model lies.
            model_input: a DataFrame with a column `prompt` [n].
            params: those of `SIGNATURE`, as of `generate`.
        """
        values = {spec.name: spec.default for spec in SIGNATURE.params.params} | (params or {})
        texts: list[str] = generate(self._model, list(model_input["prompt"]), **values)
        return texts


mlflow.models.set_model(Served())
