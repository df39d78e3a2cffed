"""Reads presets from text: words and fields with commas between.

    bicubic,crop=0.9,mean=0.5,std=0.5
    imagenet,random_resized_crop=0.35/1,flip        a preset by name, with changes

`preset_of_text(p.text) == p` for a preset `p` without a name.
"""

import dataclasses
from collections.abc import Callable

from vpjax.core.errors import UserError
from vpjax.data import augment_host, resize
from vpjax.data.augment import DEVICE_OPS
from vpjax.data.augment_host import HOST_OPS
from vpjax.data.fields import WORDS, Preset

FORM = (
    "A preset is a name, or fields such as bicubic,crop=0.9,mean=0.485/0.456/0.406,std=0.5: how to "
    "resize; crop=SHARE, squash=SHARE or neither; mean and std of values from 0 to 1."
)
RESIZES = {word: kind for kind, word in WORDS.items()}
KNOWN = (*RESIZES, *HOST_OPS, *DEVICE_OPS)
FIELDS = ("crop=", "squash=", "offset=", "mean=", "std=")


def preset_of_text(text: str, named: Callable[[str], Preset] | None = None) -> Preset:
    """Return the preset that a line of fields describes.

    Args:
        text: words and fields with commas between, such as "bicubic,crop=0.9,mean=0.5,std=0.5".
            mean and std are of red, green and blue with "/" between, or one number for all.
        named: what the name of a preset stands for, whose other fields stay as they are when the
            text begins with it, as in "imagenet,crop=0.9".

    Raises:
        UserError: for an unknown word, a number out of range, or a field that is missing.
    """
    first, *rest = (word.strip() for word in text.split(","))
    out = {}
    if named is not None and "=" not in first and first not in KNOWN:
        base = named(first)
        out = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    else:
        rest = [first, *rest]
    for word in rest:
        out |= _field(word, text, out)
    if missing := [k for k in ("resize", "mean", "std") if k not in out]:
        names = ["an interpolation such as bicubic" if k == "resize" else f"{k}=" for k in missing]
        raise UserError(f"preset {text!r} does not say {' and '.join(names)}. {FORM}")
    if out["resize"] is None:
        out["rule"] = "none"
    ops = [op.partition("=")[0] for op in out.get("augment", ())]
    if out["resize"] is None and "random_resized_crop" in ops:
        raise UserError(f"preset {text!r} resizes nothing, so it has no random_resized_crop")
    if out["resize"] in resize.EXACT and "rand_augment" in ops:
        raise UserError(f"preset {text!r}: rand_augment needs whole levels; choose bilinear")
    return Preset(**out | {"name": ""})


def _field(word: str, text: str, before: dict) -> dict:
    """Return the attributes of `Preset` that a word of `text` sets, after those `before`."""
    key, is_set, value = word.partition("=")
    if not is_set and key in RESIZES:
        return {"resize": RESIZES[key]}
    if key in HOST_OPS or (key in DEVICE_OPS and not is_set):
        if key in HOST_OPS:
            augment_host.settings(word)
        return {"augment": (*before.get("augment", ()), word)}
    if key in ("crop", "squash") and is_set:
        less, more = (_numbers(value, text, key) + (1,))[:2]
        if not 0 < less <= more:
            raise UserError(f"preset {text!r}: {key}={value} is no share above 0 and up to 1.")
        whole = less == more and key == "squash"
        rule = {"crop": "short", "squash": "stretch" if whole else "squash"}[key]
        return {"rule": rule, "short": (1, 1) if less == more else (more, less)}
    if key == "offset" and value in ("even", "down"):
        return {"offset": value}
    if key in ("mean", "std") and is_set:
        numbers = _numbers(value, text, key)
        numbers = tuple(map(float, numbers * 3 if len(numbers) == 1 else numbers))
        if len(numbers) != 3 or (key == "std" and min(numbers) <= 0):
            raise UserError(
                f"preset {text!r}: {word} is not one number or three with / between"
                + (", all above 0." if key == "std" else ".")
            )
        return {key: numbers}
    raise UserError(
        f"preset {text!r}: {word!r} is unknown. Words: {', '.join((*KNOWN, *FIELDS))}. {FORM}"
    )


def _numbers(value: str, text: str, key: str) -> tuple[int | float, ...]:
    try:
        return tuple(int(v) if v.isdigit() else float(v) for v in value.split("/"))
    except ValueError as e:
        raise UserError(f"preset {text!r}: {key}={value} is no number. {FORM}") from e
