"""Ray Train's controller in the driver's own process, where Ray Train would start two processes more.

In: what Ray Train's own trainer makes of a configuration. Out: `Trainer`, which trains as `TorchTrainer` does. A process of
the controller's own would first import what the driver has imported already, and another one would watch that it lives.
When the driver ends, so do its workers and their placement group, without either.
"""

import asyncio
from collections.abc import Mapping
from typing import Any
from unittest import mock

import ray
from ray.actor import ActorHandle
from ray.runtime_context import RuntimeContext
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup
from ray.train.v2.api.callback import RayTrainCallback

NEEDLESS = (PlacementGroupCleanerCallback, DatasetsCallback)
"""Each would start a process: to watch a controller's, and for datasets of Ray Train's own, which are not used."""


class Abandoned(ray.exceptions.RayError):
    """The driver does not wait for the workers' end."""


class Trainer(TorchTrainer):
    """A `TorchTrainer` whose `fit` runs the controller in the calling thread, which must not be an event loop's."""

    is_abandoned = False

    def abandon(self) -> None:
        """Let `fit`, which another thread is in, raise `Abandoned` rather than start workers again."""
        self.is_abandoned = True

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        controller = _Controller(self, **arguments)
        asyncio.run(controller.run())
        return controller.get_result()

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks: list[RayTrainCallback] = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if not isinstance(callback, NEEDLESS)]


class _Workers(WorkerGroup):
    """Workers that any idle process of Ray's may become: they need no environment of their own."""

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Mapping[str, Any]) -> dict[str, Any]:
        """What the user asks for alone; Ray Train's own variables are the controller's."""
        return dict(custom_runtime_env)

    def _init_train_context_on_workers(
        self, workers: list[Worker], sync_actor: ActorHandle[Any], train_context_args: dict[str, list[Any]]
    ) -> None:
        """Workers get no handle of a controller: only reports of Ray Train's own checkpoints would ask it."""
        with mock.patch.object(RuntimeContext, "current_actor", None):
            super()._init_train_context_on_workers(workers, sync_actor, train_context_args)


class _Controller(TrainController):
    worker_group_cls = _Workers

    def __init__(self, trainer: Trainer, **arguments: Any) -> None:
        self._trainer = trainer
        super().__init__(**arguments)

    async def _run_control_loop_iteration(self) -> None:
        if self._trainer.is_abandoned:
            raise Abandoned
        await super()._run_control_loop_iteration()
