"""Grad-CAM: which part of an image speaks for a class.

    A = output of a site, K maps of h x w        G = d logit / d A
    map = relu(sum_k mean(G_k) A_k), scaled to 0..1, at the site's own resolution

Selvaraju et al. 2017, arXiv 1610.02391. A site is named "<layer>.<site>", such as "7.conv2", or
"stem". Where its output is tokens, those of the grid are laid out as maps; class token and prompts
have no place in the image and are left out.

The default is the last convolution, before its norm, whose map has more than one cell. In a
transformer it is the tokens that enter the last layer, behind its first norm ("11.norm1"): where
only the class token is used, the output of that layer no longer depends on the patches.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vpjax.core.errors import UserError, unknown
from vpjax.models.model import Model
from vpjax.models.partition import merge
from vpjax.nn.context import Context
from vpjax.report.plots.style import HEAT, INK, SIZE, blank, describe, figure_of, shortened
from vpjax.report.plots.subject import Subject, watched

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_MAPS = re.compile(r".*\.(attn\.(query|key|value|qkv)|cross\..*)")  # one a head, not one a place


class Cam(NamedTuple):
    """A map, and the activations and gradients it is made of.

    Attributes:
        chosen: the class.
        target: the site.
    """

    logits: Float[np.ndarray, " C"]
    chosen: int
    activations: Float[np.ndarray, "h w K"]
    gradients: Float[np.ndarray, "h w K"]
    target: str

    @property
    def weights(self) -> Float[np.ndarray, " K"]:
        """The weight of each map."""
        return self.gradients.mean((0, 1))

    @property
    def raw(self) -> Float[np.ndarray, "h w"]:
        """The weighted sum of the maps where it is positive."""
        return np.maximum((self.activations * self.weights).sum(-1), 0)

    @property
    def map(self) -> Float[np.ndarray, "h w"]:
        """`raw`, scaled to 0..1; zeros stay zeros."""
        return scaled(self.raw)


def scaled(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return (x - min) / (max - min), and zeros where all are equal."""
    x = x - x.min()
    return x / (x.max() + 1e-8)


