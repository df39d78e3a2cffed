"""Trainable and total parameters of full-size models, as the published code counts them.

Shapes only: nothing is drawn. More of Swin, MAE and MoCo v3 are beside their backbones' tests.
"""

import pytest
from flax import nnx

from vpjax.backbones.vit import MAE, MoCoV3, ViT
from vpjax.methods.adapter import Adapter
from vpjax.methods.finetune import Bias, ClsToken, Full, Linear, Partial
from vpjax.methods.vpt import VPT, FrozenPrompts, PromptBias
from vpjax.models.model import Model
from vpjax.models.partition import partition


def counts(backbone, variant, cls, classes=100, **options):
    def make():
        rngs = nnx.Rngs(0)
        body = backbone(variant, rngs=rngs)
        return Model(body, cls(body, classes, rngs=rngs, **options))

    parts = partition(nnx.eval_shape(make))
    size = lambda part: sum(v.size for v in part.values())  # noqa: E731
    return size(parts.trainable), size(parts.trainable) + size(parts.frozen)


@pytest.mark.parametrize(
    ("cls", "options", "trainable", "total"),
    [
        (Linear, {}, 76_900, 85_875_556),
        (Full, {}, 85_875_556, 85_875_556),
        (Partial, {"num_layers": 1}, 7_166_308, 85_875_556),
        (Partial, {"num_layers": 2}, 14_254_180, 85_875_556),
        (Partial, {"num_layers": 4}, 28_429_924, 85_875_556),
        (Bias, {}, 179_812, 85_875_556),
        (Adapter, {"reduction": 8}, 1_856_740, 87_655_396),
        (Adapter, {"reduction": 64}, 307_444, 86_106_100),
        (Adapter, {"reduction": 256}, 141_448, 85_940_104),
        (ClsToken, {}, 77_668, 85_875_556),
        (Linear, {"head_hidden": 2}, 1_261_156, 87_059_812),
        (VPT, {"num_tokens": 100, "deep": False}, 153_700, 85_952_356),
        (VPT, {"num_tokens": 100}, 998_500, 86_797_156),
        (PromptBias, {"num_tokens": 100}, 1_101_412, 86_797_156),
        (FrozenPrompts, {"num_tokens": 100}, 76_900, 86_797_156),
    ],
)
def test_vit_b(cls, options, trainable, total):
    assert counts(ViT, "B/16", cls, **options) == (trainable, total)


@pytest.mark.parametrize(
    ("variant", "cls", "options", "trainable", "total"),
    [
        ("L/16", VPT, {"num_tokens": 100, "deep": False}, 204_900, 303_506_532),
        ("L/16", VPT, {"num_tokens": 100}, 2_560_100, 305_861_732),
        ("L/16", Bias, {}, 374_884, 303_404_132),
        ("H/14", VPT, {"num_tokens": 100, "deep": False}, 256_100, 631_020_900),
        ("H/14", VPT, {"num_tokens": 100}, 4_224_100, 634_988_900),
        ("H/14", Bias, {}, 581_220, 630_892_900),
    ],
)
def test_larger_vits(variant, cls, options, trainable, total):
    assert counts(ViT, variant, cls, **options) == (trainable, total)


@pytest.mark.parametrize(
    ("classes", "num_tokens", "trainable", "total"),
    [
        (6, 100, 926_214, 86_724_870),  # DMLab
        (10, 100, 929_290, 86_727_946),  # EuroSAT
        (397, 5, 351_373, 86_150_029),  # Sun397
    ],
)
def test_the_authors_notebook(classes, num_tokens, trainable, total):
    assert counts(ViT, "B/16", VPT, classes, num_tokens=num_tokens) == (trainable, total)


@pytest.mark.parametrize("backbone", [MAE, MoCoV3])
@pytest.mark.parametrize(("deep", "trainable"), [(False, 84_580), (True, 169_060)])
def test_prompts_on_self_supervised_vits(backbone, deep, trainable):
    total = 85_875_556 + trainable - 76_900
    assert counts(backbone, "B/16", VPT, num_tokens=10, deep=deep) == (trainable, total)
