"""The floors: the library's steps keep to them, and a step that does more is seen."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import floors, floors_compiled, measure
from tests.helpers.oracles import InsertedVPT, PlainSA2VP
from vpjax.backbones.cnn import CNN
from vpjax.backbones.vit import ViT
from vpjax.methods.combine import combine
from vpjax.methods.da_vpt import DAVPT
from vpjax.methods.finetune import Full, Linear
from vpjax.models.model import Model
from vpjax.models.partition import partition

BATCH = 8
CASES = {case.name: case for case in floors.CASES}
# The compiled step also computes gradients of the first layer's image tokens, which nobody needs:
# below 3 % of twelve layers, more of a few.
WHOLE = ("class token", "VPT shallow 50", "Gate-VPT 50", "input: prepend 50 patches")
WHOLE += ("input: pad 16 pixels",)
SHORT = [n for n in CASES if n not in WHOLE and not n.endswith((" 10", " 100"))]
LAYERS = {"partial-4": 5, "SA2VP": 5}  # some that are frozen; a second receiver and a deep map
TINY = {"dim": 24, "mlp_dim": 48, "heads": 2, "depth": 2, "patch_size": 32}


@functools.cache
def row(name, depth, optimise=False):
    """Counts a model of B's own widths: if nothing is compiled, only its depth costs time."""
    return floors.row_of(CASES[name], "B/16", BATCH, optimise, depth=depth)


def ratios(found, count):
    return [floors.ratio(found, step, count) for step in floors.STEPS]


@pytest.mark.parametrize("name", [*SHORT, *WHOLE])
def test_steps_do_what_must_be_done_and_little_else(name):
    found = row(name, 12 if name in WHOLE else LAYERS.get(name, 3))
    # Formulas and programs are counted apart: neither may be below the other.
    assert min(ratios(found, "compiled_products")) > 0.999
    assert max(ratios(found, "compiled_flops")) < floors.ALLOWED


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VPT deep 50", "VPT shallow 50", "full"])
def test_the_compiled_step_of_the_whole_model_keeps_to_the_floor(name):
    found = row(name, 12, optimise=True)
    assert min(ratios(found, "compiled_products")) > 0.999
    assert max(ratios(found, "compiled_flops")) < floors.ALLOWED


@pytest.mark.parametrize(
    ("name", "cls", "least"), [("VPT deep 50", InsertedVPT, 1.2), ("SA2VP", PlainSA2VP, 1.1)]
)
def test_work_that_need_not_be_done_shows(name, cls, least):
    case = CASES[name]._replace(method=cls)
    found = floors.row_of(case, "B/16", BATCH, optimise=False, depth=3)
    assert min(ratios(found, "compiled_products")) > least
    record = measure.conditions(floors.PACKAGES) | {"batch": BATCH, "rows": [found]}
    assert floors.report(record).splitlines()[-1] == f"Above 1.03: ViT-B/16 {name}."


def test_the_written_table_is_whole(tmp_path):
    record = floors.benchmark(["B/16"], [CASES["linear"]], BATCH, depth=1)
    text = floors.report(record)
    measure.save(tmp_path / "floors.json", record, text)
    kept = json.loads((tmp_path / "floors.json").read_text())
    assert kept["rows"] == record["rows"]
    assert (tmp_path / "floors.md").read_text() == text + "\n"
    assert "| ViT-B/16 | linear" in text
    assert text.endswith("Above 1.03: none.")


def tiny(cls=Linear, backbone=None):
    def make():
        rngs = nnx.Rngs(0)
        body = backbone(rngs=rngs) if backbone else ViT("B/16", 64, **TINY, rngs=rngs)
        return Model(body, cls(body, 5, rngs=rngs))

    return partition(nnx.eval_shape(make))


def count(values):
    return sum(int(np.prod(v.shape)) for v in values)


