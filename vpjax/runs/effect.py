"""Which keys of a config have an effect: one set on the command line that has none is refused.

A recipe may hold keys that another choice leaves without effect, so that the choice can be changed
alone. What a user sets by hand has a purpose, which must not be dropped in silence.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.data.folder import READERS
from vpjax.data.inat import VERSIONS
from vpjax.runs import config as configs

SEVERAL = ("compare", "ablate", "tune", "prune")
TRAINING = ("train", *SEVERAL)
# Commands that read a key of `study`; "train" is one that trains a recipe with several runs.
STUDY = {
    "study.name": ("ablate",),
    "study.label": (*TRAINING, "zero-shot"),
    "study.seeds": SEVERAL,
    "study.compare": ("compare", "ablate"),
    "study.cells": ("compare", "ablate"),
    "study.colours": ("compare", "ablate"),
    "study.suite": ("tune", "ablate"),
    "study.shots": ("ablate",),
    "study.expected": (*TRAINING, "zero-shot"),
    "study.tune": ("tune", "prune"),
    "study.prune": ("prune",),
}
# Which keys the other commands read: regular expressions.
_FILES = r"data\.(name|dir|classes|background|max_pixels|bits|holdout|holdout_seed)|data\."
_SHOTS = r"data\.shots(_seed)?|"
_DEVICES = r"|mesh\..*|dtype|attention"
_MODEL = _DEVICES + r"|backbone\..*|match_reference_code"
_EVALUATED = r"(val|test|preset|val_augmented|eval_batch_size|batch_loss)|train\.batch_size"
_RESTORED = r"|backbone\.weights|text\.tokenizer" + _DEVICES
READS = {
    "check-data": _FILES + "(train|val|test)",
    "zero-shot": _SHOTS
    + _FILES
    + _EVALUATED
    + r"|data\.train|text\..*|study\.(label|expected).*|features|seed"
    + _MODEL,
    "class-embeddings": _SHOTS
    + _FILES
    + r"(train|preset|eval_batch_size)|train\.batch_size|method\.(name|num_tokens)|seed"
    + _MODEL,
    "eval": _SHOTS + _FILES + _EVALUATED + r"|text\.class_names" + _RESTORED,
    "plot": _SHOTS + _FILES + _EVALUATED + _RESTORED,
    "predict": r"data\.(background|max_pixels|bits|preset)" + _RESTORED,
    "demo": _FILES + "(val|test|preset)" + _RESTORED,
}
RUN = ("eval", "plot", "predict", "demo")  # of these, those that read the config of a run
COMMANDS = (*TRAINING, *READS)


class Rule(NamedTuple):
    """When a key has an effect.

    Attributes:
        keys: regular expression of the keys.
        holds: whether they have one, config -> bool.
        needs: what they need, for the message.
        commands: that the rule is for; others that read the key have none.
    """

    keys: str
    holds: Callable[[ConfigDict], bool]
    needs: str
    commands: tuple[str, ...] = COMMANDS


def _schedule(*names: str) -> Callable[[ConfigDict], bool]:
    return lambda c: c.optim.schedule in names


def _has_method(attribute: str) -> Callable[[ConfigDict], bool]:
    return lambda c: bool(getattr(registry.lookup("methods", c.method.name), attribute))


def _decoded(config: ConfigDict) -> bool:
    return not config.data.name.startswith(("digits/", "idx:", "cifar:"))


def _files(config: ConfigDict) -> bool:
    name = config.data.name
    return name.partition(":")[0] in READERS or name in VERSIONS


def _in_folder(config: ConfigDict) -> bool:
    _, colon, path = config.data.name.partition(":")
    own = colon and Path(path).expanduser().is_absolute()
    return not own and not config.data.name.startswith("digits/")


RULES = (
    Rule(r"train\.epochs", lambda c: c.train.steps is None, "train.steps=None, which decides now"),
    Rule(
        r"optim\.momentum",
        lambda c: c.optim.name == "sgd" and c.optim.schedule != "onecycle",
        "optim.name=sgd, and a schedule other than onecycle",
    ),
    Rule(r"optim\.eps", lambda c: c.optim.name != "sgd", "optim.name=adam or adamw"),
    Rule(
        r"optim\.warmup_epochs",
        lambda c: c.optim.warmup_steps is None and c.optim.schedule != "onecycle",
        "optim.warmup_steps=None, and a schedule other than onecycle",
    ),
    Rule(
        r"optim\.warmup_(steps|from_zero)",
        lambda c: c.optim.schedule not in ("onecycle", "cosine_timm"),
        "a schedule other than onecycle and cosine_timm, which have a rise of their own",
    ),
    Rule(
        r"optim\.warmup_lr",
        lambda c: c.optim.schedule != "onecycle",
        "a schedule other than onecycle, which has a rise of its own",
    ),
    Rule(
        r"optim\.min_lr",
        _schedule("cosine", "cosine_timm", "cosine_hardrestart"),
        "optim.schedule=cosine, cosine_timm or cosine_hardrestart",
    ),
    Rule(r"optim\.cosine_over_run", _schedule("cosine"), "optim.schedule=cosine"),
    Rule(
        r"optim\.average_std",
        lambda c: c.optim.average_mean > 0,
        "optim.average_mean above 0: else there is no average",
    ),
    Rule(r"optim\.cycles", _schedule("cosine_hardrestart"), "optim.schedule=cosine_hardrestart"),
    Rule(r"optim\.step_(epochs|factor)", _schedule("step"), "optim.schedule=step"),
    Rule(r"optim\.plateau_(factor|patience)", _schedule("plateau"), "optim.schedule=plateau"),
    Rule(
        r"text\.(templates|name_type)",
        _has_method("reads_class_names"),
        "a method that reads class names, as MoP",
        (*TRAINING, *RUN),
    ),
    Rule(
        r"text\..*",
        lambda c: _has_method("reads_class_names")(c) or _has_method("learns_texts")(c),
        "a method that reads class names, as MoP or CoOp",
        (*TRAINING, *RUN),
    ),
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
    Rule(
        r"study\.shots",
        lambda c: c.study.name == "few_shot",
        "study.name=few_shot: base_to_new trains with data.shots, other studies with all images",
        ("ablate",),
    ),
    Rule(
        r"study\.suite.*",
        lambda c: c.study.name in ("few_shot", "base_to_new"),
        "study.name=few_shot or base_to_new: other studies have one data set",
        ("ablate",),
    ),
    Rule(r"data\.shots_seed", lambda c: bool(c.data.shots), "data.shots, which is 0"),
    Rule(
        r"data\.shots",
        lambda c: not c.data.test,
        "data.test empty (--config.data.test=), as that split is whole",
        ("eval",),
    ),
    Rule(r"data\.val_augmented", lambda c: bool(c.data.val), "data.val, which is empty"),
    Rule(
        r"data\.(val|val_augmented)",
        lambda c: not c.data.test,
        "data.test empty (--config.data.test=), as otherwise that split is evaluated",
        ("eval", "plot", "demo"),
    ),
    Rule(
        r"data\.(background|max_pixels|bits)",
        _decoded,
        "files of images, and this data set holds pixels",
        (*TRAINING, "check-data", "zero-shot", "class-embeddings", "eval", "plot"),
    ),
    Rule(
        r"data\.verify",
        _files,
        "image files of one's own: prepared data were read whole when they were made",
    ),
    Rule(
        r"data\.dir",
        _in_folder,
        "data that lie in a folder: data.name is a whole path, or bundled",
    ),
    Rule(
        r"train\.batch_size",
        lambda c: not c.data.eval_batch_size,
        "data.eval_batch_size=0, which decides now",
        ("zero-shot", "class-embeddings"),
    ),
    Rule(
        r"seed",
        lambda c: c.data.val_augmented or c.data.shots or not c.backbone.weights,
        "data.val_augmented, data.shots, or a random backbone: nothing else is drawn",
        ("zero-shot",),
    ),
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
        if command in READS and not re.fullmatch(READS[command], key):
            raise UserError(
                f"config.{key} has no effect: {command} does not read it. Leave it out."
            )
        if setter := _set_by(config, key, command):
            raise UserError(
                f"config.{key} has no effect: {setter} sets it in every run. Change it there, or "
                "leave it out."
            )
        for rule in RULES:
            if command not in rule.commands or not re.fullmatch(rule.keys, key):
                continue
            if not rule.holds(config):
                raise UserError(
                    f"config.{key} has no effect here: it needs {rule.needs}. Set that too, or "
                    f"leave {key} out."
                )


def _set_by(config: ConfigDict, key: str, command: str) -> str:
    """Return which key of `study` gives all runs of a study their own value of a key; "": none."""
    study = config.study
    if command == "tune":
        return "study.tune.grid" if key in configs.flat(study.tune.grid) else ""
    if command == "prune":
        own = r"method\.(masks|pruned_.*)|study\.tune\.(grid|also)(\..*)?"
        return "study.prune" if re.fullmatch(own, key) else ""
    if command not in ("compare", "ablate"):
        return ""
    if key == "seed":
        return "study.seeds"
    by_name = {"few_shot": "data.shots", "base_to_new": "data.classes"}
    if by_name.get(study.name) == key:
        return "study.shots" if study.name == "few_shot" else "the study base_to_new"
    cells = [study.compare.get(c, ConfigDict()) for c in study.cells or study.compare]
    return "study.compare" if cells and all(key in configs.flat(c) for c in cells) else ""
