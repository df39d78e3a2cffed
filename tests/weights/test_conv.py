"""Files of ResNets and ConvNeXts under every spelling of their names, strictly."""

import numpy as np
import pytest
from flax import nnx

from vpjax.backbones.convnext import ConvNeXt
from vpjax.backbones.resnet import ResNet
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.weights import convnext, resnet
from vpjax.weights.load import load

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def expected(make):
    return params.flatten(nnx.state(nnx.eval_shape(make)))


def loaded(tmp_path, arrays, like, head="new"):
    np.savez(tmp_path / "file.npz", **arrays)
    return load(str(tmp_path / "file.npz"), like, (4, 4), head)


def norm(name, dim):
    weights = {"weight": array(dim), "bias": array(dim)}
    averages = {"running_mean": array(dim), "running_var": array(dim)}
    counter = {"num_batches_tracked": np.array(3)}
    return {f"{name}.{n}": v for n, v in (weights | averages | counter).items()}


def torch_resnet(widths=(2, 3), depths=(2, 1)):
    """The arrays of a bottleneck ResNet with a head of 7 classes, as torchvision names them."""
    out = {"conv1.weight": array(widths[0], 3, 7, 7)} | norm("bn1", widths[0])
    dim = widths[0]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for i in range(depth):
            block = f"layer{stage}.{i}"
            sizes = [(width, dim, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            for j, size in enumerate(sizes, start=1):
                out |= {f"{block}.conv{j}.weight": array(*size)}
                out |= norm(f"{block}.bn{j}", size[0])
            if i == 0:
                out |= {f"{block}.downsample.0.weight": array(4 * width, dim, 1, 1)}
                out |= norm(f"{block}.downsample.1", 4 * width)
            dim = 4 * width
    return out | {"fc.weight": array(7, dim), "fc.bias": array(7)}


RESNET = expected(lambda: ResNet("50", 16, widths=(2, 3), depths=(2, 1), rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_torchvision_s_resnet(tmp_path, prefix):
    theirs = torch_resnet()
    shortcut = theirs["layer2.0.downsample.0.weight"]
    out = loaded(tmp_path, {prefix + n: v for n, v in theirs.items()}, RESNET, head="load")
    same = {
        "patch_embed/kernel": theirs["conv1.weight"].transpose(2, 3, 1, 0),
        "patch_norm/var": theirs["bn1.running_var"],
        "layers/1/conv2/kernel": theirs["layer1.1.conv2.weight"].transpose(2, 3, 1, 0),
        "layers/2/norm3/scale": theirs["layer2.0.bn3.weight"],
        "layers/2/downsample/conv/kernel": shortcut.transpose(2, 3, 1, 0),
        "layers/2/downsample/norm/mean": theirs["layer2.0.downsample.1.running_mean"],
    }
    for name, value in same.items():
        np.testing.assert_array_equal(out.values[name], value, err_msg=name)
    np.testing.assert_array_equal(out.head["kernel"], theirs["fc.weight"].T)
    np.testing.assert_array_equal(out.head["bias"], theirs["fc.bias"])
    assert all(n.endswith("num_batches_tracked") for n in out.dropped)


@pytest.mark.parametrize(
    ("encoder", "others"),
    [
        ("module.encoder_q.", ("module.encoder_k.",)),
        ("module.base_encoder.", ("module.momentum_encoder.", "module.predictor.")),
    ],
)
def test_moco_s_encoder_is_taken_and_the_rest_left_out(tmp_path, encoder, others):
    mine, rest = torch_resnet(), torch_resnet()
    heads = {"fc.0.weight": array(12, 12), "fc.2.bias": array(4)}
    for name in ("fc.weight", "fc.bias"):
        del mine[name], rest[name]
    arrays = {other + n: v for other in others for n, v in (rest | heads).items()}
    arrays |= {encoder + n: v for n, v in (mine | heads).items()} | {"module.queue": array(4, 9)}
    out = loaded(tmp_path, arrays, RESNET)
    theirs = mine["layer1.0.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(out.values["layers/0/conv1/kernel"], theirs)
    assert all(n.startswith("unused/") for n in out.dropped)
    with pytest.raises(UserError, match="the file has no head"):
        loaded(tmp_path, arrays, RESNET, head="load")


def test_another_resnet_is_reported_whole(tmp_path):
    arrays = torch_resnet(depths=(1, 2)) | {"layer1.0.se.fc.weight": array(1)}
    with pytest.raises(UserError) as error:
        loaded(tmp_path, arrays, RESNET)
    assert "layers/1/conv1/kernel: file (1, 1, 8, 3)" in str(error.value)
    assert "layer1.0.se.fc.weight" in str(error.value)


def released_convnext(dims=(2, 3), depths=(2, 1)):
    """The arrays of a ConvNeXt with a head of 7 classes, as its authors name them."""
    out = {}

    def add(name, *shape):
        out.update({f"{name}.weight": array(*shape), f"{name}.bias": array(shape[0])})

    for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        down = f"downsample_layers.{stage}"
        if stage:
            add(f"{down}.0", dims[stage - 1])
            add(f"{down}.1", dim, dims[stage - 1], 2, 2)
        else:
            add(f"{down}.0", dim, 3, 4, 4)
            add(f"{down}.1", dim)
        for i in range(depth):
            block = f"stages.{stage}.{i}"
            out[f"{block}.gamma"] = array(dim)
            add(f"{block}.dwconv", dim, 1, 7, 7)
            add(f"{block}.norm", dim)
            add(f"{block}.pwconv1", 4 * dim, dim)
            add(f"{block}.pwconv2", dim, 4 * dim)
    add("norm", dim)
    add("head", 7, dim)
    return out


CONVNEXT = expected(lambda: ConvNeXt("T", 16, dims=(2, 3), depths=(2, 1), rngs=nnx.Rngs(0)))
# A released name, and what stands in its place elsewhere.
TIMM = {
    "downsample_layers.0.": "stem.",
    "downsample_layers.1.": "stages.1.downsample.",
    "stages.0.0.": "stages.0.blocks.0.",
    "stages.0.1.": "stages.0.blocks.1.",
    "stages.1.0.": "stages.1.blocks.0.",
    ".dwconv": ".conv_dw",
    ".pwconv": ".mlp.fc",
}
TORCHVISION = {
    "downsample_layers.0.": "features.0.",
    "downsample_layers.1.": "features.2.",
    "stages.0.": "features.1.",
    "stages.1.": "features.3.",
    ".dwconv": ".block.0",
    ".norm": ".block.2",
    ".pwconv1": ".block.3",
    ".pwconv2": ".block.5",
    ".gamma": ".layer_scale",
}


def respelled(arrays, table, last_norm, head):
    out = {}
    for name, value in arrays.items():
        if name.startswith("norm."):
            name = last_norm + name.removeprefix("norm")
        elif name.startswith("head."):
            name = head + name.removeprefix("head")
        else:
            for theirs, other in table.items():
                name = name.replace(theirs, other)
        out[name] = value
    return out


@pytest.mark.parametrize("spelling", ["released", "module.", "timm", "timm conv", "torchvision"])
def test_convnext_s_names(tmp_path, spelling):
    theirs = released_convnext()
    arrays = theirs
    if spelling == "module.":
        arrays = {f"module.{n}": v for n, v in theirs.items()}
    elif spelling.startswith("timm"):
        arrays = respelled(theirs, TIMM, "head.norm", "head.fc")
    elif spelling == "torchvision":
        arrays = respelled(theirs, TORCHVISION, "classifier.0", "classifier.2")
        arrays = {n: v[:, None, None] if "scale" in n else v for n, v in arrays.items()}
    if spelling == "timm conv":  # matrices as convolutions of one pixel
        is_matrix = lambda n: ".mlp." in n and n.endswith("weight")  # noqa: E731
        arrays = {n: v[:, :, None, None] if is_matrix(n) else v for n, v in arrays.items()}
    out = loaded(tmp_path, arrays, CONVNEXT, head="load")
    same = {
        "patch_embed/kernel": theirs["downsample_layers.0.0.weight"].transpose(2, 3, 1, 0),
        "patch_norm/scale": theirs["downsample_layers.0.1.weight"],
        "layers/1/mlp/fc1/kernel": theirs["stages.0.1.pwconv1.weight"].T,
        "layers/2/norm/bias": theirs["downsample_layers.1.0.bias"],
        "layers/2/conv/kernel": theirs["downsample_layers.1.1.weight"].transpose(2, 3, 1, 0),
        "layers/3/conv/kernel": theirs["stages.1.0.dwconv.weight"].transpose(2, 3, 1, 0),
        "layers/3/norm/scale": theirs["stages.1.0.norm.weight"],
        "layers/3/mlp/fc2/bias": theirs["stages.1.0.pwconv2.bias"],
        "layers/3/gamma": theirs["stages.1.0.gamma"],
        "norm/scale": theirs["norm.weight"],
    }
    for name, value in same.items():
        np.testing.assert_array_equal(out.values[name], value, err_msg=name)
    np.testing.assert_array_equal(out.head["kernel"], theirs["head.weight"].T)
    assert set(out.dropped) == set()


def test_each_format_knows_its_own():
    assert resnet.recognises(torch_resnet())
    assert convnext.recognises(released_convnext())
    assert not resnet.recognises(released_convnext())
    assert not convnext.recognises(torch_resnet())
    assert not resnet.recognises({"visual.layer1.0.conv1.weight"})  # CLIP's has another pooling