def test_bytes_are_weights_once_and_what_must_be_kept():
    parts = tiny()
    kernels = {n: v for n, v in parts.frozen.items() if n.endswith("kernel")}
    image, head = 64 * 64 * 3, 4 * 24 * 5
    for dtype, item in (("float32", 4), ("bfloat16", 2)):
        found = floors.of(parts, BATCH, train=False, dtype=dtype).bytes
        assert found == pytest.approx((item * count(kernels.values()) + head) / BATCH + image)
    # The probe keeps nothing of the backbone, and reads and writes its head.
    step = floors.of(parts, BATCH, train=True).bytes - floors.of(parts, BATCH, train=False).bytes
    assert step == pytest.approx(16 * count(parts.trainable.values()) / BATCH)


def test_full_tuning_keeps_every_layer_and_passes_weights_twice():
    parts = tiny(Full)
    tokens, dim, mlp, heads = 5, 24, 48, 2
    first = (6 * dim + mlp) * tokens + heads * tokens  # normed twice, q, k, v, out; before the gelu
    last = tokens * 3 * dim + 3 * dim + mlp + heads  # normed, k, v of all; the rest of one token
    layers = {n: v for n, v in parts.trainable.items() if "layers" in n and n.endswith("kernel")}
    others = count(v for n, v in parts.trainable.items() if n.endswith("kernel"))
    weights = 4 * (others + count(layers.values()) + 24 * 5)  # the head passes a gradient too
    expected = (weights + 16 * count(parts.trainable.values())) / BATCH
    expected += 2 * 4 * (first + last) + 2 * 64 * 64 * 3
    assert floors.of(parts, BATCH, train=True).bytes == pytest.approx(expected)


def test_what_is_done_once_a_batch_is_shared_by_its_images():
    def at(batch, **options):
        parts = floors.take(CASES["VPT deep 50"]._replace(options=options), "B/16", depth=2)[0]
        return floors.of(parts, batch, train=True).flops

    assert at(1) > at(64)
    assert at(1, dropout=0.1) == at(64, dropout=0.1) == at(1)  # prompts of each image


@pytest.mark.parametrize("cls", [DAVPT, combine(("vpt.VPT", "lora.LoRA"))])
def test_methods_without_a_formula_have_no_floor(cls):
    assert floors.of(tiny(cls), BATCH, train=True) is None


def test_other_backbones_have_no_floor_and_no_share():
    assert floors.of(tiny(backbone=CNN), BATCH, train=True) is None
    assert floors.share(None, 100.0, 1e12) is None
    assert floors.percent(None) == "-"
    assert floors.percent(floors.share(floors.Floor(2e9, 1.0), 250.0, 1e12)) == "50.0%"


def products(call, *arguments, optimise=True):
    with measure.precision("float32"):
        return floors_compiled.count(jax.jit(call).lower(*arguments), optimise).products


def test_products_in_loops_and_branches_count_as_often_as_they_run():
    a = jnp.ones((6, 6))

    def turned(a):
        return jax.lax.scan(lambda x, _: (x @ a, None), a, None, length=7)[0]

    assert products(turned, a) == 7 * 2 * 6**3
    assert products(lambda a: jnp.dot(jnp.dot(a, a), a), a, optimise=False) == 2 * 2 * 6**3


def test_convolutions_count_what_windows_have_of_the_image():
    image, kernel = jnp.ones((2, 9, 7, 3)), jnp.ones((3, 3, 3, 4))

    def convolve(image, kernel):
        form = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(image, kernel, (2, 2), [(1, 1)] * 2, None, None, form)
        return (y**2).sum()

    rows = sum(sum(0 <= 2 * o + k - 1 < 9 for k in range(3)) for o in range(5))
    columns = sum(sum(0 <= 2 * o + k - 1 < 7 for k in range(3)) for o in range(4))
    forward = 2 * 2 * rows * columns * 3 * 4
    assert products(convolve, image, kernel, optimise=False) == forward
    grad = jax.grad(convolve, argnums=(0, 1))
    assert products(grad, image, kernel, optimise=False) == 3 * forward
