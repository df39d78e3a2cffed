"""Where arrays live: meshes, frozen layers split over devices, and runs that use them."""

import functools
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from tests.helpers import cases, runs
from tests.helpers.runs import config, digests, result
from vpjax.core import distributed
from vpjax.core.errors import UserError
from vpjax.models.partition import merge, partition
from vpjax.nn import fsdp
from vpjax.report.plots.subject import watched
from vpjax.runs.experiment import prepare
from vpjax.runs.fit import fit
from vpjax.runs.history import read_history
from vpjax.runs.scores import evaluate_run
from vpjax.train import sharding
from vpjax.train.step import init_state, make_train_step

# Kernels of the tiny ViT: query, key, value, out, fc1 and fc2 of two layers.
KERNELS = 12


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@functools.cache
def parts(method="vpt_deep", split=True):
    found = cases.make("vit", method)
    return partition(merge(*found), mesh=sharding.make_mesh(8)) if split else found


def compiled(method, remat, split=True):
    mesh, made, optimizer = sharding.make_mesh(8), parts(method, split), optax.sgd(0.1)
    state = sharding.replicate(init_state(made.trainable, made.stats, optimizer, 0), mesh)
    frozen = sharding.place(made.frozen, mesh, {}, frozen=split)
    step = make_train_step(
        made.graph, optimizer, lambda batch, key: batch["image"] / 255.0, 1, remat
    )
    images = np.zeros((8, cases.IMAGE, cases.IMAGE, 3), np.uint8)
    batch = {"image": images, "label": np.zeros(8, np.int32), "mask": np.ones(8, bool)}
    batch = sharding.put_batch(batch, mesh)
    return step.lower(state, frozen, batch).compile(), (state, frozen, batch)


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("method", ["vpt_deep", "bias"])
def test_split_layers_are_gathered_twice_and_nothing_else_travels(method, remat):
    step, (state, frozen, batch) = compiled(method, remat)
    text = step.as_text()
    count = lambda kind: text.count(f" {kind}(") + text.count(f" {kind}-start(")  # noqa: E731
    # Once forward and once back: a gathered matrix that were kept would be gathered once. The last
    # layer back is followed by nothing, so a compiler may take the one it still has.
    assert 1.5 * KERNELS < count("all-gather") <= 2 * KERNELS
    assert count("all-reduce") in (1, 2)
    for kind in ("all-to-all", "collective-permute", "reduce-scatter"):
        assert count(kind) == 0, kind
    before = jax.tree.map(lambda x: x.sharding, state)
    after, _ = step(state, frozen, batch)
    same = lambda a, b: a.is_equivalent_to(b.sharding, b.ndim)  # noqa: E731
    assert all(jax.tree.leaves(jax.tree.map(same, before, after)))


