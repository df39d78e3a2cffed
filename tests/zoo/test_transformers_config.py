"""What config.json and arrays of transformers say, together and against each other."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from flax import serialization, traverse_util
from safetensors.numpy import load_file, save_file

from tests.zoo.loading import DATA, backbone_of, described, opened
from vpjax.core.errors import UserError
from vpjax.weights import swin, timm, torchvision, transformers
from vpjax.weights.description import WeightsFile
from vpjax.weights.load import form_of
from vpjax.weights.transformers_families import FAMILIES

FOLDERS = sorted(p.name for p in DATA.glob("transformers_*"))


def model(name):
    return DATA / f"transformers_{name}" / "model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """Return a function: case, changes of config.json (None: the key is left out) -> the file."""

    def copy(name, **changes):
        shutil.copytree(model(name).parent, tmp_path / name)
        path = tmp_path / name / "config.json"
        config = json.loads(path.read_text()) | changes
        gone = [k for k, v in changes.items() if v is None]
        path.write_text(json.dumps({k: v for k, v in config.items() if k not in gone}))
        return tmp_path / name / "model.safetensors"

    return copy


def test_kinds_and_options():
    found = {name: described(DATA / name / "model.safetensors") for name in FOLDERS}
    assert all(not d.open and d.name == "vit.ViT" for d in found.values())
    assert found["transformers_dinov2"].kind == "a transformers Dinov2ForImageClassification"
    assert found["transformers_vit_model"].kind == "a transformers ViTModel"
    options = {n.removeprefix("transformers_"): d.options for n, d in found.items()}
    usual = {"image_size": 16, "patch_size": 4, "dim": 16, "heads": 2, "depth": 2, "channels": 3}
    for each in options.values():
        assert {k: each[k] for k in usual} == usual
    assert [options[n]["pool"] for n in ("vit", "beit", "beit_shared", "beit_masked")] == [
        "token",
        "mean",
        "token",
        "mean",
    ]
    assert (options["beit"]["final_norm"], options["beit"]["fc_norm"]) == (False, True)
    assert options["vit"]["activation"] == "gelu_tanh" and options["vit"]["eps"] == 1e-12
    assert options["vit_model"]["qkv_bias"] is False and options["dinov3"]["qkv_bias"] == "qv"
    assert options["dinov2_swiglu"]["mlp"] == "swiglu"
    assert options["dinov2_swiglu"]["num_registers"] == 3
    assert options["dinov3_gated"]["rope_theta"] == 50 and options["dinov3"]["rope_theta"] == 100
    resample = {n.removeprefix("transformers_"): d.resample for n, d in found.items()}
    assert resample["dinov2"] == resample["siglip"] == "bicubic_no_antialias"
    assert resample["dinov2_swiglu"] == "bicubic" and resample["beit"] == "bilinear"


@pytest.mark.parametrize("name", FOLDERS)
def test_they_are_read_by_this_module(name):
    names = opened(DATA / name / "model.safetensors").shapes
    assert form_of(names) is transformers
    assert not any(form.recognises(names) for form in (timm, swin, torchvision))


def test_clip_is_not_recognised():
    names = {"vision_model.embeddings.patch_embedding.weight", "vision_model.pre_layrnorm.weight"}
    assert transformers.recognises(names)
    assert not transformers.recognises(names | {"vision_model.embeddings.class_embedding"})


def test_the_image_size_is_that_of_the_preprocessing():
    file = opened(model("dinov2"))
    size_of = lambda **processor: transformers.describe(  # noqa: E731
        dataclasses.replace(file, processor=processor)
    ).options["image_size"]
    cropped = {"size": {"shortest_edge": 12}, "do_center_crop": True}
    assert size_of(crop_size={"height": 8, "width": 8}, **cropped) == 8
    assert size_of(crop_size={"height": 8, "width": 12}, **cropped) == (8, 12)
    assert size_of(crop_size=8, size={"height": 12, "width": 12}) == 12
    assert size_of(size={"shortest_edge": 12}) == size_of(size=18) == size_of() == 16


# Nothing but the model_type


def test_keys_that_equal_defaults_may_be_missing(folder):
    dropped = dict.fromkeys(("layer_norm_eps", "hidden_act", "num_channels", "use_swiglu_ffn"))
    assert described(folder("dinov2", **dropped)).options == described(model("dinov2")).options


def test_sizes_come_from_arrays_and_heads_stay_open(tmp_path):
    arrays = load_file(model("vit"))
    save_file(arrays, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    found = described(tmp_path / "model.safetensors")
    assert found.open == ("heads",) and found.options["dim"] == 16
    assert found.options["image_size"] == 16 and found.options["eps"] == 1e-12
    (tmp_path / "config.json").unlink()
    found = described(tmp_path / "model.safetensors")
    assert found.open == ("heads", "eps", "activation") and found.options["patch_size"] == 4


def test_without_a_configuration_only_shapes_speak(tmp_path):
    for name, missing in (
        ("dinov3", ("heads", "eps", "activation", "rope_theta")),
        ("dinov2_swiglu", ("heads", "eps")),
        ("beit", ("eps", "activation")),  # its tables have a column for every head
        ("beit_shared", ("pool", "eps", "activation")),
    ):
        arrays = load_file(model(name))
        (tmp_path / name).mkdir()
        save_file(arrays, tmp_path / name / "model.safetensors")
        assert set(described(tmp_path / name / "model.safetensors").open) == set(missing), name


# Contradictions


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vit", {"hidden_size": 32}, r"hidden_size: config.json 32, arrays 16"),
        ("vit", {"num_hidden_layers": 12}, r"num_hidden_layers: config.json 12, arrays 2"),
        ("vit", {"qkv_bias": False}, r"qkv_bias: config.json False, arrays True"),
        ("vit", {"image_size": 224}, r"need 3136 positions; the file has 16"),
        ("vit", {"model_type": "dinov2"}, r"'dinov2', but the arrays are those of a ViTModel"),
        ("vit", {"model_type": "yolos"}, r"model_type 'yolos', which vpjax does not read"),
        ("beit", {"image_size": 224}, r"need 12324 positions; the file has 52"),
        ("dinov2", {"mlp_ratio": 4}, r"mlp_ratio: config.json 4, arrays 2.0"),
        ("dinov2_swiglu", {"num_register_tokens": 4}, r"num_register_tokens: config.json 4"),
    ],
)
def test_configuration_and_arrays_must_agree(folder, name, changes, message):
    with pytest.raises(UserError, match=message):
        described(folder(name, **changes))


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("vit", {"hidden_act": "relu"}, "hidden_act='relu'"),
        ("vit", {"quantization_config": {"bits": 4}}, "quantization_config="),
        ("vit", {"auto_map": {"AutoModel": "mine.Model"}}, "auto_map="),
        ("vit", {"pruned_heads": {"0": [1]}}, "pruned_heads="),
        ("vit_model", {"pooler_act": "relu"}, "pooler_act='relu'"),
        ("dinov3", {"proj_bias": False}, "proj_bias=False"),
        ("dinov3_gated", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ],
)
def test_what_changes_the_result_is_refused_by_name(folder, name, changes, key):
    with pytest.raises(UserError, match=key):
        described(folder(name, **changes))


def test_keys_that_are_off_or_change_nothing_are_no_matter(folder):
    more = {"quantization_config": {}, "qk_norm": False, "id2label": {"0": "a"}, "_commit": "abc"}
    assert described(folder("vit", **more)).options == described(model("vit")).options


def test_kinds_of_biases_that_vpjax_lacks():
    file = opened(model("dinov3"))
    shapes = {n: s for n, s in file.shapes.items() if not n.endswith("v_proj.bias")}
    with pytest.raises(UserError, match="query_bias=True, key_bias=False, value_bias=False"):
        transformers.describe(WeightsFile("", file.path, shapes))


def test_patches_must_be_there():
    file = opened(model("vit"))
    shapes = {n: s for n, s in file.shapes.items() if "patch_embeddings" not in n}
    with pytest.raises(UserError, match="a transformers ViTModel, but have no patch_embed/kernel"):
        transformers.describe(WeightsFile("", file.path, shapes))


# Other writers of the same names


def to_flax(arrays):
    """Return the tree of a Flax file: matrices (in, out), other words for weights."""
    out = {}
    for name, array in arrays.items():
        place, _, kind = name.rpartition(".")
        if kind == "weight":
            own = {1: "scale", 2: "kernel", 4: "kernel"}[array.ndim]
            own = "embedding" if place.endswith("position_embedding") else own
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
            array = array.T if own == "kernel" and array.ndim == 2 else array
            name = f"{place}.{own}"
        out[name] = array
    return traverse_util.unflatten_dict(out, sep=".")


@pytest.mark.parametrize("name", ["vit", "vit_model", "dinov2", "beit", "siglip_towers"])
def test_flax_files_are_the_same(tmp_path, name):
    arrays = load_file(model(name))
    tree = serialization.msgpack_serialize(to_flax(arrays))
    (tmp_path / "flax_model.msgpack").write_bytes(tree)
    shutil.copy(model(name).parent / "config.json", tmp_path)
    (_, ours), (_, theirs) = (
        backbone_of(path) for path in (tmp_path / "flax_model.msgpack", model(name))
    )
    for n, value in theirs.values.items():
        np.testing.assert_array_equal(ours.values[n], value)


def test_names_in_memory_are_the_same(tmp_path):
    """Return to what `state_dict()` of a model of today's version has."""
    places = {
        "encoder.layer.": "layers.",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    arrays = {}
    for name, array in load_file(model("vit")).items():
        for old, new in places.items():
            name = name.replace(old, new)
        arrays[name] = array
    save_file(arrays, tmp_path / "model.safetensors")
    shutil.copy(model("vit").parent / "config.json", tmp_path)
    (_, ours), (_, theirs) = (
        backbone_of(path) for path in (tmp_path / "model.safetensors", model("vit"))
    )
    for n, value in theirs.values.items():
        np.testing.assert_array_equal(ours.values[n], value)


def test_what_is_left_out_is_said():
    _, loaded = backbone_of(model("vit_mae"))
    assert loaded.dropped and all("decoder" in n for n in loaded.dropped)
    _, loaded = backbone_of(model("vit_model"))
    assert set(loaded.dropped) == {"pre_logits/kernel", "pre_logits/bias"}
    _, loaded = backbone_of(model("siglip_towers"))
    assert "unused/logit_scale" in loaded.dropped


def test_a_masked_autoencoder_pools_as_the_class_that_the_user_chooses():
    plain, _ = backbone_of(model("vit_mae"))
    own, loaded = backbone_of(model("vit_mae"), name="vit.MAE")
    assert plain.pooling == "token" and own.pooling != "token"
    np.testing.assert_array_equal(loaded.values["fc_norm/scale"], np.ones(16))
    assert "unused/norm/scale" in loaded.dropped


@pytest.mark.zoo
def test_defaults_are_the_library_s():
    library = pytest.importorskip("transformers")
    for model_type, family in FAMILIES.items():
        config = library.CONFIG_MAPPING[model_type]()
        config = getattr(config, "vision_config", config)
        assert {k: getattr(config, k) for k in family.defaults} == dict(family.defaults), model_type


# torchvision


def test_torchvision_s_own_sizes_have_known_heads():
    shapes = dict(opened(DATA / "torchvision_vit" / "model.safetensors").shapes)
    file = WeightsFile("", DATA, shapes)
    found = torchvision.describe(file)
    assert found.open == ("heads",) and found.kind == "a torchvision ViT"
    shapes |= {"conv_proj.weight": (1280, 3, 14, 14), "encoder.pos_embedding": (1, 1370, 1280)}
    shapes |= {f"encoder.layers.encoder_layer_{i}.ln_1.weight": (1280,) for i in range(32)}
    found = torchvision.describe(WeightsFile("", DATA, shapes))
    assert found.kind == "a torchvision vit_h_14" and not found.open
    assert found.options["heads"] == 16 and found.options["image_size"] == 518
