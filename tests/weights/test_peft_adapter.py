"""Adapters of the peft library, with the names and shapes of its files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.golden.peft_names import Names
from tests.helpers import runs
from vpjax.core.errors import UserError
from vpjax.weights import peft_adapter

DATA = Path(__file__).parents[1] / "golden" / "data" / "peft"
# case: what adapter_config.json says of it, and our method and its options
KINDS = {
    "lora_fused_qkv": (
        {"peft_type": "LORA", "r": 4, "lora_alpha": 8},
        ("lora.LoRA", {"sites": "qkv", "rank": 4, "alpha": 8, "rslora": False}),
    ),
    "dora_fused_qkv": (
        {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": True},
        ("dora.DoRA", {"sites": "qkv+proj", "rank": 4, "alpha": 8, "rslora": False}),
    ),
    "ia3_fused": (
        {"peft_type": "IA3", "feedforward_modules": ["mlp.fc2"]},
        ("ia3.IA3", {"sites": "qkv+fc2", "feedforward": "fc2"}),
    ),
    "vera_fused_qkv": (
        {"peft_type": "VERA", "r": 6, "projection_prng_key": 0},
        ("vera.VeRA", {"sites": "qkv+fc1", "rank": 6, "pair_seed": 0}),
    ),
}
THEIRS = {"magnitude": "lora_magnitude_vector", "ia3": "ia3_l"}
THEIRS |= {"lambda_b": "vera_lambda_b", "lambda_d": "vera_lambda_d"}


def adapter(folder, case, **changes):
    """Write a recorded case as peft writes an adapter; return the recording."""
    with np.load(DATA / f"{case}.npz") as file:
        meta = json.loads(str(file["meta"]))
        arrays = {n[6:]: file[n] for n in file.files if n.startswith("param/")}
    out = {}
    for name in meta["trainable"]:
        start, _, last = name.rpartition(".")
        if "lora_" in last:
            last = f"{last}.weight"
        value = arrays[name]
        if last == "ia3":
            value = value[None] if ".fc2" in name else value[:, None]
        out[f"base_model.model.{start}.{THEIRS.get(last, last)}"] = value
    safetensors.numpy.save_file(
        {n: np.ascontiguousarray(v) for n, v in out.items()}, folder / "adapter_model.safetensors"
    )
    config = KINDS[case][0] | {"bias": "none", "target_modules": ["qkv"]} | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return meta, arrays


def lengths_of(arrays):
    return lambda i, site: np.linalg.norm(arrays[f"blocks.{i}.attn.{site}.weight"], axis=1)


@pytest.mark.parametrize("case", KINDS)
def test_every_number_has_its_place(tmp_path, case):
    meta, arrays = adapter(tmp_path, case)
    name, options = KINDS[case][1]
    path, found = peft_adapter.read(tmp_path, name, options, lengths_of(arrays))
    assert path.name == "adapter_model.safetensors"
    names = Names.__new__(Names)
    expected = {}
    for theirs in meta["trainable"]:
        if not theirs.startswith("head."):
            expected |= names.one(theirs, arrays[theirs])
    for name in [n for n in expected if n.endswith("/magnitude")]:
        layer, site = re.findall(r"layers/(\d+)/(\w+)/", name)[0]
        new = expected.pop(name) - lengths_of(arrays)(layer, site)
        expected[name.replace("magnitude", "shift")] = new
    assert found.keys() == expected.keys() | {"method/head/kernel", "method/head/bias"}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("case", "config", "method", "options", "match"),
    [
        ("lora_fused_qkv", {"peft_type": "LOHA"}, "", {}, "'LOHA'; vpjax reads LORA, IA3, VERA"),
        ("lora_fused_qkv", {"bias": "all"}, "", {}, "bias='all', which vpjax has not"),
        ("lora_fused_qkv", {"init_lora_weights": "pissa"}, "", {}, "init_lora_weights='pissa'"),
        ("lora_fused_qkv", {"rank_pattern": {"x": 2}}, "", {}, "rank_pattern"),
        ("lora_fused_qkv", {}, "", {"rank": 8}, "method.rank=4 .*method.alpha=8"),
        ("lora_fused_qkv", {}, "", {"alpha": None}, "other options"),
        ("lora_fused_qkv", {}, "", {"sites": "q+v"}, "method.sites=qkv"),
        ("lora_fused_qkv", {"use_rslora": True}, "", {}, "method.rslora=True"),
        ("lora_fused_qkv", {"use_dora": True}, "", {}, "method.name=dora.DoRA"),
        ("lora_fused_qkv", {}, "ia3.IA3", {}, "method.name=lora.LoRA"),
        ("vera_fused_qkv", {"projection_prng_key": 7}, "", {}, "method.pair_seed=7"),
    ],
)
def test_what_is_not_the_run_s_is_said(tmp_path, case, config, method, options, match):
    _, arrays = adapter(tmp_path, case, **config)
    name, own = KINDS[case][1]
    with pytest.raises(UserError, match=match):
        peft_adapter.read(tmp_path, method or name, own | options, lengths_of(arrays))


def test_layers_that_are_no_block_s_are_named(tmp_path):
    adapter(tmp_path, "lora_fused_qkv")
    file = tmp_path / "adapter_model.safetensors"
    name = "base_model.model.vit.layers.0.attention.q_proj.lora_A.weight"
    safetensors.numpy.save_file({name: np.ones((4, 8), np.float32)}, file)
    with pytest.raises(UserError, match=r"'base_model.*q_proj.*no linear layer of a block of timm"):
        peft_adapter.read(tmp_path, *KINDS["lora_fused_qkv"][1], None)
    file.unlink()
    with pytest.raises(UserError, match="none of adapter_model"):
        peft_adapter.read(tmp_path, *KINDS["lora_fused_qkv"][1], None)


def test_a_folder_or_its_file_is_an_adapter(tmp_path):
    assert peft_adapter.folder_of(str(tmp_path)) is None
    adapter(tmp_path, "ia3_fused")
    for where in (tmp_path, tmp_path / "adapter_model.safetensors"):
        assert peft_adapter.folder_of(str(where)) == tmp_path


@pytest.mark.slow
def test_a_run_begins_with_an_adapter(tmp_path):
    """Of the digits' size: a run whose rate is 0 keeps what it began with."""
    import vpjax

    source = tmp_path / "adapter"
    source.mkdir()
    random, out = np.random.default_rng(0), {}
    for i in range(4):
        start = f"base_model.model.blocks.{i}.attn.qkv."
        for part, shape in (("lora_A.weight", (3, 48)), ("lora_B.weight", (144, 3))):
            out[start + part] = np.float32(random.normal(0, 0.1, shape))
        out[start + "lora_magnitude_vector"] = np.float32(random.uniform(1, 2, 144))
    safetensors.numpy.save_file(out, source / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "use_dora": True}
    (source / "adapter_config.json").write_text(json.dumps(config))
    words = ("--config=digits:linear", f"--workdir={tmp_path / 'run'}", "--config.train.steps=2")
    words += ("--config.method.name=dora.DoRA", "--config.method.sites=qkv")
    words += ("--config.method.rank=3", f"--config.train.start={source}", "--config.optim.lr=0.0")
    refused = runs.command(*words)
    assert refused.returncode == 2 and "--config.method.alpha=6" in refused.stderr_text
    done = runs.command(*words, "--config.method.alpha=6")
    assert done.returncode == 0, done.stderr_text
    run = vpjax.load_run(tmp_path / "run")
    folded = vpjax.merge(run.model)
    for i in range(4):
        w = np.asarray(folded.backbone.layers[i].attn.key.kernel[...]).reshape(48, 48)
        magnitude = out[f"base_model.model.blocks.{i}.attn.qkv.lora_magnitude_vector"][48:96]
        np.testing.assert_allclose(np.linalg.norm(w, axis=0), magnitude, rtol=1e-5)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "3", "{", '{"peft_type": ["LORA"]}', '{"peft_type": "LORA"}'),
        *('{"peft_type": "LORA", "r": "4", "lora_alpha": 8}', '{"peft_type": "VERA", "r": null}'),
        '{"peft_type": "LORA", "r": 4, "lora_alpha": {}}',
    ],
)
def test_a_damaged_configuration(tmp_path, content):
    _, arrays = adapter(tmp_path, "lora_fused_qkv")
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(UserError, match=r"adapter_config\.json is damaged"):
        peft_adapter.read(tmp_path, *KINDS["lora_fused_qkv"][1], lengths_of(arrays))


@pytest.mark.parametrize(
    ("last", "shape"),
    [("lora_magnitude_vector", (3,)), ("ia3_l", ()), ("lora_A.weight", ()), ("lora_B.weight", ())],
)
def test_arrays_of_other_shapes(tmp_path, last, shape):
    adapter(tmp_path, "lora_fused_qkv")
    inside = {f"base_model.model.blocks.0.attn.qkv.{last}": np.zeros(shape, np.float32)}
    safetensors.numpy.save_file(inside, tmp_path / "adapter_model.safetensors")
    method, options = KINDS["lora_fused_qkv"][1]
    try:
        _, found = peft_adapter.read(tmp_path, method, options, lambda i, site: np.ones(4))
    except UserError as error:
        assert "cannot be read" in str(error)
    else:  # the run compares shapes
        assert {v.shape for v in found.values()} == {shape}
