"""A key that is set by hand and has no effect is refused, with what it needs."""

import re

import pytest

from configs import digits
from vpjax import cli
from vpjax.cli import flags
from vpjax.core.errors import UserError
from vpjax.runs import config as configs
from vpjax.runs import defaults, effect

KEYS = sorted(configs.flat(defaults.get_config()))
OWN = {"data": {"name": "folder:photos"}}
MOP = {"method": {"name": "mop.MoP"}}
# {key: changes with which it has no effect}
WITHOUT = {
    "train.epochs": {"train": {"steps": 5}},
    "optim.momentum": {"optim": {"name": "adamw"}},
    "optim.eps": {"optim": {"name": "sgd"}},
    "optim.warmup_epochs": {"optim": {"warmup_steps": 3}},
    "optim.warmup_steps": {"optim": {"schedule": "onecycle"}},
    "optim.warmup_from_zero": {"optim": {"schedule": "onecycle"}},
    "optim.warmup_lr": {"optim": {"schedule": "onecycle"}},
    "optim.min_lr": {"optim": {"schedule": "constant"}},
    "optim.cosine_over_run": {"optim": {"schedule": "step"}},
    "optim.average_std": {"optim": {"average_mean": 0.0}},
    "optim.cycles": {"optim": {"schedule": "cosine"}},
    "optim.step_epochs": {"optim": {"schedule": "cosine"}},
    "optim.step_factor": {"optim": {"schedule": "plateau"}},
    "optim.plateau_factor": {"optim": {"schedule": "step"}},
    "optim.plateau_patience": {"optim": {"schedule": "cosine"}},
    "text.templates": {"method": {"name": "vpt.VPT"}},
    "text.name_type": {"method": {"name": "finetune.Linear"}},
    "text.class_names": {"method": {"name": "vpt.VPT"}},
    "text.tokenizer": {"method": {"name": "vpt.VPT"}},
    "remat_segments": {"remat": "none"},
    "backbone.head": {"backbone": {"weights": ""}},
    "backbone.resample": {"backbone": {"weights": ""}},
    "data.val_augmented": {"data": {"val": ""}},
    "data.shots_seed": {"data": {"shots": 0}},
    "data.background": {"data": {"name": "digits/low"}},
    "data.max_pixels": {"data": {"name": "idx:mnist"}},
    "data.bits": {"data": {"name": "cifar:here"}},
    "data.verify": {"data": {"name": "cifar10"}},
    "data.dir": {"data": {"name": "folder:/data/photos"}},
}
WITH = {
    "optim.cycles": {"optim": {"schedule": "cosine_hardrestart"}},
    "optim.step_epochs": {"optim": {"schedule": "step"}},
    "optim.step_factor": {"optim": {"schedule": "step"}},
    "optim.plateau_factor": {"optim": {"schedule": "plateau"}},
    "optim.plateau_patience": {"optim": {"schedule": "plateau"}},
    "optim.average_std": {"optim": {"average_mean": 3.0}},
    "text.templates": MOP,
    "text.name_type": MOP,
    "text.class_names": MOP,
    "text.tokenizer": MOP,
    "remat_segments": {"remat": "full"},
    "data.verify": OWN,
    "data.shots_seed": {"data": {"shots": 4}},
    "study.shots": {"study": {"name": "few_shot"}},
    "optim.eps": {"optim": {"name": "adam"}},
}
# What other commands read, by the first part of the key or in full; all else they refuse.
FILES = "name dir classes background max_pixels bits holdout holdout_seed "
EVALUATED = FILES + "shots shots_seed val test preset val_augmented eval_batch_size batch_loss"
READ = {
    "check-data": FILES + "train val test",
    "class-embeddings": FILES + "shots shots_seed train preset eval_batch_size",
    "zero-shot": EVALUATED + " train",
    "eval": EVALUATED,
    "predict": "background max_pixels bits preset",
    "demo": FILES + "val test preset",
}
READ = {command: {f"data.{key}" for key in keys.split()} for command, keys in READ.items()}
READ["plot"] = READ["eval"]
MODEL = {"backbone", "mesh", "dtype", "attention", "match_reference_code"}
READ["class-embeddings"] |= {"train.batch_size", "method.name", "method.num_tokens", "seed"} | MODEL
READ["zero-shot"] |= {"train.batch_size", "features", "seed", "text"} | MODEL
READ["zero-shot"] |= {"study.label", "study.expected"}
for run in ("eval", "plot", "predict", "demo"):
    READ[run] = READ[run] | {"backbone.weights", "text.tokenizer", "mesh", "dtype", "attention"}
