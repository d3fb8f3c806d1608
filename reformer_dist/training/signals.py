"""Being asked to stop: SIGINT (Ctrl-C), SIGTERM (`ray job stop`, a cluster that takes its node back), SIGHUP (a terminal
that is closed, unless `nohup` asked to ignore that).
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the first stop signal of a block in the list; a second one raises KeyboardInterrupt.

    Outside the main thread, where Python takes no signal handlers, the list stays empty.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    heeded = [each for each in STOP_SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
