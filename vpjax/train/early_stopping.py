"""Stopping, or lowering the learning rate, when the validation metric no longer improves."""

import dataclasses


@dataclasses.dataclass
class EarlyStopping:
    """Counts evaluations since the best one; stored in checkpoints, so that resumed runs go on.

    Attributes:
        patience: evaluations without improvement before stopping; 0: never stop.
        best: the best value of the primary metric, percent; negative before the first evaluation.
        best_step: the step it was reached at.
        since: evaluations since then.
    """

    patience: int
    best: float = -1.0
    best_step: int = 0
    since: int = 0

    def better(self, accuracy: float, step: int) -> bool:
        """Record an evaluation; return whether it is the best so far.

        Args:
            accuracy: value of the primary metric, percent.
            step: training steps done.
        """
        if accuracy > self.best:
            self.best, self.best_step, self.since = accuracy, step, 0
            return True
        self.since += 1
        return False

    def plateau(self, patience: int) -> bool:
        """Return whether this evaluation completes `patience` in a row without improvement."""
        return self.since > 0 and self.since % patience == 0

    @property
    def stop(self) -> bool:
        """Whether training should stop, as the last `patience` evaluations did not improve."""
        return 0 < self.patience <= self.since
