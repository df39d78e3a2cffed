"""A task of `tune`: its config, its folder, its trials, and what was chosen."""

import functools
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.runs import config as configs
from vpjax.runs.choice import read_choice
from vpjax.studies import trials
from vpjax.studies.trials import Trial


class Plan:
    """One task.

    Attributes:
        label: the task's name in a suite; "" where there is one task only.
        choice_path: the file that the choice is written to; until then the test split is locked.

    Raises:
        UserError: if the config is not possible for `tune`.
    """

    def __init__(self, config: ConfigDict, folder: Path, label: str = ""):
        trials.check(config)
        self.config, self.folder, self.label = config, folder, label
        self.choice_path = folder / "choice.json"

    @functools.cached_property
    def selection(self) -> list[Trial]:
        """The trials to choose from."""
        return trials.selection(self.config, self.folder)

    @property
    def choice(self) -> dict[str, Any] | None:
        """What was chosen; None: nothing yet."""
        return read_choice(self.choice_path)

    @property
    def finals(self) -> list[Trial]:
        """The final runs, with what was chosen."""
        return trials.finals(self.config, self.choice["params"], self.folder)


def plans(config: ConfigDict, folder: Path) -> list[Plan]:
    """Return a plan for every task of `config.study.suite`, or the only one.

    Raises:
        UserError: if a config is not possible for `tune`.
    """
    if not config.study.suite:
        return [Plan(config, folder)]
    out = []
    for task, changes in config.study.suite.items():
        single = configs.merged(config, changes)
        single.study.suite = ConfigDict()
        out.append(Plan(single, folder / task, task))
    return out
