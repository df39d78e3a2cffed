"""Names, layouts and options of the recorded methods of parameter-efficient tuning, in our words."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from tests.golden.record import NotUnderstood, Record
from vpjax.core import params
from vpjax.methods import lora
from vpjax.models.model import Model
from vpjax.weights import timm

METHODS = {
    "lora": lora.LoRA,
}


def options_of(method: str, given: Record, arch: Record) -> dict[str, Any]:
    """Return the options of our method that a case stands for."""
    take = {name: given[name] for name in given}
    out: dict[str, Any] = {}
    if "fused_qkv" in take:
        if take.pop("fused_qkv") != ("qkv" in take["sites"]):
            raise NotUnderstood(f"fused_qkv does not go with sites {take['sites']}")
        take["sites"] = "+".join(take["sites"])
    return out | take


LINEAR = r"blocks\.(\d+)\.(?:attn|mlp)\.(q|k|v|qkv|proj|fc1|fc2)\.(\w+)"
T = np.transpose
# pattern -> our name, and what is done to the array
RULES: list[tuple[str, Callable[[re.Match, np.ndarray], dict[str, np.ndarray]]]] = [
    (LINEAR.replace(r"(\w+)", "lora_([AB])"), lambda m, v: {low(m): v.T}),
]


def low(m: re.Match) -> str:
    """Return our name of a low-rank matrix."""
    return f"method/layers/{m[1]}/{m[2]}/{m[3].lower()}"


class Names:
    """Brings recorded arrays to our names and shapes."""

    def __init__(self, model: Model, method: str, options: Record):
        self.expected = params.flatten(nnx.state(model.backbone))

    def gather(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return arrays by our names."""
        out = {}
        for name, value in arrays.items():
            out |= self.one(name, value)
        return out

    def one(self, name: str, value: np.ndarray) -> dict[str, np.ndarray]:
        """Return one array by our names."""
        for pattern, rule in RULES:
            if match := re.fullmatch(pattern, name):
                return rule(match, value)
        home = "method" if name.startswith("head.") else "backbone"
        return {f"{home}/{n}": v for n, v in timm.translate({name: value}, self.expected).items()}
