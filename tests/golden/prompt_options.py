"""From a case's options, as the code of each prompt method names them, to ours."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.golden.record import NotUnderstood, Record
from vpjax.backbones.vit import MAE, MoCoV3, ViT
from vpjax.methods.cvpt import CVPT
from vpjax.methods.e2vpt import E2VPT
from vpjax.methods.gate_vpt import GateVPT
from vpjax.methods.vfpt import VFPT
from vpjax.nn.context import EVALUATION, Context

POOLS = {"original": "original", "img_pool": "image", "prompt_pool": "prompt"}
POOLS["imgprompt_pool"] = "both"


@dataclasses.dataclass
class Case:
    """How a case is run.

    Attributes:
        cls: the method.
        options: of the method.
        backbone: its class.
        of_backbone: options of the backbone.
        values: what replaces recorded parameters, by our names.
        ctx: training or evaluation.
        further: functions (model, outputs, labels, tolerance) that yield further comparisons.
    """

    cls: type
    options: dict[str, Any]
    backbone: type = ViT
    of_backbone: dict[str, Any] = dataclasses.field(default_factory=dict)
    values: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ctx: Context = EVALUATION
    further: tuple[Callable, ...] = ()


def e2vpt(given: Record, arrays: Record) -> Case:
    """Return E2VPT; masks that are fixed become numbers of what is pruned."""
    given.ignore("layer_behind")  # the order of keys changes nothing
    options = {
        "num_tokens": given["num_tokens"],
        "num_kv_tokens": given["num_kv_tokens"],
        "share_kv": given["share_kv"],
        "deep": given["deep"],
        "kv_deep": given["kv_deep"],
        "masks": bool(given["masks"]),
        "pieces": given["pieces"] or 16,
    }
    if given["masks"] == "fixed":
        name = "param/enc.transformer.prompt_soft_tokens_{}mask_cls_token"
        for option, part in (("pruned_tokens", ""), ("pruned_pieces", "pieces_")):
            mask = arrays[name.format(part)].ravel()
            if not set(mask) <= {0, 1}:
                raise NotUnderstood(f"a fixed mask of {sorted(set(mask))}")
            options[option] = tuple(map(int, np.flatnonzero(mask == 0)))
    elif given["masks"] not in (True, False):
        raise NotUnderstood(f"masks {given['masks']!r}")
    return Case(E2VPT, options)


def vfpt(given: Record, arrays: Record) -> Case:
    """Return VFPT."""
    count = int(given["num_tokens"] * given["fourier_percentage"])
    given.expect("fourier_tokens", count)
    options = {
        "num_tokens": given["num_tokens"],
        "deep": given["deep"],
        "projection_dim": given["project"],
        "fourier_share": given["fourier_percentage"],
        "fourier_dimension": given["fourier_dimension"],
        "fourier_location": given["fourier_location"],
        "fourier_first_layer": given["fourier_first_layer"],
    }
    return Case(VFPT, options)


def gate_vpt(given: Record, arrays: Record) -> Case:
    """Return Gate-VPT; temperatures start from what they were before they were bounded."""
    learnt = given["temperature"] == "learnt"
    options = {
        "num_tokens": given["num_tokens"],
        "num_gates": given["gates"],
        "gate_init": given["gate_init"],
        "learn_temperature": learnt,
        "temperature": 1.0 if learnt else given["temperature"],
        "temperature_min": given["temp_min"],
        "temperature_max": given["temp_max"],
        "pool": POOLS[given["pool"]],
    }
    values = {"method/temperatures": arrays["in/temp_before_clamp"]} if learnt else {}
    norms = {"final_norm": True, "fc_norm": False}
    backbone, of_backbone = {"mae": (MAE, norms), "moco": (MoCoV3, {})}[given["family"]]
    return Case(GateVPT, options, backbone, of_backbone, values)


def cvpt(given: Record, arrays: Record) -> Case:
    """Return CVPT."""
    return Case(CVPT, {"num_tokens": given["num_tokens"], "insert": given["insert"]})


METHODS = {"e2vpt": e2vpt, "vfpt": vfpt, "gate_vpt": gate_vpt, "cvpt": cvpt}
