"""Trainable parameters of ViT-B/16 without the head, as the published code of each method has."""

import pytest

from tests.methods.test_counts import counts
from vpjax.backbones.vit import ViT
from vpjax.methods.bottleneck import AdapterPlus, AdaptFormer, Houlsby, Pfeiffer
from vpjax.methods.convpass import Convpass, ConvpassAttn
from vpjax.methods.dora import DoRA
from vpjax.methods.fact import TK, TT
from vpjax.methods.ia3 import IA3
from vpjax.methods.layer_norm import LayerNorm
from vpjax.methods.lora import LoRA
from vpjax.methods.repadapter import RepAdapter
from vpjax.methods.ssf import SSF
from vpjax.methods.vera import VeRA

HEAD = 76_900  # of 100 classes
COUNTS = [
    (LoRA, {"rank": 4}, 147_456),
    (LoRA, {}, 294_912),
    (LoRA, {"rank": 16}, 589_824),
    (LoRA, {"sites": "q+k+v"}, 442_368),
    (LoRA, {"sites": "all"}, 1_327_104),
    (LoRA, {"sites": "qkv"}, 294_912),
    (LoRA, {"sites": "qkv+proj+fc1+fc2"}, 1_179_648),
    (DoRA, {}, 313_344),
    (DoRA, {"sites": "all"}, 1_410_048),
    (IA3, {}, 55_296),
    (VeRA, {}, 24_576),
    (VeRA, {"sites": "all"}, 101_376),
    (LayerNorm, {}, 38_400),
    (LayerNorm, {"norms": "blocks"}, 36_864),
    (SSF, {}, 205_824),
    (AdaptFormer, {"rank": 8}, 156_768),
    (AdaptFormer, {}, 1_189_632),
    (AdapterPlus, {"rank": 1}, 36_876),
    (AdapterPlus, {}, 165_984),
    (AdapterPlus, {"rank": 16}, 313_536),
    (Houlsby, {"rank": 4}, 165_984 + 38_400),
    (Houlsby, {}, 313_536 + 38_400),
    (Pfeiffer, {}, 175_200),
    (Convpass, {}, 327_552),
    (ConvpassAttn, {}, 163_776),
    (RepAdapter, {}, 239_808),
    (RepAdapter, {"attention_only": True}, 119_904),
    (TT, {"rank": 4}, 8_448),
    (TT, {"rank": 8}, 21_504),
    (TT, {}, 61_440),
    (TK, {"rank": 8}, 13_952),
    (TK, {"rank": 16}, 30_976),
    (TK, {}, 86_528),
]


@pytest.mark.parametrize(("cls", "options", "count"), COUNTS)
def test_vit_b(cls, options, count):
    assert counts(ViT, "B/16", cls, **options)[0] - HEAD == count
