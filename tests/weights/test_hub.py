"""Names and folders of the hub: as people write them, as caches hold them, and what lies beside."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants

from tests.helpers.hub import COMMIT, serve, use
from vpjax.core.errors import UserError
from vpjax.weights import hub
from vpjax.weights.download import fetch
from vpjax.weights.formats import read


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def snapshot(cache, name, *files, revision="main", commit="c0ffee"):
    """Returns the folder of a model as the hub's own client leaves it."""
    root = cache / f"models--{name.replace('/', '--')}"
    folder = root / "snapshots" / (commit * 7)[:40]
    folder.mkdir(parents=True, exist_ok=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / revision).write_text(folder.name)
    for file in files:
        safetensors.numpy.save_file({file: np.ones(1, np.float32)}, folder / file)
    return folder


SPELLINGS = {
    "google/vit-base-patch16-224": "google/vit-base-patch16-224",
    "timm/vit_small_patch14_dinov2.lvd142m": "timm/vit_small_patch14_dinov2.lvd142m",
    "hf-hub:timm/eva02_tiny.mim_in22k": "timm/eva02_tiny.mim_in22k",
    "hf_hub:timm/x.y": "timm/x.y",
    "hf://laion/CLIP-ViT-g-14": "laion/CLIP-ViT-g-14",
    "hf://models/laion/CLIP": "laion/CLIP",
    "https://huggingface.co/facebook/dinov2-small": "facebook/dinov2-small",
    "https://huggingface.co/facebook/dinov2-small/tree/main": "facebook/dinov2-small",
    "https://hf.co/a/b/": "a/b",
    "a/b@v1.5": "a/b@v1.5",
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B-16": "openai/clip-vit-base-patch16",
    "vit-l/14": "openai/clip-vit-large-patch14",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
    "ViT-L-14-336": "openai/clip-vit-large-patch14-336",
    "ViT-B-16.npz": "",
    "a/model.npz": "",
    "a/model.pth.tar": "",
    "a/b/c": "",
    "vit_b16_in21k": "",
    "https://host/a": "",
    "./a/b": "",
}


@pytest.mark.parametrize(("where", "name"), SPELLINGS.items(), ids=list(SPELLINGS))
def test_names_as_people_write_them(where, name):
    assert hub.name_of(where) == name


@pytest.mark.parametrize(
    "where",
    [
        "timm/vit_tiny_patch7.sam_in5k",
        "hf-hub:timm/vit_tiny_patch7.sam_in5k",
        "https://huggingface.co/timm/vit_tiny_patch7.sam_in5k",
        "vit_tiny_patch7.sam_in5k",
        "https://huggingface.co/timm/vit_tiny_patch7.sam_in5k/resolve/main/model.safetensors",
        "hf://timm/vit_tiny_patch7.sam_in5k/model.safetensors#trunk",
    ],
)
def test_a_model_in_the_cache_is_found(cache, where):
    folder = snapshot(cache, "timm/vit_tiny_patch7.sam_in5k", "model.safetensors")
    assert hub.weights_in(where) == str(folder / "model.safetensors")


def test_openais_names_of_clips(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = snapshot(cache, "openai/clip-vit-base-patch16", "model.safetensors")
    for where in ("ViT-B/16", "ViT-B-16"):
        assert hub.weights_in(where) == str(folder / "model.safetensors")
    (tmp_path / "ViT-B" / "16").mkdir(parents=True)
    assert hub.folder_of("ViT-B/16") == Path("ViT-B/16")  # a folder of that name is meant
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = "no file or folder ViT-L/14@336px, and the model openai/clip-vit-large-patch14-336 is"
    with pytest.raises(UserError, match=f"{message} not in the cache.*HF_HUB_OFFLINE"):
        hub.weights_in("ViT-L/14@336px")


def test_a_revision_of_its_own(cache):
    snapshot(cache, "lab/net", "model.safetensors")
    second = snapshot(cache, "lab/net", "model.safetensors", revision="v2", commit="beefed")
    assert hub.folder_of("lab/net@v2") == second
    with pytest.raises(UserError, match="hf download lab/net --revision v3"):
        hub.folder_of("lab/net@v3")


def test_what_is_not_there_says_the_command(cache, tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"HF_HUB_OFFLINE is(?s:.*)\n    hf download facebook/dinov3.b\n"
    ):
        hub.weights_in("facebook/dinov3.b")
    with pytest.raises(UserError, match=r"hf download a/b\n"):
        hub.weights_in("hf-hub:a/b")
    address = "https://huggingface.co/a/b/{}/main/x.safetensors"
    assert hub.weights_in(address.format("blob")) == address.format("resolve")
    # A folder of this name makes it a path with a mistake in it.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "best.safetensors").touch()
    with pytest.raises(UserError, match=r"no file runs/best. Near it in runs: best.safetensors"):
        fetch(hub.weights_in("runs/best"))
    snapshot(cache, "runs/best", "model.safetensors")
    assert hub.weights_in("runs/best").endswith("model.safetensors")


@pytest.fixture
def online(tmp_path, cache, monkeypatch):
    """A hub with models; yields their folder and the files that were asked for."""
    models = tmp_path / "models"
    with serve(models, gated="lab/gated") as (address, asked):
        use(monkeypatch, address, cache)
        yield models, asked


def model(models, name, *files):
    folder = models / name
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).write_text(json.dumps({"name": file}))  # equal files are fetched once
    return folder


