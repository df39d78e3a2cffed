"""Files whose names look like ours and whose networks are not, and files that do not say enough."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from tests.weights.test_conv import norm, torch_resnet
from vpjax.core import params
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


def test_google_s_bit_is_timm_s(tmp_path):
    data = Path(__file__).parent / "data" / "timm_bit"
    arrays = safetensors.numpy.load_file(data / "model.safetensors")
    np.savez(
        tmp_path / "BiT-M-R50x1.npz", **{google_name(n): in_order(a) for n, a in arrays.items()}
    )
    where = str(tmp_path / "BiT-M-R50x1.npz")
    assert describe(where).kind == "a Google BiT checkpoint" and not describe(where).open
    google, timm_s = load_backbone(where), load_backbone(str(data))
    values = params.flatten(nnx.state(timm_s))
    for name, value in params.flatten(nnx.state(google)).items():
        np.testing.assert_array_equal(value, values[name], err_msg=name)


def google_name(name):
    """Google's name for one of timm's."""
    name = name.replace("stem.conv.weight", "root_block/standardized_conv2d/kernel")
    name = name.replace("head.fc.weight", "head/conv2d/kernel")
    name = name.replace("head.fc.bias", "head/conv2d/bias")
    name = name.replace("stages.0.blocks.0.", "block1/unit01/")
    name = name.replace("downsample.conv.weight", "a/proj/standardized_conv2d/kernel")
    for i, letter in enumerate("abc", start=1):
        name = name.replace(f"conv{i}.weight", f"{letter}/standardized_conv2d/kernel")
        name = name.replace(f"norm{i}.", f"{letter}/norm.")
    name = name.replace("norm.weight", "group_norm/gamma").replace("norm.bias", "group_norm/beta")
    return f"resnet/{name}"


def in_order(array):
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def test_relatives_of_bit_and_hybrids_are_refused(tmp_path):
    one = np.zeros((1, 1, 1, 1))
    arrays = {"stem.conv.weight": np.zeros((4, 3, 7, 7)), "norm.weight": np.zeros(16)}
    for part in ("downsample.conv", "conv1", "conv2", "conv3"):
        arrays[f"stages.0.blocks.0.{part}.weight"] = one
    where = folder(tmp_path, arrays, timm("resnetv2_50x1_bit"))
    assert describe(where).name == "bit.BiT"
    for name in ("resnetv2_50", "resnetv2_50d_gn", "resnetv2_50x1_bitx"):
        with pytest.raises(UserError, match=f"a timm '{name}'"):
            describe(folder(tmp_path, arrays | {"stem.conv.bias": np.zeros(4)}, timm(name)))
    (tmp_path / "config.json").unlink()
    assert describe(folder(tmp_path, arrays, {})).open == ("variant",)
    hub = {f"embedder.convolution.{n}": np.zeros((4, 3, 7, 7)) for n in ("weight",)}
    hub |= {
        f"encoder.{n.replace('blocks', 'layers')}": a for n, a in arrays.items() if "blocks" in n
    }
    config = {"model_type": "bit", "global_padding": "SAME"}
    with pytest.raises(UserError, match="a BiT with global_padding='SAME'"):
        describe(folder(tmp_path, hub, config))


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
