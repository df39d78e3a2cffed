"""Warnings before a run starts, about choices that are known to go wrong.

Nothing here changes a run. Figures are those of the papers named.
"""

import types
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from vpjax.core import registry
from vpjax.data import preset
from vpjax.methods.adapter import Adapter
from vpjax.methods.base import Method
from vpjax.methods.bottleneck import Placed
from vpjax.methods.combine import methods_of
from vpjax.methods.coop import CoOp
from vpjax.methods.gate_vpt import GateVPT
from vpjax.methods.ia3 import IA3
from vpjax.methods.layer_norm import LayerNorm
from vpjax.methods.spt import SPT
from vpjax.methods.ssf import SSF
from vpjax.methods.tip_adapter import TipAdapter
from vpjax.methods.vera import VeRA
from vpjax.methods.vpt import _Prompted
from vpjax.methods.vpt_input import PrependPixel
from vpjax.runs.experiment import weights_preset
from vpjax.weights.catalog import find_entry

OWN_NORM = SPT | GateVPT  # they read a norm that VPT leaves out on MAE
MANY = 50  # prompts; VPT's accuracy falls with more
LEAST_RATE = 2e-3  # of Adam, for vectors


def advice(config: ConfigDict, preset_name: str) -> Iterator[str]:
    """Yield a warning for every combination of choices that is known to be bad.

    Args:
        config: of the run.
        preset_name: the preprocessing that the run uses.
    """
    methods = methods_of(registry.lookup("methods", config.method.name))
    prompts = _any_is(methods, _Prompted | PrependPixel)
    name = config.method.name
    if _any_is(methods, OWN_NORM) and config.backbone.name == "vit.MAE":
        if not config.backbone.get("final_norm") or config.backbone.get("fc_norm") in (None, True):
            yield (
                f"{name} on MAE reads the pretrained last norm, and this model has an untrained "
                "one instead, as VPT has: set backbone.final_norm=True, backbone.fc_norm=False."
            )
    elif prompts and config.backbone.name == "vit.MAE":
        yield (
            "VPT on MAE weights stays far behind tuning: 36.0 % with deep prompts against 59.3 % "
            "with full tuning on VTAB-Natural (arXiv 2203.12119, table 4). Their features need "
            "more than prompts: try gate_vpt.GateVPT or spt.SPT, which were made for such weights, "
            "or finetune.Partial, finetune.Bias or adapter.Adapter."
        )
    if prompts and config.method.get("num_tokens", 0) > MANY:
        yield (
            f"{config.method.num_tokens} prompts: above {MANY}, accuracy tends to fall (VTAB mean "
            "73 with few, 64 with 200) while time and memory grow. Choose the number on the "
            "validation split."
        )
    share = config.method.get("fourier_share", 0.0)
    if share and int(config.method.num_tokens * share) == 0:
        yield (
            f"method.fourier_share {share} of {config.method.num_tokens} prompts rounds down to "
            "none: nothing is transformed, and this is vpt.VPT. Use more prompts or a larger share."
        )
    if own := weights_preset(config):
        trained, chosen = preset(own), preset(preset_name)
        of_class = registry.lookup("backbones", config.backbone.name).preset
        entry = None if of_class else find_entry(config.backbone.weights)
        if (trained.mean, trained.std) != (chosen.mean, chosen.std):
            yield (
                f"preset {preset_name!r} normalises with mean {chosen.mean}, std {chosen.std}, but "
                f"{entry.file if entry else config.backbone.name} was trained with mean "
                f"{trained.mean}, std {trained.std} ({own!r}). This repeats published VPT numbers; "
                "else it costs several points of accuracy."
            )
    if _any_is(methods, CoOp) and config.data.classes == "base":
        yield (
            "CoOp's context fits the classes it was trained on: 63.2 % on new classes, against "
            "74.2 % of zero-shot CLIP and 76.1 % with promptsrc.PromptSRC (means of 11 data sets). "
            "For classes that are not in training, choose another method."
        )
    mean, epochs = config.optim.average_mean, config.train.epochs
    if config.train.steps is None and mean > epochs:
        yield (
            f"optim.average_mean is {mean:g} and the run has {epochs:g} epochs: the average is of "
            "the last ones only. PromptSRC's has 15 of 20, or 30 of 50."
        )
    searched = _any_is(methods, TipAdapter) and config.data.val
    if searched and config.data.val == config.data.test:
        yield (
            "Tip-Adapter searches alpha and beta on data.val, which is the test split here: its "
            "number is chosen on the images that it is of. The published code does so on ImageNet. "
            "Hold images of train out instead: --config.data.train='train[:90%]' "
            "--config.data.val='train[90%:]'."
        )
    if _any_is(methods, Adapter) and config.match_reference_code:
        yield (
            "adapter.Adapter with match_reference_code=True starts with both layers at zero, as "
            "published: only its last bias is ever learnt."
        )
    yield from _of_small_parts(config, methods)


def _any_is(methods: Sequence[type[Method]], kinds: type | types.UnionType) -> bool:
    """Return whether one of the methods of a run is of some kinds."""
    return any(issubclass(method, kinds) for method in methods)


def _of_small_parts(config: ConfigDict, methods: Sequence[type[Method]]) -> Iterator[str]:
    """Yield warnings about LoRA, adapters and their like."""
    optim, name = config.optim, config.method.name
    if _any_is(methods, SSF):
        yield (
            "SSF begins at random scales and shifts, N(1, 0.02^2) and N(0, 0.02^2): its start is "
            "not the frozen backbone's function. Compare it with others after training only, and "
            "train it with several seeds."
        )
    all_decay = not optim.no_decay or config.match_reference_code
    if _any_is(methods, IA3 | LayerNorm | SSF) and optim.weight_decay and all_decay:
        yield (
            f"optim.weight_decay={optim.weight_decay} pulls the scales of {name} to 0, where they "
            "put out what they scale, not to 1. Set it to 0, or leave optim.no_decay as it is by "
            "default."
        )
    vectors = _any_is(methods, VeRA | IA3)
    if vectors and optim.name != "sgd" and optim.lr * _scale(config) < LEAST_RATE:
        yield (
            f"{name} trains vectors of few numbers, which need about ten times the rate of LoRA's "
            f"matrices; a peak of {optim.lr * _scale(config):g} with {optim.name} leaves them "
            "nearly as they began. Try 0.01."
        )
    if _any_is(methods, Placed) and config.method.norm == "out" and not optim.clip_norm:
        yield (
            "norm='out' normalises a branch that is zero at the start, so its first gradients are "
            "316 times as large (1 / sqrt(1e-5)). Set optim.clip_norm=1, or norm='none'."
        )


def _scale(config: ConfigDict) -> float:
    base = config.optim.lr_base_batch_size
    return config.train.batch_size / base if base else 1.0
