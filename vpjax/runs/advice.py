"""Warnings before a run starts, about choices that are known to go wrong.

Nothing here changes a run. Figures are those of the papers named.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from vpjax.core import registry
from vpjax.data import preset
from vpjax.methods.vpt import _Prompted
from vpjax.methods.vpt_input import PrependPixel
from vpjax.runs.experiment import weights_preset
from vpjax.weights.catalog import find_entry

OWN_NORM = ("spt.SPT", "gate_vpt.GateVPT")  # they read a norm that VPT leaves out on MAE
MANY = 50  # prompts; VPT's accuracy falls with more


def advice(config: ConfigDict, preset_name: str) -> Iterator[str]:
    """Yield a warning for every combination of choices that is known to be bad.

    Args:
        config: of the run.
        preset_name: the preprocessing that the run uses.
    """
    method = registry.lookup("methods", config.method.name)
    prompts = issubclass(method, _Prompted | PrependPixel)
    name = config.method.name
    if name in OWN_NORM and config.backbone.name == "vit.MAE":
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
    if method.__name__ == "Adapter" and config.match_reference_code:
        yield (
            "adapter.Adapter with match_reference_code=True starts with both layers at zero, as "
            "published: only its last bias is ever learnt."
        )
