"""One tiny case a backbone and a method; the contract is tested on every pair."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from vpjax.backbones.bit import BiT
from vpjax.backbones.clip import CLIP
from vpjax.backbones.cnn import CNN
from vpjax.backbones.convnext import ConvNeXt
from vpjax.backbones.hybrid import Hybrid
from vpjax.backbones.resnet import ResNet
from vpjax.backbones.swin import Swin
from vpjax.backbones.swin_v2 import SwinV2
from vpjax.backbones.vit import MAE, MoCoV3, ViT
from vpjax.core import registry
from vpjax.methods.adapter import Adapter
from vpjax.methods.bottleneck import NOAH, AdapterPlus, AdaptFormer, Houlsby, Pfeiffer, Placed
from vpjax.methods.class_texts import ClassTexts, Sentences
from vpjax.methods.clip_adapter import CLIPAdapter
from vpjax.methods.cocoop import CoCoOp
from vpjax.methods.combine import combine
from vpjax.methods.compacter import Compacter
from vpjax.methods.convpass import Convpass, ConvpassAttn
from vpjax.methods.coop import CoOp
from vpjax.methods.cvpt import CVPT
from vpjax.methods.da_vpt import DAVPT
from vpjax.methods.dora import DoRA
from vpjax.methods.e2vpt import E2VPT
from vpjax.methods.fact import TK, TT
from vpjax.methods.finetune import Bias, ClsToken, Full, Linear, Partial
from vpjax.methods.gate_vpt import GateVPT
from vpjax.methods.ia3 import IA3
from vpjax.methods.ivlp import IVLP
from vpjax.methods.layer_norm import LayerNorm
from vpjax.methods.lora import LoRA
from vpjax.methods.maple import MaPLe
from vpjax.methods.mop import MoP
from vpjax.methods.msvp import MSVP, MSVPFrozen
from vpjax.methods.promptsrc import PromptSRC
from vpjax.methods.repadapter import RepAdapter
from vpjax.methods.sa2vp import SA2VP
from vpjax.methods.side import Side
from vpjax.methods.spt import SPT
from vpjax.methods.ssf import SSF
from vpjax.methods.tip_adapter import TipAdapter, TipAdapterF
from vpjax.methods.vera import VeRA
from vpjax.methods.vfpt import VFPT
from vpjax.methods.vit_b4 import Prompts, PromptsFull
from vpjax.methods.vpt import VPT, FrozenPrompts, PromptBias, PromptCls
from vpjax.methods.vpt_clip import VPTCLIP
from vpjax.methods.vpt_input import Add, Below, Pad, PrependPixel
from vpjax.methods.zero_shot import ZeroShot
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge, partition
from vpjax.models.text.tower import TextTower
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.mop_similarity import unit

CLASSES = 5
IMAGE = 16


def tiny_vit(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> ViT:
    return ViT("Ti/4", size, dim=16, mlp_dim=24, heads=2, depth=2, dropout=0.0, rngs=rngs)


def tiny_wide(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> ViT:
    """MLPs are four times as wide as tokens, as FacT needs them."""
    return ViT("Ti/4", size, dim=16, mlp_dim=64, heads=2, depth=2, dropout=0.0, rngs=rngs)


def tiny_mae(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> MAE:
    return MAE("Ti/4", size, dim=16, mlp_dim=24, heads=2, depth=2, drop_path=0.0, rngs=rngs)


def tiny_moco(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> MoCoV3:
    return MoCoV3("Ti/4", size, dim=16, mlp_dim=24, heads=2, depth=2, rngs=rngs)


def tiny_clip(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> CLIP:
    """Features are narrower than tokens."""
    sizes = {"patch_size": 4, "dim": 16, "mlp_dim": 24, "heads": 2, "depth": 2, "joint_dim": 12}
    return CLIP("B/16", size, **sizes, rngs=rngs)


def tiny_towers(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> CLIP:
    """Features are wide enough for CoCoOp's network to have two hidden values."""
    sizes = {"patch_size": 4, "dim": 16, "mlp_dim": 24, "heads": 2, "depth": 2, "joint_dim": 32}
    return CLIP("B/16", size, **sizes, rngs=rngs)


def tiny_texts(rngs: nnx.Rngs, sentences: Sentences, dim: int) -> ClassTexts:
    """A text tower of `dim` with texts of 5 classes; names have 1 to 3 tokens."""
    sizes = {"vocab": 20, "context": 12, "dim": 8, "mlp_dim": 12, "heads": 2, "depth": 2}
    tower = TextTower(**sizes, joint_dim=dim, rngs=rngs)
    names = [[5], [6, 7], [8], [9, 10, 11], [12]]
    context = [2] * len(sentences.context.split())
    rows = [[18, *context, *name, 1, 19] for name in names]
    ids = np.zeros((CLASSES, max(map(len, rows))), np.int32)
    for row, own in zip(ids, rows, strict=True):
        row[: len(own)] = own
    targets = np.asarray(unit(jax.random.normal(rngs.params(), (CLASSES, dim))))
    return ClassTexts(tower, 10.0, ids, np.array([len(name) for name in names]), targets)


