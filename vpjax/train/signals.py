"""Ctrl-C, SIGTERM and SIGHUP: finish the step, save and stop; a second one ends it at once.

SIGHUP comes when a terminal or an ssh connection goes away; under nohup it is ignored, as ever.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from vpjax.core.reading import waited_for

SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
PATIENCE = 5.0  # seconds that a file may take to be read after a signal


class Stopped(Exception):
    """A run has stopped because of a signal, and has saved its state.

    Args:
        message: for the user.
        number: of the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class StopSignal:
    """A context in which the first signal does nothing but set `asked`.

    If the process waits for a file that does not come, it ends nevertheless. In another thread than
    the main one no signal arrives, and nothing changes.

    Attributes:
        asked: number of the signal; 0: none yet.
    """

    def __enter__(self) -> "StopSignal":
        self.asked, self.before, self._message = 0, {}, ""
        if threading.current_thread() is threading.main_thread():
            ignored = [s for s in SIGNALS[2:] if signal.getsignal(s) == signal.SIG_IGN]
            for number in [s for s in SIGNALS if s not in ignored]:
                self.before[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    @contextlib.contextmanager
    def at_once(self, message: str) -> Iterator[None]:
        """Let the first signal end the block, which may wait for long.

        Args:
            message: of the `Stopped` that it raises.
        """
        self._message = message
        try:
            yield
        finally:
            self._message = ""

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = number
        if self._message:
            raise Stopped(self._message, number)
        threading.Thread(target=self._end_if_stuck, daemon=True).start()

    def _end_if_stuck(self) -> None:
        """End the process if a file does not come, which the main thread may wait for for ever."""
        while self.before:
            time.sleep(PATIENCE / 10)
            if stuck := waited_for(PATIENCE):
                text = (
                    f"stopped while waiting for {stuck[0]}; run again to go on from the last save"
                )
                print(text, file=sys.stderr, flush=True)
                os._exit(128 + self.asked)
