"""Stop, or learn more slowly, when the validation split no longer improves."""

import dataclasses


@dataclasses.dataclass
class EarlyStopping:
    """Counts evaluations since the best; goes into checkpoints, so that a resumed run goes on."""

    patience: int  # evaluations without a better accuracy; 0: never stop
    best: float = -1.0  # percent; below any accuracy
    best_step: int = 0
    since: int = 0

    def better(self, accuracy: float, step: int) -> bool:
        """Take an evaluation into account; return whether it is the best so far."""
        if accuracy > self.best:
            self.best, self.best_step, self.since = accuracy, step, 0
            return True
        self.since += 1
        return False

    def plateau(self, patience: int) -> bool:
        """Whether this evaluation is the last of `patience` in a row without a better one."""
        return self.since > 0 and self.since % patience == 0

    @property
    def stop(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.patience <= self.since
