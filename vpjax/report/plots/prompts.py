"""The learnt prompts of MS-VP, in pixels, at every scale.

Each is enlarged bilinearly, averaged over colours and scaled to 0..1. A prompt of one pixel is
constant: its panel is of one colour, with its value.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vpjax.report.plots.gradcam import resized, scaled
from vpjax.report.plots.style import HEAT, INK, SIZE, blank, describe, figure_of
from vpjax.report.plots.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGET = 224  # pixels, an edge of a panel
SCALES = ("global", "mid", "local")


def learnt(subject: Subject) -> dict[str, Float[np.ndarray, "h w C"]]:
    """Return the prompts of a run by scale, coarse ones first."""
    found = {}
    for scale in SCALES:
        prompt = getattr(subject.model.method, f"{scale}_prompt", None)
        if prompt is not None:
            values = np.asarray(prompt[...], np.float32)
            found[scale] = values.reshape(values.shape[-3:])
    return found


def panel(prompt: Float[np.ndarray, "h w C"], size: int = TARGET) -> Float[np.ndarray, "S S"]:
    """Return a prompt enlarged, averaged over colours, scaled to 0..1; 0.5 if it is constant."""
    if prompt.shape[:2] == (1, 1):
        return np.full((size, size), 0.5, np.float32)
    large = [resized(prompt[..., c], (size, size)) for c in range(prompt.shape[-1])]
    return scaled(np.mean(large, axis=0))


def prompts(subject: Subject) -> "Figure":
    """Draw the learnt prompts, a panel for each scale, with a colour bar of their values."""
    found = learnt(subject)
    figure = figure_of(2.6 * len(found), 2.7)
    for axes, (scale, prompt) in zip(
        figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
    ):
        h, w, _ = prompt.shape
        shown = axes.imshow(panel(prompt), cmap=HEAT, vmin=0, vmax=1)
        blank(axes)
        axes.set_title(
            f"{scale} prompt\n({h} x {w} → {TARGET} x {TARGET})", fontsize=SIZE - 1, color=INK
        )
        # The ends of the colours are the values at the darkest and the brightest pixel.
        large = np.mean(
            [resized(prompt[..., c], (TARGET, TARGET)) for c in range(prompt.shape[-1])], 0
        )
        bar = figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.04)
        ends = [0.5] if h == w == 1 else [0.0, 1.0]
        values = [large.mean()] if h == w == 1 else [large.min(), large.max()]
        bar.set_ticks(ends, labels=[f"{v:+.3f}" for v in values], fontsize=SIZE - 2)
    describe(
        figure,
        "The learnt values, means over colours, in units of the normalised image; each panel has "
        "colours of its own, its ends are beside it.",
    )
    return figure
