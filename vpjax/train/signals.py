"""Ctrl-C and SIGTERM: finish the step, save and stop; a second one ends the process at once."""

import signal
from types import FrameType


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
    """A context in which the first SIGINT or SIGTERM does nothing but set `asked`.

    Attributes:
        asked: number of the signal; 0: none yet.
    """

    def __enter__(self) -> "StopSignal":
        self.asked = 0
        self.before = {s: signal.signal(s, self._record) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = number
