"""What a method that learns prompts of texts gets: CLIP's text tower, and the texts of the classes.

found = class_texts("/models/clip-vit-base-patch16", ("tabby cat", ...), None, sentences)
found.texts     vpjax.methods.class_texts.ClassTexts: "X X X X tabby cat." as token ids ...
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.data.class_names import clean
from vpjax.data.text import read_text
from vpjax.methods.class_texts import ClassTexts, Sentences
from vpjax.models.text.encode import check_ids, encode_prompts
from vpjax.models.text.features import ClassPrompts, cached_text_features, tokenizer_sample
from vpjax.models.text.pretrained import Text, load_text
from vpjax.models.text.templates import choose, class_prompts
from vpjax.models.text.tokenizer import open_tokenizer
from vpjax.models.text.tower import TextTower
from vpjax.models.text.zero_shot import SCALE
from vpjax.weights.clip_config import look, text_of


class FoundTexts(NamedTuple):
    """What a method gets, and the hash of what its tokenizer makes of a sentence."""

    texts: ClassTexts
    key: str


def class_texts(
    weights: str,
    classes: Sequence[str],
    metadata: Sequence[Mapping[str, Any]] | None,
    sentences: Sentences,
    *,
    tokenizer: str = "",
    dataset: str = "",
    tokenize: Callable[[list[str]], np.ndarray] | None = None,
) -> FoundTexts:
    """Return the text tower of a CLIP and the texts of classes.

    Args:
        weights: folder, file, address or hub name of a CLIP with a text tower.
        classes: names, in the order of the labels.
        metadata: what is known of each class, {"name": ...}; None: its name.
        sentences: what the method wants said, see `sentences_of`.
        tokenizer: folder or file of CLIP's tokenizer; "": beside the weights, else on this machine.
        dataset: the data set's name, for names without metadata.
        tokenize: texts to ids (N T); None: by CLIP's tokenizer.

    Raises:
        UserError: if there are no weights or no tokenizer, a class is called by a number or an id,
            or a text is too long.
    """
    if not weights:
        raise UserError(
            "this method learns prompts of CLIP's text tower, and backbone.weights is empty. Name "
            "the folder or file of a whole CLIP."
        )
    text = load_text(weights)
    if text.scale is None:
        raise UserError(
            f"weights {text.path} lack logit_scale, the factor of cosines that CLIP was trained "
            "with. Give the file of a whole CLIP."
        )
    tokenize = tokenize or open_tokenizer(tokenizer or weights, text.tower.context)
    if metadata is None:
        metadata = [{"name": clean(c, dataset)} for c in classes]
    words = sentences.context.replace("{", "{{").replace("}", "}}")
    prompts = class_prompts(metadata, (f"{words} {{name}}.",))
    ids = np.asarray(tokenize(prompts))
    check_ids(ids, text.tower)
    names = np.asarray(tokenize([clean(str(facts["name"])) for facts in metadata]))
    sample = tokenizer_sample(tokenize)
    found = ClassTexts(
        tower=text.tower,
        scale=text.scale,
        ids=ids[:, : ids.argmax(1).max() + 1],  # what follows the end token changes nothing
        name_lengths=names.argmax(1) - 1,
        targets=_targets(text, tokenize, metadata, sentences.templates, dataset, sample),
    )
    return FoundTexts(found, hashlib.sha256(sample.encode()).hexdigest())


def sentences_of(method: str, options: Mapping[str, Any]) -> Sentences:
    """Return what a method wants said of each class.

    Args:
        method: name of its class.
        options: of it; what is absent has its default.
    """
    cls = registry.lookup("methods", method)
    usual = {k: p.default for k, p in registry.options(cls).items()}
    return cls.sentences(usual | dict(options))


def shapes_of_texts(weights: str, variant: str | None, count: int, sentences: Sentences) -> Any:
    """Return texts of classes for a model of shapes only; nothing is loaded.

    Args:
        weights: of the CLIP; "": none, which leaves the sizes to the variant.
        variant: see `vpjax.models.text.tower.TextTower`; None: its default.
        count: number of classes.
        sentences: what the method wants said.
    """
    known = text_of(look(weights)) if weights else None
    options = known.options if known else {"variant": variant} if variant else {}
    tower = TextTower(**options, rngs=nnx.Rngs(0))
    length = min(tower.context, len(sentences.context.split()) + 8)
    ids = np.zeros((count, length), np.int32)
    ids[:, -1] = 1
    targets = np.zeros((count, tower.dim), np.float32) if sentences.templates else None
    return ClassTexts(tower, SCALE, ids, np.ones(count, np.int32), targets)


def _targets(
    text: Text,
    tokenize: Callable[[list[str]], np.ndarray],
    metadata: Sequence[Mapping[str, Any]],
    templates: str,
    dataset: str,
    sample: str,
) -> Float[np.ndarray, "C D"] | None:
    """Return the mean features of classes in templates, not normalised before the mean."""
    if not templates:
        return None
    chosen = choose(_several(templates), metadata, dataset)
    prompts = class_prompts(metadata, chosen)
    owners: Int[np.ndarray, " N"] = np.repeat(np.arange(len(metadata)), len(chosen))
    encode = lambda texts: encode_prompts(text.tower, tokenize, texts)  # noqa: E731
    facts = ClassPrompts(prompts, tuple(chosen), owners)
    return cached_text_features(encode, facts, f"{text.sha256} {sample}").values


def _several(templates: str) -> str | list[str]:
    """Return templates joined by ";" or in the lines of a file; else the name of their list."""
    path = Path(templates).expanduser()
    lines = read_text(path).splitlines() if path.suffix == ".txt" else templates.split(";")
    found = [line.strip().replace("{}", "{name}") for line in lines]
    return [line for line in found if line] if any("{" in line for line in found) else templates
