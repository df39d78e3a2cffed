"""Known bad choices are said at the start, with the reason; good ones are not."""

import numpy as np
import pytest

from vpjax.runs import config as configs
from vpjax.runs import defaults
from vpjax.runs.advice import advice


def said(preset="inception", **changes):
    config = configs.merged(defaults.get_config(), changes)
    return " ".join(advice(config, preset))


def test_the_default_recipe_is_not_warned_of():
    assert said() == ""


def test_prompts_on_mae():
    text = said(backbone={"name": "vit.MAE"}, method={"num_tokens": 10})
    assert "VPT on MAE" in text and "36.0" in text
    mae = {"backbone": {"name": "vit.MAE"}}
    assert "MAE" not in said(method={"name": "finetune.Partial"}, **mae)
    assert "VPT on MAE" in said(method={"name": "vpt_input.PrependPixel"}, **mae)


@pytest.mark.parametrize("name", ["spt.SPT", "gate_vpt.GateVPT"])
def test_norms_of_mae(name):
    method = {"method": {"name": name, "num_tokens": 10}}
    assert "set backbone.final_norm=True" in said(backbone={"name": "vit.MAE"}, **method)
    own = {"name": "vit.MAE", "final_norm": True, "fc_norm": False}
    assert said(backbone=own, **method) == "" == said(**method)
    assert "gate_vpt.GateVPT" in said(backbone=own, method={"num_tokens": 10})


@pytest.mark.parametrize(("share", "warns"), [(0.5, True), (1.0, False), (0.0, False)])
def test_a_share_that_transforms_nothing(share, warns):
    method = {"name": "vfpt.VFPT", "num_tokens": 1, "fourier_share": share}
    assert ("rounds down to none" in said(method=method)) == warns


@pytest.mark.parametrize(("count", "warns"), [(50, False), (51, True), (200, True)])
def test_many_prompts(count, warns):
    assert (f"{count} prompts" in said(method={"num_tokens": count})) == warns


def test_a_normalisation_the_weights_were_not_trained_with(tmp_path):
    text = said("vpt_vtab")
    assert "ViT-B_16.npz was trained with mean (0.5, 0.5, 0.5)" in text
    # A file of one's own is known by its public name.
    path = {"backbone": {"weights": "/data/ViT-B_16.npz"}}
    assert "ViT-B_16.npz" in said("vpt_vtab", **path)
    mine = tmp_path / "mine.npz"  # a file that nothing is known of
    np.savez(mine, weight=np.zeros(3))
    assert said("vpt_vtab", backbone={"weights": str(mine)}) == ""


def test_clip_with_another_preset():
    clip = {"backbone": {"name": "clip.CLIP", "weights": ""}}
    assert said("clip", **clip) == ""
    assert "clip.CLIP was trained with mean (0.48145466" in said("imagenet", **clip)


def test_adapters_that_cannot_learn():
    adapter = {"method": {"name": "adapter.Adapter"}}
    assert said(**adapter) == ""
    assert "only its last bias" in said(match_reference_code=True, **adapter)
