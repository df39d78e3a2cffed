"""What a Swin file says of its model, version 1 or 2; its names are in `vpjax.weights.swin_names`.

Shapes show everything but: epsilon and activation, which transformers' configuration may change,
and for version 2 the windows, now and in pre-training. Those are in the configuration, in timm's
names ("swinv2_base_window12to16_192to256") and in those of the released files.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vpjax.weights import beside
from vpjax.weights.description import Description, WeightsFile
from vpjax.weights.swin_names import ANCHOR, TABLE, library, recognises, translate, window_of

__all__ = ["ANCHOR", "describe", "recognises", "translate"]

TIMM = r"(ms_in22k_)?swin(v2)?_(?!cr_)(s3_)?(tiny|small|base|large).*"
EPS = 1e-5
# Widths and depths of torchvision's sizes of version 2, all trained with one window.
TORCHVISION = ((96, (2, 2, 6, 2)), (96, (2, 2, 18, 2)), (128, (2, 2, 18, 2)))
# Of version 2: windows and pixels, and before "to" those of pre-training.
NAME = re.compile(r"window(\d+)(?:to(\d+))?_(\d+)(?:to(\d+))?")


def describe(file: WeightsFile) -> Description:
    """Return what a file with names that `recognises` knows says.

    Raises: UserError if its model is not one of ours.
    """
    names = translate(beside.stand_ins(file.shapes), {})
    shapes = {n: v.shape for n, v in names.items()}
    second = "layers/0/attn/logit_scale" in shapes
    kind = library(file.shapes)
    options = from_shapes(shapes)
    configured: dict[str, Any] = {}
    if file.library == "timm":
        given = beside.timm(file, TIMM, ("pretrained_window_sizes",))
        check_square(file, given.get("window_size", 7))
        configured = beside.image_size(file)
    elif file.library == "transformers":
        configured = of_transformers(file)
    if not (kind == "transformers" and file.library != "transformers"):
        options = {"eps": EPS, "activation": "gelu"} | options
    options |= configured
    if second:
        options = windows(file, shapes, options) | options
        asked = ("eps", "activation", "image_size", "window", "pretrained_windows")
    else:
        edge = options["window"]
        edge = edge if isinstance(edge, int) else edge[-1]
        patch = options["patch_size"]
        size = [p * edge << len(options["depths"]) - 1 for p in patch]
        # As in all released models, one window covers the last grid.
        options.setdefault("image_size", size[0] if size[0] == size[1] else tuple(size))
        asked = ("eps", "activation")
    words = (kind or file.library, "Swin v2" if second else "Swin", "checkpoint")
    return Description(
        " ".join(("a", *filter(None, words))),
        "swin_v2.SwinV2" if second else "swin.Swin",
        options,
        open=tuple(key for key in asked if key not in options),
        preset=beside.preset(file),
    )


def from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the options that the shapes of arrays show, by our names without heads split."""
    heads, windows, depths = [], [], [0]
    count = 1 + max(int(n.split("/")[1]) for n in shapes if n.startswith("layers/"))
    for i in range(count):
        layer = f"layers/{i}"
        if f"{layer}/reduction/kernel" in shapes:
            depths.append(0)
            continue
        table = shapes.get(f"{layer}/{TABLE}")
        scale = shapes.get(f"{layer}/attn/logit_scale")
        if not depths[-1]:
            heads.append(table[1] if table else scale[0])
            windows += [window_of(table[0])] if table else []
        depths[-1] += 1
    dim, hidden = shapes["layers/0/mlp/fc1/kernel"]
    *patch, channels, _ = shapes["patch_embed/kernel"]
    options = {
        "embed_dim": dim,
        "depths": tuple(depths),
        "heads": tuple(heads),
        "patch_size": tuple(patch),
        "mlp_ratio": hidden / dim,
        "qkv_bias": "layers/0/attn/query/bias" in shapes,
        "patch_norm": "patch_norm/scale" in shapes,
        "positions": "positions" in shapes,
    }
    if windows:
        options["window"] = windows[0] if len(set(windows)) == 1 else tuple(windows)
    if channels != 3:
        options["channels"] = channels
    return options


def of_transformers(file: WeightsFile) -> dict[str, Any]:
    """Return the options that transformers' configuration says and shapes do not."""
    config = file.config
    options = beside.image_size(file) | {
        "eps": config.get("layer_norm_eps", EPS),
        "activation": beside.activation(file, config.get("hidden_act", "gelu")),
    }
    if config.get("model_type") == "swinv2":
        if config.get("use_absolute_embeddings"):
            raise beside.refuse(file, "a Swin v2 with use_absolute_embeddings=true")
        options["window"] = config.get("window_size", 7)
        before = config.get("pretrained_window_sizes", (0, 0, 0, 0))
        options["pretrained_windows"] = tuple(before)[: len(config.get("depths", before))]
    return options


def windows(
    file: WeightsFile, shapes: Mapping[str, tuple[int, ...]], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return windows and image size of a file of version 2, as far as it says them.

    Args:
        file: whose configuration or name may say it.
        shapes: by our names; released files have tables of coordinates, as large as windows.
        options: that shapes show.
    """
    sizes, stages = (options["embed_dim"], options["depths"]), len(options["depths"])
    given = file.config.get("model_args") or {}
    text = str(file.config.get("architecture") or file.path.name)
    named, out = NAME.search(text), {}
    if named and "swinv2" in text:
        window, wider, size, larger = (int(n) if n else 0 for n in named.groups())
        before = [min(window, size // 32 * 2 ** (3 - i)) for i in range(stages)] if wider else [0]
        out = {"window": wider or window, "image_size": larger or size}
        out["pretrained_windows"] = _common(before)
    elif library(file.shapes) == "torchvision" and sizes in TORCHVISION:
        out = {"window": 8, "image_size": 256, "pretrained_windows": 0}
    tables = [
        (shape[1] + 1) // 2
        for name, shape in sorted(shapes.items())
        if name.endswith("attn/relative_coords_table") and len(shape) == 4
    ]
    if tables:
        out["window"] = max(tables)
    if "window_size" in given:
        out["window"] = _common(given["window_size"])
    if "pretrained_window_sizes" in given:
        out["pretrained_windows"] = _common(given["pretrained_window_sizes"])
    elif "window_size" in given:
        out.setdefault("pretrained_windows", 0)
    return out


def check_square(file: WeightsFile, windows: Any) -> None:
    """Check the argument of timm's models: one edge, (height, width), or one of these each stage.

    Raises: UserError if a window is not square.
    """
    pairs = windows if isinstance(windows, list | tuple) else ()
    if len(pairs) == 2 and all(isinstance(w, int) for w in pairs):
        pairs = [pairs]
    if any(len(set(w)) > 1 for w in pairs if isinstance(w, list | tuple)):
        raise beside.refuse(file, f"a Swin with windows of {windows}, which are not square")


def _common(values: int | Sequence[int]) -> int | tuple[int, ...]:
    """Return the number that all stages have, or one each."""
    if isinstance(values, int):
        return values
    values = [v if isinstance(v, int) else v[0] for v in values]
    return values[0] if len(set(values)) == 1 else tuple(values)
