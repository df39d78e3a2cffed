"""From a case's options, as VPT's code names them, to a method of ours and its options."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.runner import NotUnderstood
from vpjax.methods import adapter, finetune, side, vpt, vpt_input

TRANSFER = {
    "linear": finetune.Linear,
    "end2end": finetune.Full,
    "tinytl-bias": finetune.Bias,
    "adapter": adapter.Adapter,
    "side": side.Side,
    "cls": finetune.ClsToken,
    "cls-reinit": finetune.ClsToken,
    "prompt": vpt.VPT,
    "prompt+bias": vpt.PromptBias,
    "cls+prompt": vpt.PromptCls,
    "cls-reinit+prompt": vpt.PromptCls,
    "prompt-noupdate": vpt.FrozenPrompts,
}
PIXELS = {
    "prepend-pixel": "uniform",
    "prepend-pixel-gaussian": "gaussian",
    "prepend-pixel-imgnettransform": "imagenet",
}
POOLS = {"original": "original", "img_pool": "image", "prompt_pool": "prompt"}
POOLS["imgprompt_pool"] = "both"


def method_of(meta: dict, arrays: dict, folder: Path) -> tuple[type, dict[str, Any]]:
    """Returns the method's class and options; class embeddings are written to `folder`."""
    given = {k.removeprefix("MODEL."): v for k, v in meta["options"].items()}
    transfer = given.pop("TRANSFER_TYPE")
    chosen = {"head_hidden": given.pop("MLP_NUM", 0)}
    if transfer.startswith("partial-"):
        cls, chosen["k"] = finetune.Partial, int(transfer.removeprefix("partial-"))
    elif transfer in TRANSFER:
        cls = TRANSFER[transfer]
    else:
        raise NotUnderstood(f"transfer type {transfer}")
    if "reinit" in transfer:
        chosen["reinit"] = True
    if cls is adapter.Adapter:
        chosen["reduction"] = given.pop("ADAPTER.REDUCATION_FACTOR", 8)
        given.pop("ADAPTER.STYLE", None)
    if cls is side.Side and "side.features.0.weight" in meta["trainable"]:
        kernels = (arrays[f"param/side.features.{i}.weight"] for i in (0, 3, 6, 8, 10))
        chosen["widths"] = tuple(len(k) for k in kernels)
    if "prompt" in transfer:
        cls = prompt_options(cls, given, chosen, meta, arrays, folder)
    if given:
        raise NotUnderstood(f"options {', '.join(given)}")
    return cls, chosen


def prompt_options(
    cls: type, given: dict, chosen: dict, meta: dict, arrays: dict, folder: Path
) -> type:
    """Moves what describes prompts from `given` to `chosen`, in our words; returns the class."""
    take = lambda key, default: given.pop(f"PROMPT.{key}", default)  # noqa: E731
    location, init = take("LOCATION", "prepend"), take("INITIATION", "random")
    tokens, deep = take("NUM_TOKENS", 5), take("DEEP", False)
    if location in PIXELS:
        chosen |= {"num_tokens": tokens, "pixel_init": PIXELS[location]}
        return vpt_input.PrependPixel
    if location in ("pad", "below"):
        conv = meta["family"] in ("resnet", "convnext")
        default = "imagenet" if conv or location == "pad" else "uniform"
        chosen |= {"num_tokens": tokens, "pixel_init": default if init == "random" else init}
        return vpt_input.Pad if location == "pad" else vpt_input.Below
    project = take("PROJECT", -1)
    chosen |= {
        "deep": deep,
        "num_deep_layers": take("NUM_DEEP_LAYERS", None),
        "reverse_deep": take("REVERSE_DEEP", False),
        "dropout": take("DROPOUT", 0.0),
        "project": project if project > 0 else None,
    }
    if location in ("add", "add-1"):
        chosen["single"] = location == "add-1"
        return vpt_input.Add
    if location != "prepend":
        raise NotUnderstood(f"location {location}")
    chosen |= {
        "num_tokens": tokens,
        "deep_shared": take("DEEP_SHARED", False),
        "expand": not take("FORWARD_DEEP_NOEXPAND", False),
        "pool": POOLS[take("VIT_POOL_TYPE", "original")],
        "init": init,
    }
    if init != "random":
        chosen["init_path"] = str(folder / "prototypes.npy")
        np.save(chosen["init_path"], arrays["in/cls_embds"])
    return cls
