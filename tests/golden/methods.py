"""From a case's options, as VPT's code names them, to a method of ours and its options."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.record import NotUnderstood, Record, nearest
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
# What options may be called, for hints.
KNOWN = ("TRANSFER_TYPE", "MLP_NUM", "ADAPTER.REDUCATION_FACTOR", "ADAPTER.STYLE")
KNOWN += tuple(
    f"PROMPT.{name}"
    for name in ("LOCATION", "INITIATION", "NUM_TOKENS", "DEEP", "PROJECT", "NUM_DEEP_LAYERS")
    + ("REVERSE_DEEP", "DROPOUT", "DEEP_SHARED", "FORWARD_DEEP_NOEXPAND", "VIT_POOL_TYPE")
)


def method_of(meta: Record, arrays: Record, folder: Path) -> tuple[type, dict[str, Any]]:
    """Return the method's class and options; class embeddings are written to `folder`."""
    given = {k.removeprefix("MODEL."): v for k, v in meta["options"].items()}
    transfer = given.pop("TRANSFER_TYPE")
    chosen = {"head_hidden": given.pop("MLP_NUM", 0)}
    if transfer.startswith("partial-"):
        cls, chosen["num_layers"] = finetune.Partial, int(transfer.removeprefix("partial-"))
    elif transfer in TRANSFER:
        cls = TRANSFER[transfer]
    else:
        raise NotUnderstood(f"transfer type {transfer}")
    if "reinit" in transfer:
        chosen["reinit"] = True
    if cls is adapter.Adapter:
        chosen["reduction"] = given.pop("ADAPTER.REDUCATION_FACTOR", 8)
        if (style := given.pop("ADAPTER.STYLE", "Pfeiffer")) != "Pfeiffer":
            raise NotUnderstood(f"adapter style {style}")
    if cls is side.Side and "side.features.0.weight" in meta["trainable"]:
        kernels = (arrays[f"param/side.features.{i}.weight"] for i in (0, 3, 6, 8, 10))
        chosen["widths"] = tuple(len(k) for k in kernels)
    if "prompt" in transfer:
        cls = prompt_options(cls, given, chosen, meta, arrays, folder)
    if given:
        unknown = (f"option {name!r}{nearest(name, KNOWN)}" for name in given)
        raise NotUnderstood(f"{'; '.join(unknown)} of {transfer}")
    return cls, chosen


def prompt_options(
    cls: type, given: dict, chosen: dict, meta: Record, arrays: Record, folder: Path
) -> type:
    """Move what describes prompts from `given` to `chosen`, in our words; return the class."""
    take = lambda key, default: given.pop(f"PROMPT.{key}", default)  # noqa: E731
    location, init = take("LOCATION", "prepend"), take("INITIATION", "random")
    tokens, deep = take("NUM_TOKENS", 5), take("DEEP", False)
    if deep and location not in ("prepend", "add", "add-1"):
        raise NotUnderstood(f"deep prompts at location {location}")
    if init != "random" and location not in ("prepend", "pad", "below"):
        raise NotUnderstood(f"initiation {init} at location {location}")
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
        "projection_dim": project if project > 0 else None,
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