READ["eval"] |= {"train.batch_size", "text.class_names"}
READ["plot"] |= {"train.batch_size"}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_a_training(key):
    study = key.startswith("study.") and not key.startswith(("study.label", "study.expected"))
    base = defaults.get_config()
    if study:
        with pytest.raises(UserError, match=f"config.{key} has no effect: train does not read it"):
            effect.check(base, [key], "train")
        there = configs.merged(base, WITH.get(key, {}))
        commands = [c for c in effect.SEVERAL if _accepted(there, key, c)]
        assert commands  # some command reads it
        return
    effect.check(configs.merged(base, WITH.get(key, {})), [key], "train")
    if key in WITHOUT:
        with pytest.raises(UserError, match=f"config.{key} has no effect here: it needs "):
            effect.check(configs.merged(base, WITHOUT[key]), [key], "train")


def _accepted(config, key, command):
    try:
        effect.check(config, [key], command)
    except UserError:
        return False
    return True


def test_every_rule_is_of_keys_that_exist_and_is_tested():
    for rule in effect.RULES:
        matched = [key for key in KEYS if re.fullmatch(rule.keys, key)]
        assert matched
        if "train" in rule.commands:
            assert set(matched) <= WITHOUT.keys()
    sections = {key.split(".")[1] for key in KEYS if key.startswith("study.")}
    assert {key.removeprefix("study.") for key in effect.STUDY} == sections


@pytest.mark.parametrize("command", sorted(READ))
def test_every_key_of_every_other_command(command):
    data = {"test": "", "val_augmented": True, "eval_batch_size": 0, "shots": 4}
    changes = {"data": data} | MOP
    config = configs.merged(defaults.get_config(), changes)
    for key in KEYS:
        parts = {key, key.partition(".")[0], ".".join(key.split(".")[:2])}
        if parts & READ[command]:
            effect.check(config, [key], command)
            continue
        said = f"config.{key} has no effect: {command} does not read"
        with pytest.raises(UserError, match=said):
            effect.check(config, [key], command)


@pytest.mark.parametrize(
    ("command", "key", "changes"),
    [
        ("eval", "data.val", {"data": {"test": "test"}}),
        ("plot", "data.val_augmented", {"data": {"test": "test"}}),
        ("eval", "data.dir", {"data": {"name": "csv:/data/list.csv"}}),
        ("check-data", "data.bits", {"data": {"name": "digits/low"}}),
        ("zero-shot", "train.batch_size", {"data": {"eval_batch_size": 7}}),
        ("zero-shot", "seed", {"data": {"val_augmented": False}}),
        ("class-embeddings", "train.batch_size", {"data": {"eval_batch_size": 7}}),
        ("predict", "text.tokenizer", {"method": {"name": "vpt.VPT"}}),
        ("demo", "data.val", {"data": {"test": "test"}}),
        ("ablate", "study.shots", {"study": {"name": "base_to_new"}}),
        ("ablate", "study.suite.dtd.seed", {"study": {"name": "fusion"}}),
    ],
)
def test_what_other_commands_read_may_have_no_effect(command, key, changes):
    config = configs.merged(defaults.get_config(), changes)
    with pytest.raises(UserError, match=f"config.{key} has no effect here: it needs "):
        effect.check(config, [key], command)


def test_every_command_that_takes_keys_has_a_rule():
    takes = {name for name, parser in cli.parsers().items() if flags.KEY in parser.flags}
    assert takes == {*effect.TRAINING, *effect.READS}


def test_what_a_study_sets_in_every_run():
    several = digits.get_config()  # each run names its method, and all but one a rate
    effect.check(several, ["optim.lr", "method.num_tokens"], "compare")
    with pytest.raises(UserError, match="method.name has no effect: study.compare sets it"):
        effect.check(several, ["method.name"], "train")
    with pytest.raises(UserError, match="config.seed has no effect: study.seeds sets it"):
        effect.check(several, ["seed"], "compare")
    grid = configs.merged(several, {"study": {"tune": {"grid": {"optim": {"lr": (1.0, 2.0)}}}}})
    effect.check(grid, ["optim.weight_decay", "seed"], "tune")
    with pytest.raises(UserError, match="optim.lr has no effect: study.tune.grid sets it"):
        effect.check(grid, ["optim.lr"], "tune")
    effect.check(several, ["method.num_tokens"], "prune")
    for key in ("method.masks", "method.pruned_tokens", "study.tune.grid.optim.lr"):
        with pytest.raises(UserError, match=f"{key} has no effect: study.prune sets it"):
            effect.check(several, [key], "prune")


def test_training_a_recipe_of_several_runs_reads_what_compare_reads():
    effect.check(digits.get_config(), ["study.seeds", "study.cells"], "train")
    with pytest.raises(UserError, match="Set config.seed instead"):
        effect.check(digits.get_config("linear"), ["study.seeds"], "train")
