"""One line on the screen for each of many runs, with the time that the others will take.

    lines = RunLines([(run.label, run.folder) for run in runs])
    for run in runs:
        with lines.one(run.label) as say:
            say(ending(train(run)))

    run  3/12  vpt_deep, seed 0      accuracy 94.01 %   5.1 s, 0:00:46 left (14:32)

The last is the time of day at which all will be done.

What a run says itself goes to its log.txt.
"""

import collections
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpjax.core import logs
from vpjax.core.errors import InUse
from vpjax.core.progress import hours
from vpjax.runs.scores import NAMES
from vpjax.runs.summary import reported_split
from vpjax.runs.workdir import read_result

log = logging.getLogger(__name__)

WIDEST = 20  # columns of a run's name
OTHERS = "another's"  # how a run ends here that another process trains


class RunLines:
    """The lines of runs that are trained one after the other.

    Args:
        runs: label and folder of each, in the order in which they are trained. Those with a result
            take no time. None: all that counts is done again.
    """

    def __init__(self, runs: Sequence[tuple[str, Path | None]]):
        self._runs = [(label, folder, _done(folder)) for label, folder in runs]
        self._seconds: dict[str, list[float]] = collections.defaultdict(list)
        self._next = 0

    @contextlib.contextmanager
    def one(self, name: str) -> Iterator[Callable[[str], None]]:
        """Keep what the block logs off the screen, and log the line of its run.

        Yields a function that takes how the run ended.

        Args:
            name: of the run.
        """
        label, folder, done = self._runs[min(self._next, len(self._runs) - 1)]
        done = done or _done(folder)  # by another process since
        self._next, begin, ends = self._next + 1, time.monotonic(), [""]
        with logs.quiet():
            yield ends.append
        seconds = time.monotonic() - begin
        if not (done or ends[-1] == OTHERS):
            self._seconds[label].append(seconds)
        width = len(str(len(self._runs)))
        time_of = "finished before" if done else "" if ends[-1] == OTHERS else f"{seconds:.1f} s"
        left = ""
        if self.left:
            end = time.strftime("%H:%M", time.localtime(time.time() + self.left))
            left = f", {hours(self.left)} left ({end})"
        number = f"run {self._next:{width + 1}}/{len(self._runs)}"
        text = f"{number}  {logs.fitted(name, WIDEST):{WIDEST}}  {ends[-1]:16} {time_of:>7}{left}"
        log.info("%s", logs.fitted(text.rstrip()))

    @property
    def left(self) -> float:
        """Seconds that the runs to come will take, as those so far, of the same label if any."""
        known = [s for seconds in self._seconds.values() for s in seconds]
        if not known:
            return 0.0
        mean = sum(known) / len(known)
        coming = [label for label, _, done in self._runs[self._next :] if not done]
        own = {label: self._seconds.get(label) for label in coming}
        return sum(sum(own[c]) / len(own[c]) if own[c] else mean for c in coming)


def _done(folder: Path | None) -> bool:
    return folder is not None and read_result(folder) is not None


def ending(result: Mapping[str, Any] | Exception) -> str:
    """Return "accuracy 94.01 %" for a result, "failed" for an error."""
    if isinstance(result, InUse):
        return OTHERS
    if isinstance(result, Exception):
        return "failed"
    metric = result.get("metric", "accuracy")
    value = result.get(f"{reported_split(result)}_{metric}")
    return (
        ""
        if value is None
        else f"{NAMES.get(metric, metric)} {value:.2f} %" + " !" * bool(result.get("loss_faults"))
    )
