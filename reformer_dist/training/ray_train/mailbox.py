"""Letters between the driver and rank 0 of the workers: messages one way, wishes the other.

In: anything that can be pickled. Out: the same, in order. One small process of Ray's keeps them, on the node of whoever
makes the mailbox; it sees bytes alone, so that it need not import what they are made of.
"""

import pickle
from collections import defaultdict
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class Mailbox:
    """Two ways to send; it may itself be sent to other processes."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._keeper: Any = ray.remote(_Keeper).options(num_cpus=0, scheduling_strategy=here).remote()

    def tell(self, message: Any) -> None:
        """Send to the driver; returns when it is kept, also should this process die now."""
        ray.get(self._keeper.put.remote("messages", pickle.dumps(message)))

    def told(self) -> list[Any]:
        """What has come since the last call."""
        return [pickle.loads(letter) for letter in ray.get(self._keeper.take.remote("messages"))]

    def wish(self, wanted: Any) -> None:
        """Send to the workers."""
        ray.get(self._keeper.put.remote("wishes", pickle.dumps(wanted)))

    def wishes(self) -> list[Any]:
        """What is wanted since the last call."""
        return [pickle.loads(letter) for letter in ray.get(self._keeper.take.remote("wishes"))]


class _Keeper:
    """Letters by box."""

    def __init__(self) -> None:
        self._boxes: dict[str, list[bytes]] = defaultdict(list)

    def put(self, box: str, letter: bytes) -> None:
        self._boxes[box].append(letter)

    def take(self, box: str) -> list[bytes]:
        return self._boxes.pop(box, [])
