"""Names, layouts and options of the recorded PEFT methods, in our words."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from tests.golden.record import NotUnderstood, Record
from vpjax.core import params
from vpjax.methods import (
    bottleneck,
    compacter,
    convpass,
    dora,
    fact,
    ia3,
    layer_norm,
    linears,
    lora,
    repadapter,
    ssf,
    vera,
)
from vpjax.models.model import Model
from vpjax.weights import timm

METHODS = {
    "lora": lora.LoRA,
    "dora": dora.DoRA,
    "vera": vera.VeRA,
    "ia3": ia3.IA3,
    "fact_tt": fact.TT,
    "fact_tk": fact.TK,
    "layernorm": layer_norm.LayerNorm,
    "ssf": ssf.SSF,
    "adapter": bottleneck.Placed,
    "adapter_plus": bottleneck.AdapterPlus,
    "adapter_noah": bottleneck.NOAH,
    "adaptformer": bottleneck.AdaptFormer,
    "houlsby": bottleneck.Houlsby,
    "pfeiffer": bottleneck.Pfeiffer,
    "compacter": compacter.Compacter,
    "convpass": convpass.Convpass,
    "convpass_attn": convpass.ConvpassAttn,
    "repadapter": repadapter.RepAdapter,
}


def options_of(method: str, given: Record, arch: Record) -> dict[str, Any]:
    """Return the options of our method that a case stands for."""
    take = {name: given[name] for name in given}
    if "alpha" in take:
        take["alpha"] = float(take["alpha"])
    fused = "qkv" in take.get("sites", ())
    if take.pop("fused_qkv", fused) != fused:
        raise NotUnderstood(f"fused_qkv does not go with sites {take['sites']}")
    if isinstance(take.get("sites"), list):
        take["sites"] = "+".join(take["sites"])
    if method == "ia3":
        take["feedforward"] = "+".join(take["feedforward"])
    if method == "ssf" and take.pop("pool", arch["pool"]) != arch["pool"]:
        raise NotUnderstood("SSF pools as the backbone does")
    if method == "layernorm":
        take["norms"] = NORMS[tuple(take["norms"])]
    if method == "repadapter":
        sites = {"norm1": True, "norm1 and norm2": False}
        take["attention_only"] = sites[take.pop("sites")]
    if method == "compacter":
        given.expect("position", "houlsby")
        given.expect("activation", "gelu")
        del take["position"], take["activation"]
    if "position" in take:
        take = adapter_options(method, take)
    return take


def adapter_options(method: str, take: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an adapter."""
    take["position"] = POSITIONS.get(take["position"], take["position"])
    if isinstance(take.get("norm"), bool):
        take["norm"] = "in" if take["norm"] else "none"
    if take.get("activation") == "quickgelu":
        take["activation"] = "quick_gelu"
    scaling = take.pop("scaling", take.pop("scale", 1.0))
    if isinstance(scaling, str):
        return take | {"scaling": SCALINGS.get(scaling, scaling)}
    return take | {"scale": scaling, "scaling": "fixed"}


NORMS = {
    ("norm1", "norm2"): "blocks",
    ("norm1", "norm2", "norm"): "all",
    ("norm1", "norm2", "fc_norm"): "all",
}
POSITIONS = {"pfeiffer": "post", "sequential": "intermediate"}
SCALINGS = {"learnable_scalar": "learned"}
SSF = {
    (None, "1"): "norm1",
    (None, "2"): "norm2",
    ("attn", "1"): "qkv",
    ("attn", "2"): "proj",
    ("mlp", "1"): "fc1",
    ("mlp", "2"): "fc2",
}
LINEAR = r"blocks\.(\d+)\.(?:attn|mlp)\.(q|k|v|qkv|proj|fc1|fc2)\.{}"
PARTS = {
    "bottleneck.1": "down",
    "bottleneck.4": "up",
    "scaling": "scaling",
    "scale": "scaling",
    "norm_a": "norm",
    "adapter_layer_norm_before": "norm",
    "ln1": "down",
    "ln2": "up",
    "down_proj": "down",
    "up_proj": "up",
}
BIAS = {"b": "bias"}
# pattern -> our name, and what is done to the array
RULES: list[tuple[str, Callable[[re.Match, np.ndarray], dict[str, np.ndarray]]]] = [
    (
        r"blocks\.(\d+)\.(?:adaptmlp|(adapter_attn|adapter))\.(\w+(?:\.1|\.4)?)(?:\.(weight|bias))?",
        lambda m, v: adapter(m, v),
    ),
    (
        r"blocks\.(\d+)\.(adapter_\w+)\.(conv_[AB]|adapter_\w+)\.(weight|bias)",
        lambda m, v: convolution(m, v),
    ),
    (r"fc_norm\.weight", lambda m, v: {"backbone/fc_norm/scale": v}),
    (r"fc_norm\.bias", lambda m, v: {"backbone/fc_norm/bias": v}),
    (r"phm_rule", lambda m, v: {"method/rule": v}),
    (
        r"blocks\.(\d+)\.compacter_(\w+)\.(down|up)\.(?:W_)?(\w+)",
        lambda m, v: {f"method/layers/{m[1]}/{m[2]}/{m[3]}/{BIAS.get(m[4], m[4])}": v},
    ),
    (LINEAR.format("lora_([AB])"), lambda m, v: {own(m): v.T}),
    (LINEAR.format("magnitude"), lambda m, v: {own(m, "magnitude"): v}),
    (LINEAR.format("lambda_([db])"), lambda m, v: {own(m): v}),
    (LINEAR.format("ia3"), lambda m, v: {own(m, "scale"): v}),
    ("vera_([AB])", lambda m, v: {f"method/{m[1].lower()}": v.T}),
    (r"FacT([uv])\.weight", lambda m, v: {f"method/{m[1]}": v.T}),
    ("FacT([cp])", lambda m, v: {f"method/{m[1]}": v}),
    (r"blocks\.(\d+)\.\w+\.(\w+)_FacTs\.weight", lambda m, v: {own(m, "")[:-1]: v.T}),
    (r"patch_embed\.ssf_(\w+)_1", lambda m, v: {f"method/stem/{m[1]}": v}),
    (r"ssf_(\w+)_1", lambda m, v: {f"method/last/{m[1]}": v}),
    (
        r"blocks\.(\d+)\.(?:(\w+)\.)?ssf_(\w+)_(\d)",
        lambda m, v: {f"method/layers/{m[1]}/{SSF[m[2], m[4]]}/{m[3]}": v},
    ),
]


