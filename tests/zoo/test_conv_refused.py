"""Files whose names look like ours and whose networks are not, and files that do not say enough."""

import json

import numpy as np
import pytest
import safetensors.numpy

from tests.weights.test_conv import norm, torch_resnet
from vpjax.core.errors import UserError
from vpjax.models.create import load_backbone
from vpjax.weights.recognise import describe


def folder(tmp_path, arrays, config, name="model.safetensors"):
    arrays = {n: np.ascontiguousarray(a, np.float32) for n, a in arrays.items()}
    safetensors.numpy.save_file(arrays, tmp_path / name)
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def timm(architecture, **arguments):
    return {"architecture": architecture, "model_args": arguments, "pretrained_cfg": {}}


@pytest.mark.parametrize(
    "architecture", ["resnetblur50", "resnetaa50", "resnet50d", "seresnet50", "ecaresnetlight"]
)
def test_timm_s_relatives_of_resnet_are_refused_by_name(tmp_path, architecture):
    where = folder(tmp_path, torch_resnet(), timm(architecture))
    with pytest.raises(UserError, match=f"a timm '{architecture}', which vpjax does not have"):
        describe(where)
    with pytest.raises(UserError, match=architecture):
        load_backbone("resnet.ResNet", where, variant="50")


def test_timm_s_arguments_that_change_the_function_are_refused(tmp_path):
    where = folder(tmp_path, torch_resnet(), timm("resnet50", output_stride=8))
    with pytest.raises(UserError, match="a timm 'resnet50' with output_stride=8"):
        describe(where)


def test_timm_s_other_poolings_are_refused(tmp_path):
    where = folder(tmp_path, torch_resnet(), timm("resnet50", global_pool="catavgmax"))
    with pytest.raises(UserError, match="global_pool='catavgmax'"):
        describe(where)


def test_a_resnet_with_group_norm_is_refused(tmp_path):
    arrays = {n: a for n, a in torch_resnet().items() if "running" not in n}
    with pytest.raises(UserError, match="without running averages"):
        describe(folder(tmp_path, arrays, timm("resnet50")))
    se = norm("layer1.0.se.fc1", 2)
    with pytest.raises(UserError, match="attention over channels"):
        describe(folder(tmp_path, torch_resnet() | se, {}))


def test_a_resnet_of_unknown_origin_needs_its_variant(tmp_path):
    where = folder(tmp_path, torch_resnet(), {})
    found = describe(where)
    assert found.open == ("variant",) and found.options["widths"] == (2, 3)
    with pytest.raises(UserError, match=r"nothing beside the file says variant.*backbone.variant="):
        load_backbone(where)


def test_torchvision_s_public_names_say_what_a_file_is(tmp_path):
    path = tmp_path / "wide_resnet50_2-9ba9bcbe.pth"
    folder(tmp_path, torch_resnet(), {}, path.name)  # the content decides how it is read
    found = describe(str(path))
    assert found.open == () and found.options["variant"] == "50"


def test_a_hub_configuration_with_another_activation_is_refused(tmp_path):
    arrays = {f"resnet.{n}": a for n, a in transformers_resnet().items()}
    config = {"model_type": "resnet", "hidden_act": "silu"}
    with pytest.raises(UserError, match="a ResNet with the activation 'silu'"):
        describe(folder(tmp_path, arrays, config))
    (tmp_path / "config.json").unlink()
    assert set(describe(str(tmp_path)).open) == {"first_stride", "stride_at", "variant"}


def transformers_resnet():
    """A bottleneck ResNet of one block, as transformers names it."""
    random = np.random.default_rng(0)
    out = {}

    def layer(name, *shape):
        out[f"{name}.convolution.weight"] = random.normal(size=shape)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            out[f"{name}.normalization.{leaf}"] = random.normal(size=shape[0])

    layer("embedder.embedder", 4, 3, 7, 7)
    for i, shape in enumerate([(2, 4, 1, 1), (2, 2, 3, 3), (8, 2, 1, 1)]):
        layer(f"encoder.stages.0.layers.0.layer.{i}", *shape)
    layer("encoder.stages.0.layers.0.shortcut", 8, 4, 1, 1)
    return out