def tiny_convnext(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> ConvNeXt:
    return ConvNeXt("T", size, dims=(8, 12), depths=(1, 2), layer_scale=0.5, rngs=rngs)


def tiny_resnet(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> ResNet:
    return ResNet("50", size, widths=(4, 6), depths=(1, 2), expansion=2, rngs=rngs)


def tiny_cnn(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> CNN:
    return CNN(size, width=3, dropout=(0.0, 0.0), rngs=rngs)


def tiny_swin(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> Swin:
    """Four windows, then one."""
    return Swin("T", size, window=2, embed_dim=8, depths=(2, 2), heads=(2, 4), rngs=rngs)


def tiny_swin_v2(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> SwinV2:
    sizes = {"window": 2, "embed_dim": 8, "depths": (2, 2), "heads": (2, 4)}
    return SwinV2("T", size, pretrained_windows=3, rngs=rngs, **sizes)


def tiny_bit(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> BiT:
    return BiT("50x1", size, widths=(4, 6), depths=(1, 2), groups=2, rngs=rngs)


def tiny_hybrid(rngs: nnx.Rngs, size: tuple[int, int] = (IMAGE, IMAGE)) -> Hybrid:
    sizes = {"dim": 16, "mlp_dim": 24, "heads": 2, "depth": 2, "dropout": 0.0}
    root = {"stage_depths": (1,), "stage_widths": (4,), "stem_dim": 4, "groups": 2}
    return Hybrid("Ti/4", size, rngs=rngs, **sizes, **root)


BACKBONES = {
    "vit": tiny_vit,
    "vit_wide": tiny_wide,
    "mae": tiny_mae,
    "moco": tiny_moco,
    "clip": tiny_clip,
    "clip_towers": tiny_towers,
    "swin": tiny_swin,
    "swin_v2": tiny_swin_v2,
    "convnext": tiny_convnext,
    "resnet": tiny_resnet,
    "bit": tiny_bit,
    "hybrid": tiny_hybrid,
    "cnn": tiny_cnn,
}
METHODS = {
    "linear": (Linear, {}),
    "mlp_head": (Linear, {"head_hidden": 1}),
    "full": (Full, {}),
    "bias": (Bias, {}),
    "partial": (Partial, {}),
    "cls_token": (ClsToken, {}),
    "adapter": (Adapter, {"reduction": 4}),
    "side": (Side, {"widths": (2, 2, 2, 2, 3)}),
    "lora": (LoRA, {"rank": 2}),
    "lora_fused_dropout": (LoRA, {"sites": "qkv+proj+fc1+fc2", "rank": 2, "dropout": 0.3}),
    "dora": (DoRA, {"rank": 2, "sites": "all"}),
    "vera": (VeRA, {"rank": 3}),
    "ia3": (IA3, {}),
    "ssf": (SSF, {}),
    "fact_tt": (TT, {"rank": 2}),
    "fact_tk": (TK, {"rank": 2}),
    "lora_mlp": (LoRA, {"rank": 2, "sites": "fc1+fc2"}),
    "dora_mlp": (DoRA, {"rank": 2, "sites": "fc1"}),
    "vera_mlp": (VeRA, {"rank": 3, "sites": "fc1+fc2"}),
    "ia3_mlp": (IA3, {"sites": "fc2"}),
    "layer_norm": (LayerNorm, {}),
    "adapter_placed": (Placed, {"position": "pre", "rank": 2}),
    "adapter_plus": (AdapterPlus, {"rank": 2}),
    "adapt_former": (AdaptFormer, {"rank": 2}),
    "houlsby": (Houlsby, {"rank": 2}),
    "pfeiffer": (Pfeiffer, {"rank": 2}),
    "noah": (NOAH, {"rank": 2}),
    "compacter": (Compacter, {"rank": 4, "n": 2}),
    "convpass": (Convpass, {"rank": 2}),
    "convpass_attn": (ConvpassAttn, {"rank": 2}),
    "repadapter": (RepAdapter, {"rank": 2}),
    "vpt_shallow": (VPT, {"num_tokens": 3, "deep": False}),
    "vpt_deep": (VPT, {"num_tokens": 3}),
    "vpt_deep_dropout": (VPT, {"num_tokens": 3, "dropout": 0.3}),
    "vpt_deep_project": (VPT, {"num_tokens": 3, "projection_dim": 4}),
    "vpt_deep_pool": (VPT, {"num_tokens": 3, "pool": "prompt"}),
    "vpt_first": (VPT, {"num_tokens": 3, "num_deep_layers": 1}),
    "vpt_last": (VPT, {"num_tokens": 3, "num_deep_layers": 1, "reverse_deep": True}),
    "vpt_bias": (PromptBias, {"num_tokens": 3}),
    "vpt_cls": (PromptCls, {"num_tokens": 3}),
    "vpt_frozen": (FrozenPrompts, {"num_tokens": 3}),
    "vit_b4_prompts": (Prompts, {"num_tokens": 3}),
    "vit_b4_prompts_full": (PromptsFull, {"num_tokens": 3}),
    "e2vpt": (E2VPT, {"num_tokens": 3, "num_kv_tokens": 2, "masks": True, "pieces": 4}),
    "vfpt": (VFPT, {"num_tokens": 4}),
    "gate_vpt": (GateVPT, {"num_tokens": 3, "gate_init": 0.0}),
    "spt": (SPT, {"num_tokens": 3}),
    "da_vpt": (DAVPT, {"num_tokens": 3, "num_proxies": 2}),
    "cvpt": (CVPT, {"num_tokens": 3}),
    "vpt_and_lora": (combine(("vpt.VPT", "lora.LoRA")), {"num_tokens": 3, "rank": 2}),
    "adapter_and_norms": (combine(("adapter.Adapter", "layer_norm.LayerNorm")), {"reduction": 4}),
    "add": (Add, {}),
    "prepend_pixel": (PrependPixel, {"num_tokens": 2}),
    "pad": (Pad, {"num_tokens": 2}),
    "below": (Below, {"num_tokens": 2}),
    "sa2vp": (SA2VP, {"inter_dim": 4, "inter_weight": 0.5}),
    "mop": (MoP, {"num_prompts": 2, "temp_cls": 1.0}),
    "coop": (CoOp, {"num_tokens": 2}),
    "coop_csc": (CoOp, {"num_tokens": 3, "class_specific": True, "position": "middle"}),
    "cocoop": (CoCoOp, {"num_tokens": 2}),
    "vpt_clip": (VPTCLIP, {"num_tokens": 2, "depth": 1}),
    "ivlp": (IVLP, {"text_depth": 2, "vision_depth": 2}),
    "maple": (MaPLe, {"depth": 2}),
    "promptsrc": (PromptSRC, {"text_tokens": 2, "text_depth": 1, "vision_depth": 1}),
    "msvp": (MSVP, {"fusion_type": "gated"}),
    "msvp_frozen": (MSVPFrozen, {"fusion_type": "concat"}),
    "zero_shot": (ZeroShot, {}),
    "clip_adapter": (CLIPAdapter, {"ratio": 0.6}),
    "tip_adapter": (TipAdapter, {"shots": 2}),
    "tip_adapter_f": (TipAdapterF, {"shots": 2}),
}
# Every method on a ViT; on every other backbone one method of each kind that suits it.
ANYWHERE = ("linear", "full", "bias", "partial", "msvp_frozen")
WIDE = ("fact_tt", "fact_tk")
TOWERS = ("coop", "coop_csc", "cocoop", "vpt_clip", "ivlp", "maple", "promptsrc")
# Small parts in blocks of a transformer; on every kind of transformer, but what needs its widths or
# the place of its norms.
PEFT = ("lora", "lora_fused_dropout", "dora", "vera", "ia3", "ssf", "layer_norm", "repadapter")
PEFT += ("adapter_placed", "adapter_plus", "adapt_former", "houlsby", "pfeiffer", "noah")
PEFT += ("compacter", "convpass", "convpass_attn")
AFTER = tuple(m for m in PEFT if m != "repadapter")  # where norms follow attention and MLP
ON_MLPS = ("lora_mlp", "dora_mlp", "vera_mlp", "ia3_mlp", "layer_norm", "adapter_plus")
ON_MLPS += ("adapt_former", "pfeiffer", "noah")
WITH_TEXTS = ("zero_shot", "clip_adapter", "tip_adapter", "tip_adapter_f")  # on CLIP only
SOME = ANYWHERE + ("adapter", "vpt_shallow", "vpt_deep")
CONV = ANYWHERE + ("pad", "below")
ON_CLIP = (*SOME, "cls_token", "vpt_deep_pool", "pad", "sa2vp", "mop", *WITH_TEXTS)
ON_VIT = ("e2vpt", "vfpt", "gate_vpt", "spt", "da_vpt", "cvpt")  # prompt methods of every ViT
SUITED = {
    "vit": tuple(m for m in METHODS if m not in (*WIDE, *TOWERS, *WITH_TEXTS)),
    "vit_wide": WIDE,
    "clip_towers": TOWERS,
    "mae": (*SOME, *PEFT, *ON_VIT),
    "moco": (*SOME, *PEFT, *ON_VIT),
    "clip": (*ON_CLIP, *PEFT, *ON_VIT),
    "swin": (*SOME, "sa2vp", *PEFT, "e2vpt", "vfpt", "spt", "cvpt"),
    "swin_v2": (*SOME, "sa2vp", *AFTER, "vfpt", "spt"),
    "convnext": (*CONV, *ON_MLPS),
    "resnet": CONV,
    "bit": CONV,
    "hybrid": (*SOME, "sa2vp", "pad", "below", *PEFT, *ON_VIT),
    "cnn": ("full", "partial", "below", "msvp", "msvp_frozen"),
}
# What PEFT methods refuse, in one sentence that names another method.
REFUSED = [
    (b, m)
    for b in BACKBONES
    for m in (*PEFT, *WIDE)
    if m not in SUITED[b] and b not in ("vit_wide", "clip_towers")
]
# What works, and cannot be folded into weights: no place behind the last norm, or no bias.
UNFOLDED = [("ssf", b) for b in ("mae", "clip", "swin_v2", "hybrid")]
PAIRS = [(b, m) for b in BACKBONES for m in SUITED.get(b, SOME)]
# What is compiled once more, for 8 devices or rematerialised: methods that differ in how they run.
RUN_ALIKE = ("mlp_head", "cls_token", "vpt_deep_project", "vpt_last", "vpt_bias", "vpt_cls")
RUN_ALIKE += ("linear", "bias", "vpt_frozen", "prepend_pixel", "vpt_first")
RUN_ALIKE += ("vit_b4_prompts", "vit_b4_prompts_full", "msvp_frozen")
KEY_PAIRS = [(b, m) for b, m in PAIRS if m not in RUN_ALIKE and b not in ("mae", "moco", "clip")]
# Every method and every backbone once; the other pairs are for slow tests.
FIRST = {b: (b, "vpt_deep" if "vpt_deep" in SUITED.get(b, SOME) else "full") for b in BACKBONES}
FIRST |= {"vit_wide": ("vit_wide", "fact_tt"), "clip_towers": ("clip_towers", "coop")}
# Most methods act through a few hooks; these stand for the others in the daily run.
ALIKE = {*PEFT, *WIDE, *ON_MLPS, *ON_VIT, *TOWERS, *WITH_TEXTS, "adapter_and_norms"}
ALIKE -= {"e2vpt", "coop", "tip_adapter_f"}
ELSEWHERE = ("full", "vpt_deep", "sa2vp", "pad", "msvp")  # on other backbones than ViTs
QUICK = {(b, m) for b, m in KEY_PAIRS if b == "vit" or m in ELSEWHERE}
QUICK |= {*FIRST.values(), *{m: (b, m) for b, m in reversed(PAIRS)}.values()}
QUICK -= {(b, m) for b, m in QUICK if m in ALIKE}


def marked(pairs: list) -> list:
    """Returns pairs as parameters of a test, slow ones marked."""
    return [pytest.param(*p, marks=[] if p in QUICK else pytest.mark.slow) for p in pairs]


@functools.cache
def make(backbone: str, method: str, cls: type | None = None, **options: Any) -> ModelParts:
    """Returns a case taken apart. Its head is drawn, so that no gradient is zero by a zero head.

    `cls` and `options` replace the case's own.
    """
    rngs = nnx.Rngs(0)
    own, own_options = METHODS[method]
    cls = cls or own
    drawn = {"head_init": "classes"} if "head_init" in registry.options(cls) else {}
    options = own_options | drawn | options
    body = BACKBONES[backbone](rngs, cls.input_size((IMAGE, IMAGE), options))
    texts = {}
    if cls.learns_texts:
        usual = {k: p.default for k, p in registry.options(cls).items()}
        texts["texts"] = tiny_texts(rngs, cls.sentences(usual | options), body.dim)
    made = cls(body, CLASSES, rngs=rngs, **options, **texts)
    if isinstance(made, TipAdapter):  # as if its cache held images
        made.filled[...] = jax.numpy.ones(made.filled.shape)
    return partition(Model(body, made))


def outputs(parts: ModelParts, images: Any, ctx: Context = EVALUATION, remat: str = "none") -> dict:
    """Runs the model of some parts, compiled."""
    graph = parts.graph

    def call(trainable, stats, frozen, images):
        return merge(graph, trainable, stats, frozen)(images, ctx, remat)

    return jax.jit(call)(*parts[1:], images)
