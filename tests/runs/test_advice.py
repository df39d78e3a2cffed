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


def test_traps_of_small_parts():
    adam = {"name": "adamw", "lr": 1e-3, "lr_base_batch_size": 0}
    assert "random scales and shifts" in said(method={"name": "ssf.SSF"})
    for name in ("ia3.IA3", "layer_norm.LayerNorm"):
        fast = adam | {"lr": 1e-2}
        assert said(method={"name": name}, optim=fast) == ""
        assert "pulls the scales" in said(method={"name": name}, optim=fast | {"no_decay": ""})
        calm = fast | {"no_decay": "", "weight_decay": 0.0}
        assert said(method={"name": name}, optim=calm) == ""
    for name in ("vera.VeRA", "ia3.IA3"):
        assert "ten times the rate" in said(method={"name": name}, optim=adam)
        scaled = adam | {"lr": 0.01, "lr_base_batch_size": 6400}
        assert "ten times the rate" in said(method={"name": name}, optim=scaled)
    assert said(method={"name": "lora.LoRA"}, optim=adam) == ""
    former = {"name": "bottleneck.AdaptFormer", "norm": "out"}
    assert "316 times" in said(method=former)
    assert "316 times" not in said(method=former, optim={"clip_norm": 1.0})


def test_contexts_that_are_to_meet_new_classes():
    clip = {"backbone": {"name": "clip.CLIP", "weights": ""}, "data": {"classes": "base"}}
    coop = {"method": {"name": "coop.CoOp"}}
    assert "63.2 % on new classes" in said("clip", **clip, **coop)
    assert said("clip", **clip, method={"name": "maple.MaPLe"}) == ""
    assert said("clip", backbone=clip["backbone"], **coop) == ""


@pytest.mark.parametrize(("mean", "warns"), [(15.0, False), (30.0, True)])
def test_an_average_that_begins_after_the_end(mean, warns):
    changes = {"optim": {"average_mean": mean}, "train": {"epochs": 20.0}}
    assert ("of the last ones only" in said(**changes)) == warns


@pytest.mark.parametrize(("val", "warns"), [("test", True), ("train[90%:]", False), ("", False)])
@pytest.mark.parametrize("name", ["tip_adapter.TipAdapter", "tip_adapter.TipAdapterF"])
def test_a_search_on_the_test_split(name, val, warns):
    text = said(method={"name": name}, data={"val": val, "test": "test"})
    assert ("chosen on the images that it is of" in text) == warns


def test_parts_of_a_combination_are_warned_of():
    mae, both = {"name": "vit.MAE"}, {"name": "vpt.VPT+lora.LoRA", "num_tokens": 10}
    assert "VPT on MAE" in said(backbone=mae, method=both)
    assert "random scales and shifts" in said(method={"name": "adapter.Adapter+ssf.SSF"})
