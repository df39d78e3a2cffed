"""Ctrl-C and SIGTERM: finish the step, save, leave. A second one ends the process at once."""

import signal
from types import FrameType


class Stopped(Exception):
    """A run was asked to stop by signal `number`, and has saved what it had."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class StopSignal:
    """A context in which the first signal only sets `asked`."""

    def __enter__(self) -> "StopSignal":
        self.asked = 0  # number of the signal
        self.before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = number
