"""SA2VP as the fixtures have it: its model, its names, its masks."""

import dataclasses
import re
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax import nnx

from tests.golden import swin, vit
from tests.golden.record import NotUnderstood, Record, under
from vpjax.backbones.swin import Swin
from vpjax.backbones.vit import ViT
from vpjax.methods.sa2vp import IMAGE, PROMPT, SA2VP
from vpjax.models.model import Model
from vpjax.nn.context import Context

COPIES = {
    "attention_norm": "attention_norm",
    "attn.to_q": "attn.query",
    "attn.to_k": "attn.key",
    "attn.to_v": "attn.value",
    "attn.to_out": "attn.out",
}
SWIN_COPIES = {"attention_norm": "norm1", "attn.qkv": "attn.qkv", "attn.to_out": "attn.proj"}
SITES = {"mlp.fc1": "mlp_act", "mlp.fc2": "mlp_out", "cross.out": "attn_out"}
SITES |= {"adapter.fc1": "adapter_act", "adapter.fc2": "adapter_out"}


def build(meta: Record, rate: float) -> Model:
    """Return the model of a case with dropout of this rate, its parameters random."""
    rngs, family = nnx.Rngs(0), family_of(meta)
    if family is swin:
        body = Swin(
            "B",
            meta["image_size"],
            window=meta["window"],
            patch_size=meta["patch"],
            embed_dim=meta["embed_dim"],
            depths=tuple(meta["depths"]),
            heads=tuple(meta["heads"]),
            drop_path=meta.get("drop_path", 0.0),
            rngs=rngs,
        )
    else:
        body = ViT(
            f"B/{meta['patch']}",
            meta["image_size"],
            dim=meta["hidden"],
            mlp_dim=meta["mlp"],
            heads=meta["heads"],
            dropout=rate,
            rngs=rngs,
        )
    method = Recorded(
        body,
        meta["classes"],
        inter_dim=meta["inter_dim"],
        inter_weight=meta["inter_weight"],
        branch_weights=tuple(meta["branch_weights"]),
        cross_attn="acc" if meta.get("acc") else "aligned",
        dropout=rate,
        rngs=rngs,
    )
    if {body.sites[i].stage for i in method.at} != {meta.get("cross_stage", 0)}:
        raise NotUnderstood(f"streams that meet in stage {meta['cross_stage']}")
    return Model(body, method)


def family_of(meta: Record) -> ModuleType:
    """Return the module that knows the backbone's names."""
    meta.expect("method", "sa2vp-vit", "sa2vp-swin")
    return {"sa2vp-vit": vit, "sa2vp-swin": swin}[meta["method"]]


class Recorded(SA2VP):
    """SA2VP that writes what it computes into `seen`, a dictionary set within one trace."""

    seen: Any = None

    def note(self, name: str, ctx: Context, value: jax.Array) -> jax.Array:
        """Keep a value by the fixtures' name and the number of the interaction."""
        if self.seen is not None and ctx.layer in self.at:
            self.seen[name.format(self.at.index(ctx.layer))] = value
        return value

    def start(self, backbone, images, ctx):
        state = super().start(backbone, images, ctx)
        if self.seen is not None:
            self.seen |= {"embed": state[IMAGE].x, "embed_prompt": state[PROMPT].x}
            self.seen["patch_embed_prompt"] = state[PROMPT].x[0]
            self.seen["patch_embed_image_token0"] = state[IMAGE].x[:, 0]
        return state

    def apply_layer(self, layer, state, ctx):
        after, heads = super().apply_layer(layer, state, ctx)
        self.note("block_{}_image", ctx, after[IMAGE].x)
        self.note("block_{}_prompt", ctx, after[PROMPT].x)
        return after, heads

    def cross(self, layer, own, other, heads, ctx):
        return self.note("cross_attn_{}", ctx, super().cross(layer, own, other, heads, ctx))

    def fuse(self, own, read, ctx):
        return self.note("fusion_{}", ctx, super().fuse(own, read, ctx))

    def apply_to_prompts(self, layer, prompt, ctx):
        tokens = super().apply_to_prompts(layer, prompt, ctx)
        self.note("block_{}_deep", ctx, tokens.x)
        return tokens