def adapter(m: re.Match, value: np.ndarray) -> dict[str, np.ndarray]:
    """Return an array of a bottleneck, or of Convpass and RepAdapter's, which are named alike."""
    layer, name, part, kind = m.groups()
    if part not in PARTS:
        return convolution(m, value)
    if part in ("norm_a", "adapter_layer_norm_before"):
        ours = f"norm/{'scale' if kind == 'weight' else 'bias'}"
    else:
        ours = PARTS[part] + ("_bias" if kind == "bias" else "")
    return {f"method/layers/{layer}/{name or 'adapter'}/{ours}": value.T}


def convolution(m: re.Match, value: np.ndarray) -> dict[str, np.ndarray]:
    """Return an array of Convpass or RepAdapter."""
    layer, name, part, kind = m.groups()
    ours = part.removeprefix("conv_").removeprefix("adapter_").lower()
    if part.startswith("adapter_"):
        name = name.removeprefix("adapter_")
    if kind == "bias":
        return {f"method/layers/{layer}/{name}/{ours}_bias": value}
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
    elif ours == "b":  # D r/G 1, the outputs in groups
        value = value[..., 0].reshape(2, -1, value.shape[1]).swapaxes(1, 2)
    else:
        value = value.reshape(value.shape[:2]).T
    return {f"method/layers/{layer}/{name}/{ours}": value}


def own(m: re.Match, what: str | None = None) -> str:
    """Return our name of what belongs to a linear layer."""
    return f"method/layers/{m[1]}/{m[2]}/{m[3].lower() if what is None else what}"


class Names:
    """Brings recorded arrays to our names and shapes."""

    def __init__(self, model: Model, method: str, options: Record):
        self.expected = params.flatten(nnx.state(model.backbone))

    def gather(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return arrays by our names."""
        out = {}
        for name, value in arrays.items():
            out |= self.one(name, value)
        for name in [n for n in out if n.endswith("/magnitude")]:
            out[name.replace("magnitude", "shift")] = out.pop(name)
        return out

    def parameters(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return parameters: DoRA's magnitudes are kept as differences to those of the weights."""
        out = self.gather(arrays)
        for name in [n for n in out if n.endswith("/shift") and n.replace("shift", "a") in out]:
            _, _, layer, part, _ = name.split("/")
            norms = []
            for one in linears.parts_of(part):
                path = linears.SITES[one].replace(".", "/")
                kernel = out[f"backbone/layers/{layer}/{path}/kernel"].astype(np.float64)
                inputs = math.prod(kernel.shape[:2]) if one == "proj" else kernel.shape[0]
                norms.append(np.linalg.norm(kernel.reshape(inputs, -1), axis=0))
            out[name] = (out[name] - np.concatenate(norms)).astype(np.float32)
        return out

    def one(self, name: str, value: np.ndarray) -> dict[str, np.ndarray]:
        """Return one array by our names."""
        for pattern, rule in RULES:
            if match := re.fullmatch(pattern, name):
                return rule(match, value)
        home = "method" if name.startswith("head.") else "backbone"
        found = timm.translate({name: value}, self.expected)
        # A start that the loader gives a norm which a file does not have.
        found = {n: v for n, v in found.items() if not n.startswith("fc_norm/")}
        return {f"{home}/{n}": v for n, v in found.items()}
