"""The text tower of a pretrained CLIP, with its weights.

text = load_text("/models/clip-vit-base-patch16")
text.tower(ids)     N D, see vpjax.models.text.tower
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx

from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.models.text.tower import TextTower
from vpjax.weights import clip, clip_config
from vpjax.weights.check import check
from vpjax.weights.download import sha256


class Text(NamedTuple):
    """A text tower with weights, and the file they come from."""

    tower: TextTower
    scale: float | None  # exp(logit_scale): 100 in trained models; None: not in the file
    path: Path
    sha256: str  # of the file


def load_text(where: str, **options: Any) -> Text:
    """Build the text tower of a CLIP with its weights.

    Args:
        where: as in `vpjax.weights.clip_config.read_clip_config`.
        options: options of `TextTower` that replace those of the file.

    Raises:
        UserError: if there is no such file, it holds no text tower, it does not fit, or nothing
            says what its arrays do not show.
    """
    file = clip_config.look(where)
    path, found = file.path, clip_config.text_of(file)
    if found is None:
        raise UserError(f"weights {path} hold no text tower. Give the file of a whole CLIP.")
    if unsaid := [name for name in found.open if name not in options]:
        raise UserError(
            f"weights {path} are those of {found.kind}: nothing says {' and '.join(unsaid)} of its "
            "text tower, which change its features. Put the model's open_clip_config.json or "
            "config.json beside the file."
        )
    sizes = found.options | options
    graph, state = nnx.split(nnx.eval_shape(lambda: TextTower(**sizes, rngs=nnx.Rngs(0))))
    expected = params.flatten(state)
    values = clip.translate(clip_config.arrays_of(file), expected, clip.TEXT)
    scale = values.get("unused/logit_scale")
    values = {n: v for n, v in values.items() if not n.startswith("unused/")}
    check(values, expected, path)
    values = {n: jnp.asarray(values[n], jnp.float32) for n in expected}
    tower = nnx.merge(graph, params.fill(state, values))
    return Text(tower, None if scale is None else math.exp(scale.item()), path, sha256(path))
