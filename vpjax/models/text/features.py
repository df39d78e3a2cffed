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
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from ml_collections import ConfigDict

from vpjax.core.errors import UserError
from vpjax.core.files import cache_folder
from vpjax.data.source import Source
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


def of_classes(config: ConfigDict, source: Source) -> TextFeatures:
    """Returns the text features of a data set's classes, by the config's weights and templates.

    Raises: UserError if there are no weights, no tokenizer, or a class lacks what a template asks.
    """
    where = config.backbone.weights
    if not where:
        raise UserError(
            f"{config.method.name} starts from what CLIP's text tower says of the classes, and "
            "backbone.weights is empty. Name the folder or file of a CLIP."
        )
    prompts, templates, owners = prompts_of(config, source)
    text = load_text(where)
    tokenizer = open_tokenizer(config.text.tokenizer or where, text.tower.context)
    encode = lambda texts: encode_prompts(text.tower, tokenizer, texts)  # noqa: E731
    weights = f"{text.sha256} {tokens_of(tokenizer)}"
    return text_features(encode, prompts, templates, weights, owners=owners)


def prompts_of(
    config: ConfigDict, source: Source
) -> tuple[list[str], tuple[str, ...], np.ndarray | None]:
    """Returns the prompts of the classes in order, the templates, and the class of each prompt.

    The last is None where classes have one prompt a template.
    Raises: UserError for a list of templates that does not exist, or a class that lacks a name.
    """
    choice, name_type, facts = config.text.templates, config.text.name_type, source.metadata
    if isinstance(choice, str) and "{" in choice:
        choice = [t.strip() for t in choice.split(";") if t.strip()]
    if name_type:
        templates = choose_zero_shot(choice, facts, name_type, config.data.name)
        prompts, owners = zero_shot.class_prompts(zero_shot_names(facts, name_type), templates)
    else:
        templates = choose(choice, facts, config.data.name)
        prompts, owners = class_prompts(facts, templates), None
    if all(c.isdecimal() for c in source.classes) and not any("digit" in t for t in templates):
        called = ", ".join(source.classes[:3])
        log.warning(
            "classes of %s are called %s ...: such names tell CLIP nothing", source.name, called
        )
    return prompts, templates, owners


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
