"""What the configuration beside a file of weights says, for networks of several stages.

    timm            config.json with "architecture", "model_args" and "pretrained_cfg"
    transformers    config.json with "model_type" and the constructor's arguments

A key that changes the result and that the backbone here does not have is an error that names it.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vpjax.core.errors import UserError
from vpjax.data.transforms import Preset, preset_from
from vpjax.weights.description import WeightsFile

# Names of activations there and here; "gelu" is the exact one everywhere.
ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# Arguments of timm's models that do not change what a trained network computes or show in shapes.
HARMLESS = {
    *("num_classes", "in_chans", "img_size", "patch_size", "depths", "layers", "embed_dim"),
    *("dims", "channels", "depth", "num_heads", "window_size", "mlp_ratio", "qkv_bias"),
    *("drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "strict_img_size"),
    *("dynamic_img_size", "ls_init_value", "head_init_scale", "weight_init", "conv_mlp"),
    *("use_grn", "head_norm_first", "head_hidden_size", "conv_bias", "kernel_sizes"),
    *("global_pool", "zero_init_last", "device", "dtype"),
}


def refuse(file: WeightsFile, found: str) -> UserError:
    """Return the error for weights whose network is not one of ours."""
    return UserError(
        f"weights {file.where}: {found}, which vpjax does not have; it computes a function that "
        "these weights were not trained for. Choose other weights."
    )


def timm(
    file: WeightsFile, known: str, arguments: Collection[str] = (), pool: str = "avg"
) -> dict[str, Any]:
    """Return the arguments of a timm model that its configuration gives.

    Args:
        file: with timm's configuration.
        known: regular expression of the architectures that have our form.
        arguments: further arguments that the caller handles.
        pool: the only pooling that the caller has.

    Raises:
        UserError: for another architecture, or an argument that the caller does not handle.
    """
    name = str(file.config.get("architecture", ""))
    if not re.fullmatch(known, name):
        raise refuse(file, f"a timm {name!r}")
    given = dict(file.config.get("model_args") or {})
    for key, value in given.items():
        if value is not None and key not in HARMLESS and key not in arguments:
            raise refuse(file, f"a timm {name!r} with {key}={value!r}")
    found = given.get("global_pool", file.config.get("global_pool") or pool)
    if found != pool:
        raise refuse(file, f"a timm {name!r} with global_pool={found!r}")
    return given


def image_size(file: WeightsFile) -> dict[str, Any]:
    """Return {"image_size": ...} of the configuration, {} where it does not say one."""
    if file.library == "timm":
        size = (file.config.get("model_args") or {}).get("img_size")
        size = size or (_pretrained(file).get("input_size") or (0, 0, 0))[1:]
    else:
        size = file.config.get("image_size")
    if size is None or size == 0 or (not isinstance(size, int) and 0 in tuple(size)):
        return {}
    if isinstance(size, int):
        return {"image_size": size}
    height, width = size
    return {"image_size": height if height == width else (height, width)}


def activation(file: WeightsFile, name: str) -> str:
    """Return our name of an activation.

    Raises: UserError if it has none.
    """
    if name not in ACTIVATIONS:
        raise refuse(file, f"a network with the activation {name!r}")
    return ACTIVATIONS[name]


def preset(file: WeightsFile) -> Preset | None:
    """Return the preprocessing that the configuration says; None without one."""
    return preset_from(file.library, file.config, file.processor)


def stand_ins(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return arrays of these shapes that take no memory, for functions that rename arrays."""
    return {n: np.broadcast_to(np.float32(0), shape) for n, shape in shapes.items()}


def _pretrained(file: WeightsFile) -> Mapping[str, Any]:
    return file.config.get("pretrained_cfg") or {}
