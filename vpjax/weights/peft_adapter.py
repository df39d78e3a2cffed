"""Adapters that the peft library has trained on timm's ViTs, by our names.

    adapter_config.json          peft_type, r, lora_alpha, use_rslora, use_dora ...
    adapter_model.safetensors    base_model.model.blocks.7.attn.qkv.lora_A.weight ... (or .bin)

LoRA, DoRA, IA3 and VeRA are read, with the head where it was among `modules_to_save`. timm's layer
`qkv` is our site of that name. DoRA's magnitudes become differences to the lengths of the frozen
rows; VeRA's pair follows from its seed, and one in the file is compared with it.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vpjax.core import forms
from vpjax.core.errors import UserError
from vpjax.weights import formats

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
KINDS = {"LORA": "lora.LoRA", "IA3": "ia3.IA3", "VERA": "vera.VeRA"}
SITES = ("q", "k", "v", "qkv", "proj", "fc1", "fc2")
LINEAR = re.compile(
    r"blocks\.(\d+)\.(?:attn|mlp)\.(q|k|v|qkv|proj|fc1|fc2)\."
    r"(lora_A|lora_B|lora_magnitude_vector|ia3_l|vera_lambda_b|vera_lambda_d)"
    r"(?:\.default)?(?:\.weight)?"
)
NAMES = {"lora_A": "a", "lora_B": "b", "lora_magnitude_vector": "shift", "ia3_l": "scale"}
NAMES |= {"vera_lambda_b": "b", "vera_lambda_d": "d"}
OTHERS = {
    "head.weight": "method/head/kernel",
    "head.bias": "method/head/bias",
    "vera_A": "method/a",
    "vera_B": "method/b",
}
# Settings that change what is computed, and the values that they have in vpjax.
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "init_lora_weights": (True, False, "gaussian", None),  # others change the frozen weights too
    "lora_bias": (False, None),
}
ADVICE = "Copy it again."
# What the configuration holds, as far as it is read; that of an IA3 has neither rank nor alpha.
RANK = {"r": int}
FORMS: Mapping[str, dict[str, Any]] = {
    "LORA": RANK | {"lora_alpha": forms.NUMBER},
    "IA3": {},
    "VERA": RANK | {"projection_prng_key?": (int, None)},
}
SWITCHES = {"use_rslora?": (bool, None), "use_dora?": (bool, None)}

Arrays = dict[str, np.ndarray]


def folder_of(where: str) -> Path | None:
    """Return the folder of an adapter, given as it or as the file in it; None: it is none."""
    path = Path(where).expanduser()
    path = path.parent if path.name in FILES else path
    return path if (path / CONFIG).is_file() else None


def read(
    folder: Path,
    method: str,
    options: Mapping[str, Any],
    lengths: Callable[[int, str], np.ndarray],
) -> tuple[Path, Arrays]:
    """Return the file of an adapter, and its arrays by our names.

    Args:
        folder: of the adapter.
        method: class of the run's method, such as "lora.LoRA".
        options: of it.
        lengths: (layer, site) -> norms of the rows of the frozen weight, `out`.

    Raises:
        UserError: if the files are missing or damaged, the adapter is of another kind, or the
            method's options are not those it was trained with.
    """
    config = _config(folder)
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"train.start: {folder} has {CONFIG} and none of {', '.join(FILES)}")
    out, feeds = formats.guarded(path, lambda: _arrays(path, lengths))
    _check_options(folder, method, options, *_meant(config, feeds))
    return path, out


def _arrays(
    path: Path, lengths: Callable[[int, str], np.ndarray]
) -> tuple[Arrays, dict[str, bool]]:
    """Return the arrays of a file by our names; and its sites, and whether IA3 scales its input."""
    out: Arrays = {}
    feeds: dict[str, bool] = {}
    for name, array in formats.read(path).items():
        short = name.removeprefix("base_model.model.").removeprefix("base_model.")
        short = short.replace(".modules_to_save.default", "")
        if found := LINEAR.fullmatch(short):
            layer, site, kind = found.groups()
            feeds[site] = kind == "ia3_l" and array.shape[0] == 1
            value = array.ravel() if array.ndim == 1 or 1 in array.shape else array.T
            if kind in ("lora_A", "lora_B"):
                value = array.T
            if kind == "lora_magnitude_vector":
                value = (value - lengths(int(layer), site)).astype(np.float32)
            out[f"method/layers/{layer}/{site}/{NAMES[kind]}"] = value
        elif short in OTHERS:
            out[OTHERS[short]] = array.T
        else:
            raise UserError(
                f"train.start: {path} has {name!r}, which is no linear layer of a block of timm's "
                "ViT; vpjax reads adapters on those alone"
            )
    if not feeds:
        raise UserError(f"train.start: {path} has no adapter of a block of timm's ViT")
    return out, feeds


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    config = forms.parse(path, ADVICE)
    forms.check(config, {"peft_type": str} | SWITCHES, path, ADVICE)
    kind = config["peft_type"]
    if kind not in KINDS:
        raise UserError(
            f"train.start: {folder} is an adapter of peft_type {kind!r}; vpjax reads "
            f"{', '.join(KINDS)}"
        )
    forms.check(config, FORMS[kind], path, ADVICE)
    for key, plain in PLAIN.items():
        if config.get(key) not in plain:
            raise UserError(
                f"train.start: {folder / CONFIG} has {key}={config[key]!r}, which vpjax has not; "
                f"it reads adapters with {key}={plain[0]!r}"
            )
    return config


def _meant(config: Mapping[str, Any], feeds: Mapping[str, bool]) -> tuple[str, dict[str, Any]]:
    """Return the method that an adapter is of, and the options that make what it computes."""
    kind = config["peft_type"]
    join = lambda sites: "+".join(n for n in SITES if n in sites)  # noqa: E731
    options = {"sites": join(feeds)}
    if kind == "IA3":
        return KINDS[kind], options | {"feedforward": join([n for n in feeds if feeds[n]])}
    options["rank"] = config["r"]
    if kind == "VERA":
        return KINDS[kind], options | {"pair_seed": config.get("projection_prng_key") or 0}
    options |= {"alpha": config["lora_alpha"], "rslora": bool(config.get("use_rslora"))}
    return ("dora.DoRA" if config.get("use_dora") else KINDS[kind]), options


def _check_options(
    folder: Path,
    method: str,
    given: Mapping[str, Any],
    own: str,
    meant: Mapping[str, Any],
) -> None:
    """Raise a UserError if the run's method is not what the adapter was trained as."""
    now = dict(given)
    if now.get("alpha", 0) is None:
        now["alpha"] = now["rank"]
    for key in ("sites", "feedforward"):
        if key in now:
            names = "q+k+v+proj+fc1+fc2" if now[key] == "all" else now[key]
            now[key] = "+".join(n for n in SITES if n in names.split("+"))
    differ = [key for key, value in meant.items() if now.get(key) != value]
    if method == own and not differ:
        return
    words = [f"--config.method.name={own}"] if method != own else []
    words += [f"--config.method.{key}={value}" for key, value in meant.items()]
    raise UserError(
        f"train.start: {folder} was trained with other options than {method} has here. Write "
        f"{' '.join(words)}"
    )
