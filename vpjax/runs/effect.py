"""Which keys of a config have an effect: one set on the command line that has none is refused.

A recipe may hold keys that another choice leaves without effect, so that the choice can be changed
alone. What a user sets by hand has a purpose, which must not be dropped in silence.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ml_collections import ConfigDict

from vpjax.core import registry
from vpjax.core.errors import UserError

SEVERAL = ("compare", "ablate", "tune")
# Commands that read a key of `study`; "train" is one that trains a recipe with several runs.
STUDY = {
    "study.name": ("ablate",),
    "study.label": ("train", *SEVERAL),
    "study.seeds": SEVERAL,
    "study.compare": ("compare", "ablate"),
    "study.cells": ("compare", "ablate"),
    "study.colours": ("compare", "ablate"),
    "study.suite": ("tune",),
    "study.expected": ("train", *SEVERAL),
    "study.tune": ("tune",),
}


class Rule(NamedTuple):
    """When a key has an effect.

    Attributes:
        keys: regular expression of the keys.
        holds: whether they have one, config -> bool.
        needs: what they need, for the message.
    """

    keys: str
    holds: Callable[[ConfigDict], bool]
    needs: str


def _schedule(*names: str) -> Callable[[ConfigDict], bool]:
    return lambda c: c.optim.schedule in names


def _has_method(attribute: str) -> Callable[[ConfigDict], bool]:
    return lambda c: bool(getattr(registry.lookup("methods", c.method.name), attribute))


RULES = (
    Rule(r"train\.epochs", lambda c: c.train.steps is None, "train.steps=None, which decides now"),
    Rule(
        r"optim\.momentum",
        lambda c: c.optim.name == "sgd" and c.optim.schedule != "onecycle",
        "optim.name=sgd, and a schedule other than onecycle",
    ),
    Rule(
        r"optim\.warmup_epochs",
        lambda c: c.optim.warmup_steps is None and c.optim.schedule != "onecycle",
        "optim.warmup_steps=None, and a schedule other than onecycle",
    ),
    Rule(
        r"optim\.warmup_(steps|from_zero)",
        lambda c: c.optim.schedule != "onecycle",
        "a schedule other than onecycle, which has a rise of its own",
    ),
    Rule(
        r"optim\.min_lr",
        _schedule("cosine", "cosine_hardrestart"),
        "optim.schedule=cosine or cosine_hardrestart",
    ),
    Rule(r"optim\.cycles", _schedule("cosine_hardrestart"), "optim.schedule=cosine_hardrestart"),
    Rule(r"optim\.step_(epochs|factor)", _schedule("step"), "optim.schedule=step"),
    Rule(r"optim\.plateau_(factor|patience)", _schedule("plateau"), "optim.schedule=plateau"),
    Rule(r"text\..*", _has_method("reads_class_names"), "a method that reads class names, as MoP"),
    Rule(
        r"remat_segments",
        lambda c: c.remat != "none",
        "remat=dots or full (none recomputes nothing)",
    ),
    Rule(
        r"backbone\.(head|resample)",
        lambda c: bool(c.backbone.weights),
        "backbone.weights: a random backbone has no file",
    ),
    Rule(r"data\.val_augmented", lambda c: bool(c.data.val), "data.val, which is empty"),
)


def check(config: ConfigDict, keys: Iterable[str], command: str) -> None:
    """Check that keys which were set by hand have an effect.

    Args:
        config: with their values.
        keys: such as "optim.momentum".
        command: that reads the config, such as "train".

    Raises:
        UserError: for one that has none, with what it needs.
    """
    if command == "train" and config.study.compare:
        command = "compare"
    for key in keys:
        for start, commands in STUDY.items():
            if (key == start or key.startswith(f"{start}.")) and command not in commands:
                instead = " Set config.seed instead." * (key == "study.seeds")
                raise UserError(
                    f"config.{key} has no effect: {command} does not read it, but "
                    f"{', '.join(commands)}.{instead}"
                )
        for rule in RULES:
            if re.fullmatch(rule.keys, key) and not rule.holds(config):
                raise UserError(
                    f"config.{key} has no effect here: it needs {rule.needs}. Set that too, or "
                    f"leave {key} out."
                )
