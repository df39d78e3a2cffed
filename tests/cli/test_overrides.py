"""Config keys on the command line: found in any place, read as the kind of value the key has."""

import pytest

from tests.helpers.runs import command
from tests.zoo.loading import DATA
from vpjax.cli import overrides, recipes
from vpjax.core.errors import UserError
from vpjax.runs.config import merged

DINO = str(DATA / "transformers_dinov2" / "model.safetensors")


def changed(*words: str, recipe: str = "digits"):
    """Return a recipe's config with what the command line changes, and the other words."""
    changes, rest = overrides.take(words)
    return overrides.apply(recipes.load(recipe), changes), rest


def value(*words: str, recipe: str = "digits"):
    """Return what the last of the keys is set to."""
    config, _ = changed(*words, recipe=recipe)
    found = config
    for name in overrides.take(words)[0][-1][0].split("."):
        found = found[name]
    return found


def test_keys_are_found_among_other_words():
    words = ["--workdir", "x", "--config.seed=3", "y", "--config.optim.lr", "0.5", "--config=z"]
    changes, rest = overrides.take(words)
    assert changes == [("seed", "3"), ("optim.lr", "0.5")]
    assert rest == ["--workdir", "x", "y", "--config=z"]
    assert overrides.take(["--config.draw", "--noconfig.curves", "--config.a=b=c"])[0] == [
        ("draw", None),
        ("curves", "False"),
        ("a", "b=c"),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config.seed=3"], 3),
        (["--config.mesh.data", "-1"], -1),
        (["--config.optim.lr=1"], 1.0),
        (["--config.optim.lr=1e-3"], 1e-3),
        (["--config.draw=true"], True),
        (["--config.draw=0"], False),
        (["--config.draw"], True),
        (["--noconfig.curves"], False),
        (["--config.backbone.weights="], ""),
        (["--config.data.classes=1,2"], "1,2"),  # text stays text
        (["--config.data.train=train[:50%]"], "train[:50%]"),
        (["--config.study.seeds=(0,1)"], (0, 1)),
        (["--config.study.seeds=4,5"], (4, 5)),
        (["--config.study.seeds=7"], (7,)),
        (["--config.study.seeds=()"], ()),
        (["--config.study.cells=('linear','full')"], ("linear", "full")),
        (["--config.study.cells=linear,full"], ("linear", "full")),
        (["--config.train.steps=None"], None),  # so that epochs count
        (["--config.optim.warmup_steps=5"], 5),  # None so far
        (["--config.method.num_deep_layers=2"], 2),
        (["--config.method.num_deep_layers=None"], None),
        (["--config.backbone.image_size=16"], 16),
        (["--config.backbone.image_size=(16,8)"], (16, 8)),  # either is allowed
        (["--config.study.compare.linear.optim.lr=0.2"], 0.2),
        (["--config.seed=1", "--config.seed=2"], 2),
    ],
)
def test_values(words, expected):
    found = value(*words)
    assert found == expected and type(found) is type(expected)


def test_a_grid():
    key = "--config.study.tune.grid.optim.lr"
    assert value(f"{key}=(0.5,0.25)", recipe="vtab:svhn") == (0.5, 0.25)
    assert value(f"{key}=0.5", recipe="vtab:svhn") == (0.5,)


@pytest.mark.parametrize("turn", [1, -1])
def test_another_class_brings_its_keys_in_any_order(turn):
    words = ["--config.method.name=adapter.Adapter", "--config.method.reduction=4"]
    method = changed(*words[::turn])[0].method
    assert (method.name, method.reduction) == ("adapter.Adapter", 4)
    assert "num_tokens" not in method


def test_another_backbone_keeps_what_is_no_option_of_the_class():
    words = ["--config.backbone.window=2", "--config.backbone.name=swin.Swin"]
    backbone = changed(*words, "--config.backbone.depths=(1,2)")[0].backbone
    assert (backbone.window, backbone.depths, backbone.weights) == (2, (1, 2), "digits_vit")
    assert backbone.image_size == 8  # both classes have it


@pytest.mark.parametrize("way", ["command line", "comparison"])
def test_other_weights_say_what_the_old_ones_said(way):
    if way == "command line":
        config = changed(f"--config.backbone.weights={DINO}", "--config.backbone.image_size=24")[0]
    else:
        changes = {"backbone": {"weights": DINO, "image_size": 24}}
        config = merged(recipes.load("digits"), changes)
    assert (config.backbone.name, config.backbone.weights) == ("vit.ViT", DINO)
    assert (config.backbone.image_size, config.backbone.depth) == (24, None)  # not digits_vit's 4
    assert config.data.preset == "auto"  # not "digits", which is that of digits_vit


def test_a_choice_of_the_recipe_stays_with_other_weights():
    words = "--config.data.preset=imagenet", f"--config.backbone.weights={DINO}"
    assert changed(*words)[0].data.preset == "imagenet"


def test_a_comparison_may_change_class_and_weights_at_once():
    swin = {"name": "swin.Swin", "weights": "", "window": 2, "head": "new"}
    backbone = merged(recipes.load("digits"), {"backbone": swin}).backbone
    assert (backbone.name, backbone.weights, backbone.window) == ("swin.Swin", "", 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--config.seed=x", "config.seed is 'x'; expected a whole number"),
        ("--config.seed=1.5", "config.seed is '1.5'; expected a whole number"),
        ("--config.seed=None", "config.seed is 'None'; expected a whole number"),
        ("--config.train.steps=x", "expected a whole number or None"),
        ("--config.optim.lr=high", "config.optim.lr is 'high'; expected a number"),
        ("--config.draw=maybe", "config.draw is 'maybe'; expected True or False"),
        ("--config.backbone.image_size=big", "expected a whole number or values such as (0,1)"),
        ("--config.seed", "config.seed has no value; write --config.seed=VALUE"),
        ("--config.method.name", "config.method.name has no value"),
        ("--config.optim=adam", "config.optim is a section; give one of its keys"),
        ("--config.seed.x=1", "config.seed is 0, no section: there is no config.seed.x"),
        ("--config.sed=1", "unknown key of config 'sed'. Did you mean 'seed'?"),
        ("--config.optm.lr=1", "unknown key of config 'optm'. Did you mean 'optim'?"),
        ("--config.lr=1", "There is config.optim.lr."),
        ("--config.method.lr=1", "unknown key of config.method 'lr'"),
        ("--config.method.name=vpt.VTP", "Did you mean 'vpt.VPT'?"),
        ("--config.backbone.name=swn.Swin", "Did you mean 'swin.Swin'?"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(UserError) as error:
        changed(words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--config.train.epochs=3",),
            "config.train.epochs has no effect here: it needs train.steps",
        ),
        (("--config.optim.momentum=0.5",), "config.optim.momentum has no effect"),
        (("--config.study.seeds=(1,2)",), "has no effect: train does not read it"),
    ],
)
def test_a_key_without_effect_is_refused_before_anything_is_trained(tmp_path, words, message):
    done = command("--config=digits:vpt_deep", f"--workdir={tmp_path / 'run'}", *words)
    assert done.returncode == 2 and message in done.stderr_text
    assert not (tmp_path / "run").exists()
