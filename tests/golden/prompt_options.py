"""From a case's options, as the code of each prompt method names them, to ours."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from tests.golden.comparison import scaled
from tests.golden.record import NotUnderstood, Record
from tests.golden.training import loss_terms
from vpjax.backbones.vit import MAE, MoCoV3, ViT
from vpjax.methods.cvpt import CVPT
from vpjax.methods.da_vpt import DAVPT
from vpjax.methods.e2vpt import E2VPT
from vpjax.methods.gate_vpt import GateVPT
from vpjax.methods.spt import SPT, self_prompts
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


def spt(given: Record, arrays: Record) -> Case:
    """Return SPT, and what compares its starting prompts."""
    pools = {"norm, CLS": "token", "mean of all but CLS, then norm": "mean_prompts"}
    options = {name: given[name] for name in ("num_tokens", "deep", "sample")}
    images = arrays["in/sample_images"].transpose(0, 2, 3, 1)[arrays["in/sample_indices"]]

    def prompts(model, out, labels, tolerance):
        noise = lambda i, n: arrays[f"in/noise.{i}"].reshape(n)  # noqa: E731
        where = model.method.at, given["num_tokens"], given["sample"]
        made = jax.jit(lambda x: self_prompts(model.backbone, x, *where, noise))(images)
        for i, value in enumerate(arrays["out/prompt_init"]):
            yield scaled(f"start of prompts {i}", made[i], value, **tolerance)

    of_backbone = {"pool": pools[given["pool"]]}
    return Case(SPT, options, of_backbone=of_backbone, further=(prompts,))


def da_vpt(given: Record, arrays: Record) -> Case:
    """Return DA-VPT in training, with the recorded mapping of classes."""
    given.expect("patch_type", "output")  # selects nothing in the published code
    # How the mapping was made: it is recorded.
    given.ignore("initial_mapping")
    pools = {"cls": "token", "all": "mean_prompts", "img": "mean"}
    options = {
        "num_tokens": given["num_prompts"],
        "num_proxies": given["proxy_prompt_len"],
        "first_guided": given["proxy_prompt_start_idx"],
        "last_guided": given["proxy_prompt_end_idx"],
        "criterion": {"proxyanchor": "anchor", "proxynca": "nca"}[given["criterion"]],
        "patch_weight": given["vpt_loss_weight"],
        "class_weight": given["cls_loss_weight"],
        "scale": given["loss_vpt_scale_ratio"],
        "pos_alpha": given["loss_oproxy_pos_alpha"],
        "neg_alpha": given["loss_oproxy_neg_alpha"],
        "pos_delta": given["loss_oproxy_pos_delta"],
        "neg_delta": given["loss_oproxy_neg_delta"],
        "class_embedding": given["cls_type"],
        "class_proxies": proxies(given["vpt_type_for_cls_ml"]),
        "patch_proxies": proxies(given["vpt_type_for_patch_ml"]),
        "prompt_norm": given["vpt_norm"],
        "mask": given["mask"],
    }

    def terms(model, out, labels, tolerance):
        found = loss_terms(model, out, labels, ctx)
        whole = found["loss"].mean()
        yield scaled("metric loss", found["metric"], arrays["loss/metric"], **tolerance)
        yield scaled("cross entropy", whole - found["metric"], arrays["loss/ce"], **tolerance)

    ctx = Context(key=jax.random.key(0))
    values = {"method/groups/of_class": arrays["in/mapping"]}
    return Case(DAVPT, options, ViT, {"pool": pools[given["pool"]]}, values, ctx, (terms,))


def proxies(name: str) -> str:
    """Return what stands for the prompts of a class: "prompt", "query" or "key"."""
    return "prompt" if name == "vpt" else name


METHODS = {
    "e2vpt": e2vpt,
    "vfpt": vfpt,
    "gate_vpt": gate_vpt,
    "cvpt": cvpt,
    "spt": spt,
    "da_vpt": da_vpt,
}
