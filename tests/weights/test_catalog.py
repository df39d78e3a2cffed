"""The catalogue of public weights: addresses, digests, names, and which preset belongs to which."""

import dataclasses
import hashlib
import re

import pytest

from vpjax.backbones import convnext, resnet, swin, vit
from vpjax.core import registry
from vpjax.data import PRESETS
from vpjax.weights import catalog
from vpjax.weights.catalog import CATALOG, find_entry, list_weights
from vpjax.weights.download import fetch


def test_table():
    assert len({entry.file for entry in CATALOG.values()}) == len(CATALOG)
    for name, entry in CATALOG.items():
        assert entry.preset in PRESETS
        if not entry.url:
            assert fetch(name).is_file()
            continue
        assert entry.url.startswith("https://") and entry.url.endswith(entry.file.split("_")[-1])
        algorithm, _, prefix = (entry.digest or "md5:").partition(":")
        assert algorithm in ("md5", "sha256") and set(prefix) <= set("0123456789abcdef")
        assert entry.variant in entry.description and entry.description.endswith(")")
        # Names begin with the kind and the size: vit_b16_in21k, swin_b_in22k, resnet50_in1k.
        size = entry.variant.lower().replace("/", "")
        nets = rf"(vit|mae|mocov3|swin|convnext)_{size}(_|$)|(resnet|alexnet){size}_"
        assert re.match(nets, name)


def test_table_names_backbones_that_exist():
    sizes = {"vit": vit.SIZES, "swin": swin.VARIANTS}
    sizes |= {"convnext": convnext.SIZES, "resnet": resnet.DEPTHS}
    for entry in (e for e in CATALOG.values() if e.backbone):
        registry.lookup("backbones", entry.backbone)
        assert entry.variant.partition("/")[0] in sizes[entry.backbone.partition(".")[0]]


@pytest.mark.parametrize(
    ("weights", "preset"),
    [
        ("vit_b16_in21k", "inception"),
        ("mae_b16", "imagenet"),
        ("/models/ViT-B_16.npz", "inception"),
        ("https://example.org/copy/swin_tiny_patch4_window7_224.pth", "imagenet"),
        ("digits_vit", "digits"),
        ("/models/mine.npz", None),
        ("openai/clip-vit-base-patch16", None),
        ("", None),
    ],
)
def test_the_preset_of_weights(weights, preset):
    entry = find_entry(weights)
    assert (entry.preset if entry else None) == preset


def test_names_of_a_backbone():
    assert list_weights() == sorted(CATALOG)
    assert list_weights("vit.MAE") == ["mae_b16", "mae_h14", "mae_l16"]
    assert list_weights("cnn.CNN") == []


def test_a_copy_under_another_name(tmp_path, monkeypatch):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"weights")
    assert catalog.find_by_digest(path) is None
    for algorithm in ("md5", "sha256"):
        digest = hashlib.new(algorithm, b"weights").hexdigest()[:8]
        entry = dataclasses.replace(CATALOG["mae_b16"], digest=f"{algorithm}:{digest}")
        monkeypatch.setitem(CATALOG, "copied", entry)
        assert catalog.find_by_digest(path) is entry


def test_a_part_of_a_known_file():
    entry = catalog.find_entry("/models/linear-vit-b-300ep.pth.tar")
    assert entry is None or entry.backbone == "vit.MoCoV3"
    assert catalog.find_entry("/models/ViT-B_16.npz#params") is CATALOG["vit_b16_in21k"]