@dataclasses.dataclass(frozen=True)
class Masked(Context):
    """A context whose masks are recorded ones: a missing mask is an error, not a draw."""

    masks: Any = None
    places: Any = None  # layer -> (stage, block, number of the interaction or None)
    stream: str = "image"

    def branch(self, tag: str) -> "Masked":
        """Return a context with the masks of another stream."""
        return dataclasses.replace(self, stream=tag)

    def dropout(self, x: jax.Array, rate: float, tag: str) -> jax.Array:
        """Apply the mask of a site."""
        if rate == 0:
            return x
        if tag == "embed":
            return self.apply(x, rate, "embed/{}")
        _, _, meeting = self.places[self.layer]
        if not tag.startswith("mlp"):
            return self.apply(x, rate, f"cross{meeting}/{SITES[tag]}")
        return self.apply(x, rate, f"layer{self.layer}/{{}}/{SITES[tag]}")

    def drop_path(self, x: jax.Array, rate: float, tag: str) -> jax.Array:
        """Apply the mask of a branch, one number an image."""
        if rate == 0:
            return x
        stage, block, _ = self.places[self.layer]
        return self.apply(x, rate, f"droppath/stage{stage}/block{block}/{{}}/{tag}")

    def apply(self, x: jax.Array, rate: float, name: str) -> jax.Array:
        """Apply a mask; streams that pass a layer together are stacked image by image."""
        mask = self.masks[name.format(self.stream)]
        if len(x) == 2 * len(mask):
            both = [self.masks[name.format(stream)] for stream in ("image", "prompt")]
            mask = np.stack(both, axis=1).reshape(len(x), *mask.shape[1:])
        if mask.ndim > 1:
            mask = mask[:, : x.shape[1]]  # the last layer computes what is read
        mask = mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
        return x * mask / (1 - rate)


def places(model: Model) -> dict[int, tuple]:
    """Return stage, block and number of the interaction (or None) of every layer."""
    at, counts, out = model.method.at, {}, {}
    for site in model.backbone.sites:
        block = counts[site.stage] = counts.get(site.stage, -1) + 1
        out[site.index] = (site.stage, block, at.index(site.index) if site.index in at else None)
    return out


def gather(model: Model, arrays: Record, prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose name begins with `prefix`, by our names."""
    out = {}
    for name, value in under(arrays, prefix).items():
        if not copied(f"param/{name}"):
            out |= translate(model, name, value)
    return out


def translate(model: Model, name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """Bring one parameter to our names and shapes."""
    kind = "kernel" if name.endswith("weight") else "bias"
    name = name.removeprefix("vit_base.")
    if name.startswith("class_head."):
        return {f"method/head/{kind}": value.T}
    if name.endswith(("embeddings.ppt", "patch_embed.deep_ppt")):
        return {"method/prompt/map": value[0]}
    if "ppt_proj." in name or "proj_ppt." in name:
        return {f"method/prompt/up/{kind}": value.T}
    again = [i for i in model.method.to_prompt if str(i) in model.method.deep]
    if name.endswith("cross_conv"):
        return {f"method/deep/{i}/weight": v for i, v in zip(again, value, strict=True)}
    if name.endswith("encoder.deep_ppt"):
        return {f"method/deep/{i}/prompt/map": v[0] for i, v in zip(again, value, strict=True)}
    if m := re.search(r"deep_proj\.(\d)\.", name):
        return {f"method/deep/{again[int(m[1])]}/prompt/up/{kind}": value.T}
    if m := re.search(r"cross_attn\.(\d+)\.ffn(_norm|\.fc\d)\.", name):
        part = "norm" if m[2] == "_norm" else m[2].removeprefix(".")
        kind = "scale" if part == "norm" and kind == "kernel" else kind
        return {f"method/adapters/{model.method.at[int(m[1])]}/{part}/{kind}": value.T}
    family = swin if isinstance(model.backbone, Swin) else vit
    return family.translate(name, value, model.backbone)


def copied(name: str) -> str | None:
    """Return the name of what a parameter of the published model copies, or None."""
    match = re.fullmatch(r"(param/.*)\.cross_attn\.(\d+)\.(att.*)\.(weight|bias)", name)
    if not match:
        return None
    before, index, part, kind = match.groups()
    if ".layers." in name:
        return f"{before}.blocks.{index}.{SWIN_COPIES[part]}.{kind}"
    return f"{before}.layer.{index}.{COPIES[part]}.{kind}"