def test_what_the_cache_lacks_is_fetched_once(online, cache):
    models, asked = online
    many = ("config.json", "model.safetensors", "flax_model.msgpack", "tf_model.h5", "README.md")
    model(models, "lab/net", *many)
    found = hub.weights_in("lab/net")
    assert found.startswith(str(cache)) and found.endswith("/model.safetensors")
    assert sorted(asked) == ["README.md", "config.json", "model.safetensors"]
    assert hub.weights_in("hf-hub:lab/net") == found and len(asked) == 3


def test_shards_are_fetched_all(online):
    models, asked = online
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    folder = model(models, "lab/net", "config.json", *shards)
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = hub.weights_in("lab/net")
    assert found.endswith("model.safetensors.index.json")
    assert set(shards) < set(asked)
    (Path(found).parent / shards[1]).unlink()  # as after a download that was stopped
    hub.weights_in("lab/net")
    assert (Path(found).parent / shards[1]).exists()


def test_a_snapshot_with_its_configuration_only(cache, online):
    models, _ = online
    model(models, "lab/net", "config.json", "model.safetensors")
    folder = snapshot(cache, "lab/net", commit=COMMIT[:7])
    (folder / "config.json").write_text("{}")
    assert hub.weights_in("lab/net") == str(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lab/none", "the hub has no such model"),
        ("lab/gated", "Accept the terms at https://huggingface.co/lab/gated"),
        ("lab/net@v9", "no such revision"),
        ("lab/many", "several files of weights(?s:.*)hf://lab/many/a.npz\n"),
        ("lab/empty", "holds no weights, only: README.md"),
    ],
)
def test_what_cannot_be_fetched_says_why(online, name, reason):
    models, asked = online
    model(models, "lab/net", "config.json")
    model(models, "lab/many", "config.json", "a.npz", "b.npz")
    model(models, "lab/empty", "README.md")
    with pytest.raises(UserError, match=reason):
        hub.weights_in(name)
    assert not asked


def test_a_hub_that_does_not_answer(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="ConnectError: (?s:.*)hf download lab/net\n"):
        hub.weights_in("lab/net")


def test_which_of_several_files_is_said(tmp_path, caplog):
    for name in ("flax_model.msgpack", "pytorch_model.bin", "tf_model.h5"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.DEBUG):
        assert hub.weights_in(str(tmp_path)) == str(tmp_path / "flax_model.msgpack")
    assert "flax_model.msgpack is read, not pytorch_model.bin" in caplog.text


def test_a_folder_with_files_of_other_names(tmp_path):
    (tmp_path / "readme.txt").touch()
    (tmp_path / "epoch_7.ckpt").touch()
    assert hub.weights_in(str(tmp_path)) == str(tmp_path / "epoch_7.ckpt")
    (tmp_path / "epoch_8.ckpt").touch()
    with pytest.raises(UserError, match=r"several files(?s:.*)epoch_7.ckpt\n.*epoch_8.ckpt"):
        hub.weights_in(str(tmp_path))


# What lies beside


def beside(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_whose_configuration(tmp_path):
    found = lambda file, names=(): hub.configuration(tmp_path / file, names)  # noqa: E731
    assert found("a.npz") == ("", {}, {})
    processor = {"do_resize": True}
    config = {"model_type": "dinov2"}
    beside(tmp_path, config=config, preprocessor_config=processor)
    assert found("a.npz") == ("transformers", config, processor)
    clip = {"model_cfg": {}}
    beside(tmp_path, open_clip_config=clip)
    assert found("model.safetensors")[0] == "transformers"
    assert found("model.safetensors", ["visual.proj"]) == ("open_clip", clip, {})
    assert found("open_clip_model.safetensors")[0] == "open_clip"
    timm = {"architecture": "vit_base_patch16_clip_224", "model_type": "other"}
    beside(tmp_path, config=timm)
    assert found("model.safetensors") == ("timm", timm, {})
    (tmp_path / "config.json").unlink()
    assert found("model.safetensors")[0] == "open_clip"  # nothing else says what it is


def test_a_configuration_of_something_else(tmp_path):
    beside(tmp_path, config={"method": {"name": "vpt.VPT"}})
    assert hub.configuration(tmp_path / "a.npz") == ("", {}, {})


def test_processors_in_one_file(tmp_path):
    own = {"image_mean": [0.5]}
    beside(tmp_path, config={"model_type": "siglip"}, processor_config={"image_processor": own})
    assert hub.configuration(tmp_path / "model.safetensors")[2] == own


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": \x00}'])
def test_damaged_configuration(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config.json is damaged"):
        hub.configuration(tmp_path / "a.npz")


@pytest.mark.parametrize("found", [[1], None, "x", {"a": [1]}, {"a": 2}])
def test_a_damaged_index_of_shards(cache, found):
    folder = snapshot(cache, "timm/x", "config.json")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": found}))
    with pytest.raises(UserError, match=r"index.json is damaged: weight_map"):
        hub.weights_in("timm/x")


def test_shards_of_a_folder(tmp_path):
    parts = {"model-00001-of-00002.safetensors": ["a"], "model-00002-of-00002.safetensors": ["b"]}
    for file, own in parts.items():
        safetensors.numpy.save_file({n: np.ones(2, np.float32) for n in own}, tmp_path / file)
    index = {"weight_map": {n: file for file, own in parts.items() for n in own}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    where = hub.weights_in(str(tmp_path))
    assert where.endswith("model.safetensors.index.json") and read(where).keys() == {"a", "b"}
