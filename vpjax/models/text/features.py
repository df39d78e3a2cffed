"""What CLIP's text tower says of every class: one vector a class, kept on disk.

    t_c = unit(mean over templates of unit(feature of the template filled with the class))
    t_c = unit(mean over templates and names of the feature)    by name, as zero-shot CLIP has it

    <cache>/text_features/<key>.npz    key: hash of the weights, templates, prompts in order, dtype

Encoding ten thousand classes takes minutes, and every start of a run, every seed and every
evaluation needs the same numbers.
"""

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from vpjax.core.errors import UserError
from vpjax.core.files import cache_folder
from vpjax.models.text import zero_shot
from vpjax.models.text.encode import encode_prompts
from vpjax.models.text.pretrained import load_text
from vpjax.models.text.templates import choose, choose_zero_shot, class_prompts, zero_shot_names
from vpjax.models.text.tokenizer import open_tokenizer
from vpjax.nn.mop_similarity import unit

log = logging.getLogger(__name__)


class TextFeatures(NamedTuple):
    """Vectors of length 1, C D, and the hash of all that they depend on."""

    values: Float32[np.ndarray, "C D"]
    key: str


def class_text_features(
    weights: str,
    classes: Sequence[str],
    metadata: Sequence[Any],
    *,
    templates: Any = "auto",
    name_type: str = "",
    tokenizer: str = "",
    dataset: str = "",
) -> TextFeatures:
    """Returns the text features of classes (to be replaced at the merge)."""
    if not weights:
        raise UserError(
            "the method starts from text features of the classes, and backbone.weights is empty. "
            "Name the folder or file of a CLIP."
        )
    choice = templates
    if isinstance(choice, str) and "{" in choice:
        choice = [t.strip() for t in choice.split(";") if t.strip()]
    if name_type:
        templates = choose_zero_shot(choice, metadata, name_type, dataset)
        prompts, owners = zero_shot.class_prompts(zero_shot_names(metadata, name_type), templates)
    else:
        templates = choose(choice, metadata, dataset)
        prompts, owners = class_prompts(metadata, templates), None
    text = load_text(weights)
    made = open_tokenizer(tokenizer or weights, text.tower.context)
    encode = lambda texts: encode_prompts(text.tower, made, texts)  # noqa: E731
    return text_features(
        encode, prompts, templates, f"{text.sha256} {tokens_of(made)}", owners=owners
    )


def tokens_of(tokenizer: Callable) -> str:
    """Returns what a tokenizer makes of a sentence: another vocabulary, another answer."""
    return str(tokenizer(["a wildlife photo of Danaus plexippus"])[0].tolist())


def text_features(
    encode: Callable[[Sequence[str]], np.ndarray],
    prompts: Sequence[str],
    templates: Sequence[str],
    weights: str,
    folder: Path | None = None,
    owners: np.ndarray | None = None,
) -> TextFeatures:
    """Returns text features from `folder` (default: of the cache), encoding what is not there.

    `prompts` are all templates of class 0, then of class 1 ...; `encode` returns their features, N
    D; `weights` stands for whatever else these depend on. With `owners`, the class of each prompt,
    features are averaged as they are.
    """
    facts = {"weights": weights, "templates": list(templates), "prompts": list(prompts)}
    facts |= {} if owners is None else {"owners": owners.tolist()}
    text = json.dumps(facts | {"dtype": "float32"}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    path = (folder or cache_folder() / "text_features") / f"{key}.npz"
    if (values := read(path)) is None:
        log.info("text      %d prompts, such as %r", len(prompts), prompts[0])
        features = encode(prompts)
        if owners is None:
            values = of_prompts(features, len(templates))
        else:
            values = zero_shot.class_embeddings(features, owners, int(owners.max()) + 1)
        values = np.asarray(values)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}.new")
        with open(new, "wb") as file:
            np.savez(file, text=values, templates=np.array(templates))
        new.replace(path)
    else:
        log.info("text      features of %d classes from %s", len(values), path)
    return TextFeatures(values, key)


def of_prompts(features: Float[Array | np.ndarray, "N D"], count: int) -> Float[Array, "C D"]:
    """Returns one vector a class from the features of its `count` prompts."""
    each = unit(jnp.asarray(features, jnp.float32))
    return unit(each.reshape(-1, count, each.shape[-1]).mean(1))


def read(path: Path) -> np.ndarray | None:
    """Returns the features of a file; None if there is none, or it is damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["text"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("text features %s are damaged (%s): encoding them again", path, error)
        return None
