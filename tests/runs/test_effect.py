"""A key that is set by hand and has no effect is refused, with what it needs."""

import re

import pytest

from configs import digits
from vpjax.core.errors import UserError
from vpjax.runs import config as configs
from vpjax.runs import defaults, effect

KEYS = sorted(configs.flat(defaults.get_config()))
# {key: (changes without which it has an effect, and with which it has none)}
WITHOUT = {
    "train.epochs": {"train": {"steps": 5}},
    "optim.momentum": {"optim": {"name": "adamw"}},
    "optim.warmup_epochs": {"optim": {"warmup_steps": 3}},
    "optim.warmup_steps": {"optim": {"schedule": "onecycle"}},
    "optim.warmup_from_zero": {"optim": {"schedule": "onecycle"}},
    "optim.min_lr": {"optim": {"schedule": "constant"}},
    "optim.cycles": {"optim": {"schedule": "cosine"}},
    "optim.step_epochs": {"optim": {"schedule": "cosine"}},
    "optim.step_factor": {"optim": {"schedule": "plateau"}},
    "optim.plateau_factor": {"optim": {"schedule": "step"}},
    "optim.plateau_patience": {"optim": {"schedule": "cosine"}},
    "text.templates": {"method": {"name": "vpt.VPT"}},
    "text.name_type": {"method": {"name": "finetune.Linear"}},
    "text.tokenizer": {"method": {"name": "vpt.VPT"}},
    "remat_segments": {"remat": "none"},
    "backbone.head": {"backbone": {"weights": ""}},
    "backbone.resample": {"backbone": {"weights": ""}},
    "data.val_augmented": {"data": {"val": ""}},
}
WITH = {
    "optim.cycles": {"optim": {"schedule": "cosine_hardrestart"}},
    "optim.step_epochs": {"optim": {"schedule": "step"}},
    "optim.step_factor": {"optim": {"schedule": "step"}},
    "optim.plateau_factor": {"optim": {"schedule": "plateau"}},
    "optim.plateau_patience": {"optim": {"schedule": "plateau"}},
    "text.templates": {"method": {"name": "mop.MoP"}},
    "text.name_type": {"method": {"name": "mop.MoP"}},
    "text.tokenizer": {"method": {"name": "mop.MoP"}},
    "remat_segments": {"remat": "full"},
}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_a_training(key):
    study = key.startswith("study.") and not key.startswith(("study.label", "study.expected"))
    base = defaults.get_config()
    if study:
        with pytest.raises(UserError, match=f"config.{key} has no effect: train does not read it"):
            effect.check(base, [key], "train")
        commands = [c for c in effect.SEVERAL if _accepted(base, key, c)]
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
        assert matched and set(matched) <= WITHOUT.keys()
    sections = {key.split(".")[1] for key in KEYS if key.startswith("study.")}
    assert {key.removeprefix("study.") for key in effect.STUDY} == sections


def test_training_a_recipe_of_several_runs_reads_what_compare_reads():
    effect.check(digits.get_config(), ["study.seeds", "study.cells"], "train")
    with pytest.raises(UserError, match="Set config.seed instead"):
        effect.check(digits.get_config("linear"), ["study.seeds"], "train")
