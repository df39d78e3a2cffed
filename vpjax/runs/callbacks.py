"""Callbacks: what a run tells while it trains, to a logger or to code of one's own.

    class Print(vpjax.Callback):
        def on_evaluation(self, step, metrics):
            print(step, metrics["val_accuracy"])

    vpjax.fit(model, train=..., val=..., callbacks=[Print()])

They are called in every process of a run, between steps, and may not change anything. The loggers
of `vpjax.runs.loggers` are callbacks too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Start(NamedTuple):
    """What is known when training begins.

    Attributes:
        folder: where this process writes.
        config: of the run, {"optim.lr": 0.1, ...}.
        step: from which it goes on; 0: it begins.
        steps: of the whole run.
    """

    folder: Path
    config: Mapping[str, Any]
    step: int
    steps: int


class Callback:
    """Base of callbacks, which does nothing; a subclass has the methods it needs.

    What one raises ends the run, as a mistake in it should be seen; the newest checkpoint stays.
    """

    def on_start(self, start: Start) -> None:
        """Hear that training begins, or goes on. Not called for a run that is finished."""

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hear the means since the last call: "loss", "accuracy", "lr" ...

        Called every `train.log_every` steps, and at evaluations.

        Args:
            step: training steps done.
            metrics: by name.
        """

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hear the metrics of val: "val_loss", "val_accuracy" ...

        Args:
            step: training steps done.
            metrics: by name, percent where they are shares.
        """

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        """Hear that the run has ended.

        Args:
            result: the content of result.json; None: it was interrupted or failed.
        """


class Several(Callback):
    """Several callbacks as one, called in their order.

    `on_end` is called only after `on_start`, and at most once.
    """

    def __init__(self, callbacks: Sequence[Callback]):
        self.callbacks, self.started = tuple(callbacks), False

    def on_start(self, start: Start) -> None:
        """See `Callback`."""
        self.started = True
        for each in self.callbacks:
            each.on_start(start)

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Callback`."""
        for each in self.callbacks:
            each.on_step(step, metrics)

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Callback`."""
        for each in self.callbacks:
            each.on_evaluation(step, metrics)

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        """See `Callback`."""
        started, self.started = self.started, False
        for each in self.callbacks if started else ():
            each.on_end(result)