def test_what_is_split_is_a_matrix_of_a_frozen_layer():
    mesh = sharding.make_mesh(8)
    spec = functools.partial(fsdp.partition_spec, mesh=mesh)
    assert spec("backbone/layers/1/attn/query/kernel", (16, 2, 8)) == PartitionSpec("data")
    assert spec("backbone/layers/1/attn/out/kernel", (2, 8, 16)) == PartitionSpec(None, "data")
    assert spec("backbone/layers/1/mlp/fc1/kernel", (12, 20)) is None  # of no axis an eighth
    assert spec("backbone/layers/1/attn/query/bias", (8, 8)) is None
    assert spec("backbone/patch_embed/kernel", (16, 16, 3, 64)) is None
    assert spec("method/head/kernel", (64, 64)) is None
    two = sharding.make_mesh(4, model=2)
    both = PartitionSpec(("data", "model"))
    assert fsdp.partition_spec("backbone/layers/0/mlp/fc1/kernel", (16, 24), two) == both
    frozen = sharding.place(parts().frozen, mesh, {}, frozen=True)
    split = {n for n, v in frozen.items() if v.sharding.spec != PartitionSpec()}
    assert len(split) == KERNELS
    for name in split:
        assert all(8 * s.data.size == frozen[name].size for s in frozen[name].addressable_shards)
    model = merge(*parts())
    assert all(len(layer.shards.names) == KERNELS // 2 for layer in model.backbone.layers)
    everything = merge(*parts("full"))
    assert not any(map(fsdp.is_split, everything.backbone.layers))


def test_pictures_look_into_split_layers():
    """What a picture takes out of a layer is there after it, also where layers are gathered."""
    images = np.random.default_rng(0).random((8, cases.IMAGE, cases.IMAGE, 3), np.float32)

    def seen(made, split):
        @jax.jit
        def call(trainable, stats, frozen, images):
            model, found = merge(made.graph, trainable, stats, frozen), []

            def see(site, y, ctx):
                found.append(y)
                return y

            watched(model, images, see)
            return found

        frozen = sharding.place(made.frozen, sharding.make_mesh(8), {}, frozen=split)
        return call(made.trainable, made.stats, frozen, images)

    for a, b in zip(seen(parts(split=False), False), seen(parts(), True), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_run_with_split_layers_is_the_run_without(tmp_path):
    plain, split = tmp_path / "plain", tmp_path / "split"
    fit(config(), plain)
    fit(config(mesh={"fsdp": True}), split)
    for a, b in zip(*(read_history(f / "metrics.jsonl") for f in (plain, split)), strict=True):
        for key in a.keys() & {"loss", "val_loss"}:
            assert a[key] == pytest.approx(b[key], rel=1e-5)
    assert evaluate_run(split)["test_accuracy"] == result(plain)["test_accuracy"]
    # Checkpoints know nothing of it: without it the run goes on where it was.
    (split / "result.json").unlink()
    fit(config(mesh={"fsdp": False, "data": 1}), split)
    assert digests(split)["weights"]
    assert result(split)["devices"] == ["cpu"]
    assert result(split)["test_loss"] == pytest.approx(result(plain)["test_loss"], rel=1e-5)


def test_loaded_weights_go_to_the_devices_in_parts():
    made = prepare(config("linear", mesh={"fsdp": True}))
    kernel = made.frozen["backbone/layers/0/mlp/fc1/kernel"]
    assert {s.data.shape for s in kernel.addressable_shards} == {(6, 192)}
    plain = prepare(config("linear"))
    np.testing.assert_array_equal(kernel, plain.frozen["backbone/layers/0/mlp/fc1/kernel"])
    assert sum(map(fsdp.is_split, merge(*made.parts).backbone.layers)) == 4
    assert not any(map(fsdp.is_split, merge(*plain.parts).backbone.layers))


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        (9, 1, "there are 8 devices"),
        (3, 4, "mesh.data is 3 and mesh.model 4, but there are 8"),
        (-1, 9, "there are 8 devices"),
        (-1, -1, "both -1"),
        (0, 1, "mesh.data is 0"),
        (4, -2, "mesh.model is -2"),
    ],
)
def test_meshes_that_cannot_be(data, model, message):
    with pytest.raises(UserError, match=message):
        sharding.make_mesh(data, model=model)


def test_meshes_compose(monkeypatch):
    assert sharding.make_mesh().shape == {"data": 8}
    assert sharding.make_mesh(model=2).shape == {"data": 4, "model": 2}
    assert sharding.make_mesh(2, model=-1).shape == {"data": 2, "model": 4}
    assert sharding.make_mesh(2).shape == {"data": 2}
    monkeypatch.setattr(distributed, "count", lambda: 2)
    with pytest.raises(UserError, match="all must be used"):
        sharding.make_mesh(4)


MEMORY = """
import jax, optax
from tests.train import test_sharding as t
from vpjax.backbones.vit import ViT
t.cases.BACKBONES["vit"] = lambda rngs, size: ViT(
    "Ti/4", size, dim=128, mlp_dim=512, heads=4, depth=8, dropout=0.0, rngs=rngs
)
for remat in ("none", "dots"):
    for split in (False, True):
        memory = t.compiled("vpt_deep", remat, split)[0].memory_analysis()
        print(memory.argument_size_in_bytes, memory.temp_size_in_bytes)
"""


@pytest.mark.slow
def test_few_layers_are_whole_at_a_time():
    """By default XLA on CPU schedules for speed alone, and gathers all there is at once."""
    flags = "--xla_force_host_platform_device_count=8"
    flags += " --xla_cpu_enable_concurrency_optimized_scheduler=false"
    env = runs.os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(runs.HOME)}
    done = subprocess.run([sys.executable, "-c", MEMORY], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    layer = 12 * 128 * 128 * 4  # bytes of its matrices
    for (plain, busy), (split, busy_split) in zip(lines[::2], lines[1::2], strict=True):
        assert plain - split > 0.8 * 8 * layer * 7 / 8
        assert busy_split - busy < 2.5 * layer
