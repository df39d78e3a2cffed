"""Zero-shot classification: an image belongs to the class whose text feature is nearest to its own.

    t_c = unit(mean of the class's text features)        not normalised before the mean
    logits = 100 <unit(f), t_c>

Radford et al. 2021, arXiv 2103.00020, normalise each text feature before the mean, as `each=True`
does. The default is the baseline of MoP-CLIP.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vpjax.core.errors import UserError
from vpjax.nn.mop_similarity import unit

SCALE = 100.0  # exp(logit_scale) of the trained models


def class_prompts(
    names: Sequence[Sequence[str]], templates: Sequence[str]
) -> tuple[list[str], Int[np.ndarray, " N"]]:
    """Fills templates with the names of each class.

    Args:
        names: the names of each class; underscores become blanks.
        templates: sentences with one "{}", such as "a photo of a {}".

    Returns:
        Prompts in the order of classes, then names, then templates; and the class of each, N.

    Raises:
        UserError: for a class without names, or a template without one "{}".
    """
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"template {template!r} needs one {{}}, where a class's name goes")
    prompts, classes = [], []
    for index, several in enumerate(names):
        if not several:
            raise UserError(f"class {index} has no name to fill templates with")
        for name in several:
            prompts += [t.replace("{}", name.replace("_", " ")) for t in templates]
            classes += [index] * len(templates)
    return prompts, np.array(classes, np.int32)


def class_embeddings(
    features: Float[Array | np.ndarray, "N D"],
    classes: Int[Array | np.ndarray, " N"],
    num_classes: int,
    each: bool = False,
) -> Float[Array, "C D"]:
    """Return one vector of length 1 for each class from the features of its prompts.

    Args:
        features: of N prompts.
        classes: the class of each prompt.
        num_classes: C.
        each: whether each feature is normalised before the mean.
    """
    features = jnp.asarray(features, jnp.float32)
    features = unit(features) if each else features
    # Their sum has the direction of their mean.
    return unit(jax.ops.segment_sum(features, jnp.asarray(classes), num_classes))


def logits(
    features: Float[Array, "B D"], embeddings: Float[Array, "C D"], scale: float = SCALE
) -> Float[Array, "B C"]:
    """Return scaled cosines between image features and classes, in float32."""
    f = unit(jnp.asarray(features, jnp.float32))
    return scale * jnp.matmul(f, embeddings.T, precision=jax.lax.Precision.HIGHEST)
