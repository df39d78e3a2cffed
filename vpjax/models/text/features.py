"""Text features of classes: one vector a class from CLIP's text tower, kept on disk.

    t_c = unit(mean over templates of unit(feature of the template filled with the class))
    t_c = unit(mean over names and templates of the feature)    with a name type: zero-shot CLIP

    <cache>/text_features/<key>.npz    key: hash of the weights, templates, prompts in order, dtype

Encoding ten thousand classes takes minutes, and every start of a run, every seed and every
evaluation needs the same numbers.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from vpjax.core import files, kept
from vpjax.core.errors import UserError
from vpjax.data.class_names import clean
from vpjax.models.text import zero_shot
from vpjax.models.text.encode import encode_prompts
from vpjax.models.text.pretrained import load_text
from vpjax.models.text.templates import (
    choose,
    choose_zero_shot,
    class_prompts,
    refuse_ids,
    zero_shot_names,
)
from vpjax.models.text.tokenizer import open_tokenizer
from vpjax.nn.mop_similarity import unit

log = logging.getLogger(__name__)


class TextFeatures(NamedTuple):
    """Vectors of length 1, and the hash of all that they depend on.

    `scale` is exp(logit_scale) of the weights; None: not known.
    """

    values: Float32[np.ndarray, "C D"]
    key: str
    scale: float | None = None


class ClassPrompts(NamedTuple):
    """Sentences about classes, all of class 0 first."""

    prompts: list[str]
    templates: tuple[str, ...]
    owners: Int[np.ndarray, " N"] | None  # the class of each prompt; None: one prompt a template


def class_text_features(
    weights: str,
    classes: Sequence[str],
    metadata: Sequence[Mapping[str, Any]] | None = None,
    *,
    templates: str | Sequence[str] = "auto",
    name_type: str = "",
    tokenizer: str = "",
    dataset: str = "",
) -> TextFeatures:
    """Return the text features of classes, from the cache where they are there.

    Args:
        weights: folder, file, address or hub name of a CLIP with a text tower.
        classes, metadata, templates, name_type, dataset: see `prompts_of_classes`.
        tokenizer: folder or file of CLIP's tokenizer; "": beside the weights, else on this machine.

    Raises:
        UserError: if there are no weights or no tokenizer, or a class lacks what a template needs.
    """
    if not weights:
        raise UserError(
            "this method starts from text features of the class names, which need a CLIP, and "
            "backbone.weights is empty. Name the folder or file of a CLIP."
        )
    prompts = prompts_of_classes(
        classes, metadata, templates=templates, name_type=name_type, dataset=dataset
    )
    text = load_text(weights)
    tokenize = open_tokenizer(tokenizer or weights, text.tower.context)
    encode = lambda texts: encode_prompts(text.tower, tokenize, texts)  # noqa: E731
    found = cached_text_features(encode, prompts, f"{text.sha256} {tokenizer_sample(tokenize)}")
    return found._replace(scale=text.scale)


def prompts_of_classes(
    classes: Sequence[str],
    metadata: Sequence[Mapping[str, Any]] | None = None,
    *,
    templates: str | Sequence[str] = "auto",
    name_type: str = "",
    dataset: str = "",
) -> ClassPrompts:
    """Fills templates with the names of classes.

    Args:
        classes: names, in the order of the labels.
        metadata: what is known of each class, see `vpjax.data.source.Source`; None: its name.
        templates: the name of a list of `vpjax.models.text.templates`, "auto" for the list that
            suits the data, templates separated by ";", or a sequence of them.
        name_type: "common", "scientific" or "both": the names that fill templates with one "{}",
            as zero-shot CLIP does. "": templates with named fields, such as "{species}".
        dataset: the data set's name, by which "auto" chooses where metadata does not decide.

    Raises:
        UserError: for a list of templates or a name type that does not exist, or a class that lacks
            a name or is called by a number or an id.
    """
    if metadata is None:
        metadata = [{"name": clean(c, dataset)} for c in classes]
    if isinstance(templates, str) and "{" in templates:
        templates = [t.strip() for t in templates.split(";") if t.strip()]
    if name_type:
        chosen = choose_zero_shot(templates, metadata, name_type, dataset)
        refuse_ids(metadata, chosen)
        prompts, owners = zero_shot.class_prompts(zero_shot_names(metadata, name_type), chosen)
    else:
        chosen = choose(templates, metadata, dataset)
        prompts, owners = class_prompts(metadata, chosen), None
    return ClassPrompts(prompts, chosen, owners)


def tokenizer_sample(tokenize: Callable[[list[str]], np.ndarray]) -> str:
    """Return the ids of one sentence, which tell tokenizers with different vocabularies apart."""
    return str(tokenize(["a wildlife photo of Danaus plexippus"])[0].tolist())


def cached_text_features(
    encode: Callable[[Sequence[str]], np.ndarray],
    prompts: ClassPrompts,
    weights: str,
    folder: Path | None = None,
) -> TextFeatures:
    """Return the text features of classes from a file, after encoding them if there is none.

    Args:
        encode: returns the features of sentences, N D.
        prompts: the sentences. Features are normalised before they are averaged over templates,
            unless `prompts.owners` names the class of each.
        weights: identifies what features depend on besides the prompts: a digest of the weights.
        folder: where the file is; default: `text_features` in the cache folder.
    """
    texts, templates, owners = prompts
    facts = {"weights": weights, "templates": list(templates), "prompts": list(texts)}
    facts |= {} if owners is None else {"owners": owners.tolist()}
    content = json.dumps(facts | {"dtype": "float32"}, sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()
    path = (folder or files.cache_folder() / "text_features") / f"{key}.npz"
    if (found := kept.read_arrays(path)) is not None:
        values = found["text"]
        log.debug("text      features of %d classes from %s", len(values), path)
        return TextFeatures(values, key)
    log.debug("text      %d prompts, such as %r", len(texts), texts[0])
    features = encode(texts)
    if owners is None:
        values = np.asarray(mean_over_templates(features, len(templates)))
    else:
        values = np.asarray(zero_shot.class_embeddings(features, owners, int(owners.max()) + 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    kept.write_arrays(path, {"text": values, "templates": np.array(templates)})
    return TextFeatures(values, key)


def mean_over_templates(
    features: Float[Array | np.ndarray, "N D"], num_templates: int
) -> Float[Array, "C D"]:
    """Return one vector of length 1 a class from the features of its prompts, N = C templates."""
    each = unit(jnp.asarray(features, jnp.float32))
    return unit(each.reshape(-1, num_templates, each.shape[-1]).mean(1))
