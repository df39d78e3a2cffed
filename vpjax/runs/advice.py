"""Warnings before a run starts, about choices that are known to go wrong.

Nothing here changes a run. Figures are those of the papers named.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from vpjax.core import registry
from vpjax.data import preset
from vpjax.methods.tip_adapter import TipAdapter
from vpjax.methods.vpt import _Prompted
from vpjax.methods.vpt_input import PrependPixel
from vpjax.runs.experiment import weights_preset
from vpjax.weights.catalog import find_entry

MANY = 50  # prompts; VPT's accuracy falls with more


def advice(config: ConfigDict, preset_name: str) -> Iterator[str]:
    """Yield a warning for every combination of choices that is known to be bad.

    Args:
        config: of the run.
        preset_name: the preprocessing that the run uses.
    """
    method = registry.lookup("methods", config.method.name)
    prompts = issubclass(method, _Prompted | PrependPixel)
    if prompts and config.backbone.name == "vit.MAE":
        yield (
            "VPT on MAE weights stays far behind tuning: 36.0 % with deep prompts against 59.3 % "
            "with full tuning on VTAB-Natural (arXiv 2203.12119, table 4). Their features need "
            "more than prompts: try finetune.Partial, finetune.Bias or adapter.Adapter."
        )
    if prompts and config.method.get("num_tokens", 0) > MANY:
        yield (
            f"{config.method.num_tokens} prompts: above {MANY}, accuracy tends to fall (VTAB mean "
            "73 with few, 64 with 200) while time and memory grow. Choose the number on the "
            "validation split."
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
    if method.__name__ == "CoOp" and config.data.classes == "base":
        yield (
            "CoOp's context fits the classes it was trained on: 63.2 % on new classes, against "
            "74.2 % of zero-shot CLIP and 76.1 % of promptsrc.PromptSRC (means of 11 data sets). "
            "For classes that are not in training, choose another method."
        )
    mean, epochs = config.optim.average_mean, config.train.epochs
    if config.train.steps is None and mean > epochs:
        yield (
            f"optim.average_mean is {mean:g} and the run has {epochs:g} epochs: the average is of "
            "the last ones only. PromptSRC's has 15 of 20, or 30 of 50."
        )
    if issubclass(method, TipAdapter) and config.data.val and config.data.val == config.data.test:
        yield (
            "Tip-Adapter searches alpha and beta on data.val, which is the test split here: its "
            "number is chosen on the images that it is of. The published code does so on ImageNet. "
            "Hold images of train out instead: --config.data.train='train[:90%]' "
            "--config.data.val='train[90%:]'."
        )
    if method.__name__ == "Adapter" and config.match_reference_code:
        yield (
            "adapter.Adapter with match_reference_code=True starts with both layers at zero, as "
            "published: only its last bias is ever learnt."
        )