def resized(x: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Return `x` enlarged bilinearly; pixel centres are at halves, edges are repeated."""
    return np.asarray(jax.image.resize(jnp.asarray(x, jnp.float32), size, "linear", False))


def panels(image: Float[np.ndarray, "H W C"], cam: Float[np.ndarray, "h w"]) -> tuple:
    """Return an image in 0..1 (H W if grey), the map over it (H W), and both together (H W 3).

    As MS-VP draws it, and only its recorded cases need it: the image is what the model takes,
    stretched from its least to its greatest value, and the colours are "jet", which do not rise
    evenly and which many cannot tell apart. Our own pictures use `over`.
    """
    shown = scaled(image)
    shown = shown[..., 0] if (shown == shown[..., :1]).all() else shown
    return shown, *over(shown, cam, "jet")


def over(
    shown: Float[np.ndarray, "H W *C"], cam: Float[np.ndarray, "h w"], name: str = HEAT
) -> tuple:
    """Return a map over an image in 0..1 (H W), and both together (H W 3).

    The last is 0.6 of the image and 0.4 of the map in the colours `name` of matplotlib.
    """
    import matplotlib

    heat = resized(cam, shown.shape[:2])
    colours = matplotlib.colormaps[name](heat)[..., :3]
    wide = shown[..., None] if shown.ndim == 2 else shown
    return heat, np.clip(0.6 * wide + 0.4 * colours, 0, 1)


def sites(parts: tuple, images: Float[Array, "1 H W C"]) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and type of every site that has maps, by name, in the order of computation."""
    graph, *numbers = parts
    found = {}

    def look(images, *numbers):
        model = merge(graph, *numbers)

        def see(site, y, ctx):
            name = _site(site, ctx)
            if not NO_MAPS.fullmatch(name) and maps(model, name, y) is not None:
                found.setdefault(name, jax.ShapeDtypeStruct(y.shape, y.dtype))
            return y

        return watched(model, images, see)["logits"]

    jax.eval_shape(look, images, *numbers)
    return found


def maps(model: Model, name: str, y: Array) -> Float[Array, "h w K"] | None:
    """Return a site's output `y` for the first image as maps; None if it has none."""
    if y.ndim == 4:
        return y[0]
    layer = name.partition(".")[0]
    h, w = model.backbone.sites[int(layer)].grid if layer.isdigit() else model.backbone.grid
    if y.ndim != 3 or y.shape[1] < h * w:
        return None
    return y[0, -h * w :].reshape(h, w, -1)  # the grid comes last, behind class token and prompts


def choose(found: Mapping[str, jax.ShapeDtypeStruct], target: str = "") -> str:
    """Return the name of the site: `target`, or the default.

    Raises:
        UserError: for a site that does not exist or has no maps.
    """
    if target and target not in found:
        raise unknown("target", target, found)
    if not found:
        raise UserError("Grad-CAM needs a site with maps, and this backbone has none")
    # A map of one cell, as small images have them at the end, shows nothing.
    large = [n for n, y in found.items() if y.shape[1:-1] != (1, 1)]
    convolutions = [n for n in large if re.fullmatch(r"\d+\.conv\d*", n)]
    norms = [n for n in large if re.fullmatch(r"\d+\.norm1", n)]
    return target or (convolutions or norms or large or list(found))[-1]


def cam(
    parts: tuple, images: Float[Array, "1 H W C"], target: str = "", chosen: int | None = None
) -> Cam:
    """Return the Grad-CAM map of an image.

    Args:
        parts: the arguments of `vpjax.models.partition.merge`.
        target: the site; "": the default.
        chosen: the class; None: the predicted one.

    Raises:
        UserError: for a site that does not exist or has no maps.
    """
    return cam_of(parts, images, target)(images, chosen)


def cam_of(
    parts: tuple, images: Float[Array, "1 H W C"], target: str = ""
) -> Callable[[Float[Array, "1 H W C"], int | None], Cam]:
    """Return the function `cam` of an image and a class alone, which is compiled once.

    Args:
        parts, target: see `cam`.
        images: like those that it will get.
    """
    graph, *numbers = parts
    found = sites(parts, images)
    target = choose(found, target)

    @jax.jit
    def look(images, wanted, *numbers):
        model = merge(graph, *numbers)

        def logit(added):
            seen = []

            def see(site, y, ctx):
                if _site(site, ctx) != target or seen:  # a second call is that of prompts
                    return y
                seen.append(y)
                return y + added

            logits = watched(model, images, see)["logits"][0]
            k = jnp.where(wanted < 0, logits.argmax(), wanted)
            return logits[k], (logits, k, seen[0])

        zeros = jnp.zeros(found[target].shape, found[target].dtype)
        gradients, (logits, k, y) = jax.grad(logit, has_aux=True)(zeros)
        return logits, k, *(maps(model, target, x).astype(jnp.float32) for x in (y, gradients))

    def seen(images, chosen=None):
        wanted = jnp.int32(-1 if chosen is None else chosen)
        logits, k, activations, gradients = jax.device_get(look(images, wanted, *numbers))
        return Cam(logits.astype(np.float32), int(k), activations, gradients, target)

    return seen


def _site(site: str, ctx: Context) -> str:
    return site if ctx.layer is None else f"{ctx.layer}.{site}"


def gradcam(subject: Subject) -> "Figure":
    """Draw one image of a run, the baseline's row first: image, map, both together.

    Both maps are of the class that the run predicts.
    """
    mine = cam(subject.parts, subject.example[0], subject.target)
    rows = [(subject, mine)]
    if (other := subject.baseline) is not None:
        # Another network need not have the site; then it shows its own default.
        has = subject.target in sites(other.parts, other.example[0])
        target = subject.target if has else ""
        rows.insert(0, (other, cam(other.parts, other.example[0], target, mine.chosen)))
    figure = figure_of(6.6, 0.5 + 2.1 * len(rows))
    grid = figure.subplots(len(rows), 3, squeeze=False)
    for (row, found), axes in zip(rows, grid, strict=True):
        image = row.example[1] / np.float32(255)
        heat, both = over(image, found.map)
        h, w = found.map.shape
        _picture(axes[0], image, "image")
        _picture(axes[1], heat, f"map of {found.target}, {h} x {w}", HEAT)
        _picture(axes[2], both, "both")
        name = f"{'baseline ' if row is other else ''}{row.name}"
        axes[0].set_ylabel(f"{name}\n{_prediction(row, found)}", fontsize=SIZE - 1, color=INK)
    text = f"{_true(subject)}evidence for {shortened(subject.classes[mine.chosen])}"
    figure.suptitle(text, fontsize=SIZE)
    describe(
        figure,
        f"One image: {subject.where}. Map: relu of the sum of the site's maps, weighted by the "
        "mean gradient of the logit; dark 0, bright its highest value. Both: 0.6 image, 0.4 map.",
    )
    return figure


def _true(subject: Subject) -> str:
    """Return the true class, or how many an image of several has."""
    if np.ndim(subject.label):
        names = [shortened(subject.classes[i]) for i in np.flatnonzero(subject.label)]
        return f"true: {', '.join(names[:3]) or 'none'}{' ...' * (len(names) > 3)}; "
    return f"true class {shortened(subject.classes[int(subject.label)])}; "


def _prediction(subject: Subject, found: Cam) -> str:
    wide = np.exp(found.logits - found.logits.max())
    best = int(wide.argmax())
    right = "" if np.ndim(subject.label) else (", right" if best == subject.label else ", wrong")
    share = 100 * wide[best] / wide.sum()
    return f"predicts {shortened(subject.classes[best])} ({share:.0f} %){right}"


def _picture(axes: "Axes", values: np.ndarray, title: str, colours: str = "gray") -> None:
    axes.imshow(values, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=SIZE - 1, color=INK)
    blank(axes)
