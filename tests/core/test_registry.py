"""Names of parameters and of code, and configs made of them."""

from pathlib import Path

import jax.numpy as jnp
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import digits
from tests.helpers import cases
from vpjax.core import params, registry
from vpjax.core.errors import UserError
from vpjax.methods.vpt import VPT
from vpjax.runs import config as configs
from vpjax.runs import defaults
from vpjax.studies.cells import all_runs


def test_a_name_is_the_place_in_the_code():
    assert registry.lookup("methods", "vpt.VPT") is VPT
    assert registry.lookup("methods", "tests.helpers.oracles.InsertedVPT").__name__ == "InsertedVPT"
    assert {"finetune.Linear", "finetune.Full", "vpt.VPT"} <= set(registry.available("methods"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vpt.VTP", "Did you mean 'vpt.VPT'"),
        ("vtp.VPT", "Did you mean 'vpt.VPT'"),
        ("VPT", "Did you mean 'vpt.VPT'"),
        ("nowhere.at.all", "cannot import 'nowhere.at'"),
        ("tests.helpers.oracles.Nothing", "tests.helpers.oracles.InsertedVPT"),
    ],
)
def test_unknown_names_suggest_the_nearest(name, hint):
    with pytest.raises(UserError, match=hint):
        registry.lookup("methods", name)


def test_unknown_options_suggest_the_nearest():
    backbone = cases.tiny_vit(nnx.Rngs(0))
    with pytest.raises(UserError, match="Did you mean 'num_tokens'"):
        registry.construct(
            "methods", {"name": "vpt.VPT", "num_token": 1}, backbone, 2, rngs=nnx.Rngs(0)
        )


def test_flatten_and_fill_are_inverse():
    model = cases.tiny_vit(nnx.Rngs(0))
    state = nnx.state(model)
    values = params.flatten(state)
    assert "layers/1/attn/query/kernel" in values
    doubled = params.fill(state, {n: 2 * v for n, v in values.items()})
    for name, value in params.flatten(doubled).items():
        assert jnp.array_equal(value, 2 * values[name])
    with pytest.raises(KeyError, match="names differ"):
        params.fill(state, {"other": jnp.zeros(1)})


def test_matching_is_of_whole_names():
    found = params.matching(r"layers/1/.*", ["layers/1/a", "layers/10/a", "x/layers/1/a"])
    assert found == {"layers/1/a"}


def test_a_section_writes_out_every_option():
    section = configs.section("methods", "vpt.VPT", num_tokens=7)
    assert section.to_dict() == {
        "name": "vpt.VPT",
        "num_tokens": 7,
        "deep_shared": False,
        "expand": True,
        "pool": "original",
        "init": "random",
        "init_path": "",
        "deep": True,
        "num_deep_layers": None,
        "reverse_deep": False,
        "dropout": 0.0,
        "projection_dim": None,
        "head_hidden": 0,
        "head_init": "zero",
        "head_norm": False,
        "backbone_dropout": None,
    }
    section.projection_dim = 4  # an empty entry that knows its type
    with pytest.raises(TypeError):
        section.projection_dim = "wide"
    with pytest.raises(UserError, match="Did you mean 'num_tokens'"):
        configs.section("methods", "vpt.VPT", num_tokns=7)


def test_a_config_survives_its_file(tmp_path):
    config = digits.get_config()
    configs.save(config, tmp_path / "config.json")
    again = configs.load(tmp_path / "config.json")
    assert configs.differences(config, again) == []
    again.optim.lr = 9.0
    assert configs.differences(config, again) == ["optim.lr: 0.03 now, 9.0 there"]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="no whole JSON file"):
        configs.load(tmp_path / "config.json")


def test_a_new_name_keeps_the_options_both_classes_have():
    config = defaults.get_config()
    config.method.update(head_init="classes", num_tokens=3)
    linear = configs.renamed(config, "method", "finetune.Linear", {})
    kept = {"head_hidden": 0, "head_init": "classes", "head_norm": False, "backbone_dropout": None}
    assert linear.to_dict() == {"name": "finetune.Linear"} | kept
    with pytest.raises(UserError, match="num_tokens"):
        configs.renamed(config, "method", "finetune.Linear", {"num_tokens": 3})


def test_a_new_name_brings_its_own_defaults():
    config = defaults.get_config()
    config.backbone.depth = 3
    clip = configs.renamed(config, "backbone", "clip.CLIP", {})
    assert (clip.eps, clip.image_size, clip.depth) == (None, None, 3)
    assert clip.weights == config.backbone.weights


def test_a_comparison_inherits_what_the_command_line_set():
    config = digits.get_config()
    config.method.num_tokens = 2
    config.study.seeds = (4, 5)
    runs = {(run.label, run.seed): run.config for run in all_runs(config, Path())}
    assert len(runs) == 8
    assert runs["vpt_deep", 5].method.num_tokens == 2
    assert runs["vpt_shallow", 4].method.deep is False
    assert runs["vpt_shallow", 4].seed == 4
    assert runs["linear", 4].method.name == "finetune.Linear"
    assert runs["linear", 4].study.compare == ConfigDict()


def test_cells_choose_runs_and_their_order():
    config = digits.get_config()
    config.study.cells = ("vpt_deep", "linear")
    found = list(all_runs(config, Path()))
    assert [run.label for run in found[:: len(config.study.seeds)]] == ["vpt_deep", "linear"]
    assert all(not r.config.study.cells and not r.config.study.compare for r in found)
    config.study.cells = ("linaer",)
    with pytest.raises(UserError, match="unknown cell 'linaer'. Did you mean 'linear'"):
        list(all_runs(config, Path()))


def test_an_unknown_run_of_the_first_recipe():
    with pytest.raises(UserError, match="Did you mean 'vpt_deep'"):
        digits.get_config("vpt_dep")
