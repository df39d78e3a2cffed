"""`class-embeddings` writes what prompts can start from."""

import json

import jax
import numpy as np
import pytest

from configs import digits
from vpjax.core.errors import UserError
from vpjax.data import open_source, preset
from vpjax.models.partition import merge
from vpjax.nn.context import EVALUATION
from vpjax.runs import config as configs
from vpjax.runs.class_embeddings import class_embeddings
from vpjax.runs.experiment import ClassInfo, build_model
from vpjax.runs.fit import fit


def recipe(**method):
    config = digits.get_config("vpt_deep")
    config.method.update(**method)
    config.train.steps = 4
    return config


def test_class_means_of_every_layer_and_a_run_that_starts_from_them(tmp_path):
    path = class_embeddings(recipe(num_tokens=5), tmp_path / "embeddings")
    values = np.load(path)
    assert values.shape == (5, 5, 48)

    config = recipe(num_tokens=5)
    graph, *numbers = build_model(config, ClassInfo(tuple("56789"), ({},) * 5)).parts
    backbone = merge(graph, *jax.device_put(numbers)).backbone
    source = open_source("digits/high", "train[:90%]")
    chosen = [e for e in (source[i] for i in range(len(source))) if e["label"] == 2]
    images = np.stack([e["image"] for e in chosen])
    tokens = backbone.embed(preset("digits").device(images, 8, False), EVALUATION)
    np.testing.assert_allclose(values[2, 0], tokens.x[:, 0].mean(0), atol=1e-5)
    for layer in backbone.layers[:2]:
        tokens = layer(tokens, EVALUATION)
    np.testing.assert_allclose(values[2, 2], tokens.x[:, 0].mean(0), atol=1e-4)

    facts = json.loads((tmp_path / "embeddings" / "class_embeddings.json").read_text())
    assert facts["classes"] == [[0], [1], [2], [3], [4]]
    assert sum(facts["images"]) == len(source)
    start = recipe(num_tokens=5, init="cls-nolastl", init_path=str(path))
    assert fit(start, tmp_path / "run")["step"] == 4


def test_fewer_prompts_than_classes_are_groups_of_classes(tmp_path):
    path = class_embeddings(recipe(num_tokens=2), tmp_path)
    assert np.load(path).shape == (2, 5, 48)
    groups = json.loads((tmp_path / "class_embeddings.json").read_text())["classes"]
    assert sorted(c for group in groups for c in group) == [0, 1, 2, 3, 4]


def test_more_prompts_than_classes(tmp_path):
    with pytest.raises(UserError, match="num_tokens is 8, but there are only 5 classes"):
        class_embeddings(recipe(num_tokens=8), tmp_path)


def test_a_backbone_without_a_class_token(tmp_path):
    config = recipe(num_tokens=2)
    config.backbone.weights, config.backbone.head = "", "new"
    swin = {"variant": "T", "image_size": 8, "patch_size": 2, "window": 2}
    swin |= {"embed_dim": 8, "depths": (2, 2), "heads": (2, 2)}
    config = configs.merged(config, {"backbone": {"name": "swin.Swin", **swin}})
    with pytest.raises(UserError, match="Swin has no class token"):
        class_embeddings(config, tmp_path)
