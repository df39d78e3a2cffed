"""Cases of MS-VP's pictures: Grad-CAM, its panels, and prompts as images."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.golden.comparison import Comparison, outputs, scaled
from tests.golden.msvp_model import build, compare_shape, fill, pixels
from tests.golden.record import NotUnderstood, Record, under
from vpjax.report.plots import gradcam, prompts
from vpjax.weights.msvp import FEATURES, to_hwc


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield what a kind of picture compares."""
    meta.ignore("seed")
    kinds = {"gradcam": compare_gradcam, "prompt_panels": compare_prompts}
    yield from compare_shape(meta, arrays)
    yield from kinds[meta["kind"]](meta, arrays)


def compare_gradcam(meta: Record, arrays: Record) -> Iterator[Comparison]:
    """Yield the map of one image, what it is made of, and the three panels."""
    meta.expect("mode", "eval")
    parts = fill(build(meta), arrays)
    image = pixels(arrays["in/x"])
    chosen = None if meta["target_class"] == "predicted" else meta["target_class"]
    found = gradcam.cam(tuple(parts), image, target(meta["target_layer"]), chosen)
    original, heat, both = gradcam.panels(image[0], found.map)
    ours = {
        "logits": found.logits[None],
        "activations": found.activations.transpose(2, 0, 1),
        "gradients": found.gradients.transpose(2, 0, 1),
        "channel_weights": found.weights,
        "cam_unnormalised": found.raw,
        "cam": found.map,
        "panel_original": original,
        "panel_heatmap": heat,
        "panel_overlay": both,
    }
    if ours.keys() != {n.removeprefix("out/") for n in arrays if n.startswith("out/")}:
        raise NotUnderstood("what is recorded is not what is compared")
    yield Comparison("class", found.chosen, arrays["in/target_class"], 0.0)
    for name, value in ours.items():
        yield scaled(name, value, arrays[f"out/{name}"], **outputs(meta))


def target(layer: str) -> str:
    """Return our name of a published layer."""
    if match := re.fullmatch(r"features\.(\d+)", layer):
        return f"{FEATURES.index(int(match[1]))}.conv"
    if match := re.fullmatch(r"layer(\d)\.(\d)\.(conv\d)", layer):
        return f"{2 * (int(match[1]) - 1) + int(match[2])}.{match[3]}"
    raise NotUnderstood(f"layer {layer}")


def compare_prompts(meta: Record, arrays: Record) -> Iterator[Comparison]:
    """Yield prompts enlarged, averaged over colours and scaled to the range of colours."""
    for scale in under(arrays, "out/panel_"):
        (prompt,) = (arrays[n] for n in arrays if n.endswith(f"{scale}_prompt"))
        yield Comparison("channels", prompt.shape[1], meta["in_channels"], 0.0)
        ours = prompts.panel(to_hwc(prompt), meta["target_size"])
        yield scaled(scale, ours, arrays[f"out/panel_{scale}"], meta["tolerance"]["atol"])
    flat = prompts.panel(np.full((1, 1, meta["in_channels"]), 0.3, np.float32))
    yield Comparison("global", flat, np.full_like(flat, flat[0, 0]), 0.0)
