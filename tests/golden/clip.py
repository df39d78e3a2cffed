"""Cases of CLIP: both towers, weights of three kinds, zero-shot, preprocessing, tokens.

clip_a, clip_b      features and the results inside, from the hub's files by the library's own
                    loaders; clip_b holds the same weights in OpenAI's names
zeroshot            class embeddings and logits of three kinds of names
preprocess          resized, cropped, normalised
tokenizer_cases     ids of 24 texts (JSON)
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.golden.comparison import Comparison, outputs, scaled
from tests.golden.record import NotUnderstood, Record, under
from vpjax.backbones.clip import CLIP
from vpjax.core import params
from vpjax.data import preset
from vpjax.data.resize import on_host, short_side
from vpjax.models.text import pretrained, tokenizer, zero_shot
from vpjax.models.text.encode import encode_prompts
from vpjax.models.text.tower import TextTower
from vpjax.nn.context import EVALUATION
from vpjax.nn.mop_similarity import unit
from vpjax.nn.tokens import Tokens
from vpjax.weights.clip_config import read_clip_config
from vpjax.weights.load import load

# Sizes of a case: where a config.json has them.
SIZES = {
    "res": ("vision_config", "image_size"),
    "patch": ("vision_config", "patch_size"),
    "vwidth": ("vision_config", "hidden_size"),
    "vheads": ("vision_config", "num_attention_heads"),
    "vlayers": ("vision_config", "num_hidden_layers"),
    "twidth": ("text_config", "hidden_size"),
    "theads": ("text_config", "num_attention_heads"),
    "tlayers": ("text_config", "num_hidden_layers"),
    "ctx": ("text_config", "max_position_embeddings"),
    "vocab": ("text_config", "vocab_size"),
    "embed": ("text_config", "projection_dim"),
}


def find(meta: Mapping[str, Any]) -> Callable | None:
    """Return what compares a case, None if it is none of these."""
    if "vwidth" in meta.get("cfg", ()):
        return compare
    if "categories" in meta and "clip" in meta:
        return compare_zeroshot
    return compare_pixels if {"size", "sizes"} <= meta.keys() else None


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield features, results inside and losses, for each kind of weights that is there."""
    meta.ignore("seed")
    meta.expect("quick_gelu", True)
    meta.expect("layer_norm_eps", 1e-5)
    cfg, limits = meta["cfg"], outputs(meta)
    sizes = {key: cfg[key] for key in SIZES}
    # A case is found by its sizes, as it does not state its name.
    found = (p for p in sorted(folder.glob("*.config.json")) if sizes_of(p) == sizes)
    if (case := next(found, None)) is None:
        raise NotUnderstood(f"no config.json in {folder.name} with {sizes}")
    yield Comparison("images", len(arrays["in/pixel_values"]), cfg["B"], 0.0)
    yield Comparison("texts", len(arrays["in/input_ids"]), cfg["NT"], 0.0)
    with model(folder, case.name.removesuffix(".config.json")) as where:
        vision, text = load_vision(where), pretrained.load_text(str(where))
        yield scaled("scale", text.scale, cfg["scale"], **limits)
        yield from compare_vision(vision, arrays, limits)
        yield from compare_text(text, arrays, limits)
        yield from compare_both(vision, text, arrays, limits)
        if given := under(arrays, "param/"):
            yield from compare_openai(where, given, vision, text)


def compare_vision(vision: CLIP, arrays: Record, limits: dict) -> Iterator[Comparison]:
    """Yield the image tower from pixels to features, and each layer."""
    images = pixels(arrays["in/pixel_values"])
    embedded = vision.embed(images, EVALUATION)
    yield from recorded({"vision_hidden_0": embedded.x}, arrays, limits)
    last = yield from compare_layers("vision", vision, arrays, limits)
    ours = {"vision_last_hidden_state": last, "vision_pooler_output": vision.norm(last[:, 0])}
    yield from recorded(ours | {"image_features": whole(vision, images)}, arrays, limits)


def compare_text(text: pretrained.Text, arrays: Record, limits: dict) -> Iterator[Comparison]:
    """Yield the text tower likewise, with other padding, and cut where the longest text ends."""
    tower, ids = text.tower, arrays["in/input_ids"]
    yield from recorded({"text_hidden_0": tower.embed(ids).x}, arrays, limits)
    last = tower.norm((yield from compare_layers("text", tower, arrays, limits)))
    ours = {"text_last_hidden_state": last, "text_features": tower(ids)}
    ours["text_pooler_output"] = last[np.arange(len(ids)), ids.argmax(-1)]
    yield from recorded(ours, arrays, limits)
    features = arrays["out/text_features"]
    yield scaled("other padding", tower(arrays["in/input_ids_eos_padded"]), features, **limits)
    yield scaled("cut", tower(ids[:, : ids.argmax(1).max() + 1]), features, **limits)
    rows = [str(i) for i in (*range(len(ids)), 0)]
    ours = encode_prompts(tower, lambda texts: ids[list(map(int, texts))], rows, 2)
    yield scaled("prompts", ours, features[list(map(int, rows))], **limits)


def compare_layers(
    kind: str, tower: CLIP | TextTower, arrays: Record, limits: dict
) -> Generator[Comparison, None, jax.Array]:
    """Yield each layer on its recorded input; return what leaves the last.

    Over several layers the recorded numbers themselves are off by all that is allowed.
    """
    for i, layer in enumerate(tower.layers):
        x = jnp.asarray(arrays[f"out/{kind}_hidden_{i}"])
        tokens = Tokens(x, num_prefix_tokens=x.shape[1], grid=(0, 0))
        out = jax.jit(lambda t, layer=layer: layer(t, EVALUATION))(tokens).x
        yield scaled(f"{kind} layer {i}", out, arrays[f"out/{kind}_hidden_{i + 1}"], **limits)
    return out


def compare_both(
    vision: CLIP, text: pretrained.Text, arrays: Record, limits: dict
) -> Iterator[Comparison]:
    """Yield features of length 1, their scaled cosines, and the loss CLIP was trained with."""
    images = whole(vision, pixels(arrays["in/pixel_values"]))
    texts = unit(text.tower(arrays["in/input_ids"]))
    logits = zero_shot.logits(images, texts, text.scale)
    ours = {
        "image_embeds_normalized": unit(images),
        "text_embeds_normalized": texts,
        "logits_per_image": logits,
        "logits_per_text": logits.T,
    }
    if len(images) == len(texts):
        log_p = [jnp.diagonal(jax.nn.log_softmax(x)) for x in (logits, logits.T)]
        ours["contrastive_loss"] = -jnp.stack(log_p).mean()
    yield from recorded({n: v for n, v in ours.items() if f"out/{n}" in arrays}, arrays, limits)


def compare_openai(
    where: Path, given: dict, vision: CLIP, text: pretrained.Text
) -> Iterator[Comparison]:
    """Yield the same weights in OpenAI's names, which must load as exactly the same."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.npz"
        np.savez(path, **given)
        shutil.copy(where / "config.json", folder)
        other, beside = load_vision(path), pretrained.load_text(str(path))
    for name, one, two in (("vision", vision, other), ("text", text.tower, beside.tower)):
        ours, theirs = (params.flatten(nnx.state(tower)) for tower in (two, one))
        for key, value in theirs.items():
            yield Comparison(f"OpenAI {name} {key}", ours[key], value, 0.0)
    yield Comparison("OpenAI scale", beside.scale, text.scale, 0.0)


def compare_zeroshot(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield class embeddings and logits by common names, scientific names and both."""
    limits, categories = outputs(meta), meta.whole("categories")
    with model(folder, meta["clip"]) as where:
        vision, tower = load_vision(where), pretrained.load_text(str(where)).tower
    images = whole(vision, pixels(arrays["in/images"]))
    for kind, templates in meta["templates"].items():
        called = [named(category, kind) for category in categories]
        prompts, classes = zero_shot.class_prompts(called, templates)
        if prompts != meta["prompts"][kind]:
            raise AssertionError(f"prompts of {kind} differ")
        ids = arrays[f"in/{kind}/token_ids"]
        ids_of = lambda texts, p=prompts, i=ids: i[[p.index(t) for t in texts]]  # noqa: E731
        features = encode_prompts(tower, ids_of, prompts)
        ours = zero_shot.class_embeddings(features, classes, len(called))
        yield scaled(f"{kind} weights", ours, arrays[f"out/{kind}/weights"], **limits)
        logits = zero_shot.logits(images, ours)
        yield scaled(f"{kind} logits", logits, arrays[f"out/{kind}/logits"], **limits)


def named(category: dict, kind: str) -> list[str]:
    """Return the names of a class: a common one falls back to the scientific one."""
    common, scientific = category.get("common_name"), category["name"]
    if kind == "both":
        return [n for n in (common, scientific) if n]
    return [(common if kind == "common" else None) or scientific]


def compare_pixels(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield pixels, every level exactly, and normalised ones to float32 rounding."""
    if not meta["tolerance"].startswith("PIL path: exact uint8"):
        raise NotUnderstood(f"tolerance {meta['tolerance']!r}")
    size, clip = meta["size"], preset("clip")
    for i, shape in enumerate(meta["sizes"]):
        image = arrays[f"in/{i}/image"]
        yield Comparison(f"size {i}", image.shape[:2], shape, 0.0)
        arrays.ignore(f"out/{i}/hf_normalized")  # of another crop, see the README
        resized = on_host(image, *short_side(*image.shape[:2], size), clip.resize)
        yield Comparison(f"resized {i}", resized, arrays[f"out/{i}/resized"], 0.0)
        cropped = clip.host(image, size, train=False)
        yield Comparison(f"cropped {i}", cropped, arrays[f"out/{i}/cropped"], 0.0)
        ours = clip.device(cropped[None], size, train=False)[0]
        yield Comparison(f"normalised {i}", ours, arrays[f"out/{i}/normalized"], 1e-6, 1e-6)


def compare_json(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield token ids, by the part of the vocabulary that the texts need, and by all of it."""
    for case in meta["cases"]:
        case.expect("overflow", False)
        case.ignore("hf_ids", "same")
        yield Comparison("number of ids", len(case["ids"]), case["n"], 0.0)
        ends = case["ids"][0], case["ids"][-1]
        yield Comparison("start and end", ends, (meta["sot"], meta["eot"]), 0.0)
    small = json.loads((folder / "tokenizer_mini_vocab.json").read_text())
    backends = {"small": tokenizer.from_merges(small["merges"], small["vocab"])}
    if (table := folder / "clip_bpe_merges.txt.gz").exists():
        backends["whole"] = tokenizer.from_merges(tokenizer.read_merges(table))
    for name, backend in backends.items():
        ours = tokenizer.Tokenizer(backend, meta["context_length"])
        yield Comparison(f"{name} size", ours.vocab, meta["vocab_size"], 0.0)
        rows = ours([case["text"] for case in meta["cases"]])
        for row, case in zip(rows, meta["cases"], strict=True):
            ids = np.pad(case["ids"], (0, len(row) - len(case["ids"])))
            yield Comparison(f"{name} {case['text']!r}", row, ids, 0.0)


@contextlib.contextmanager
def model(folder: Path, stem: str) -> Iterator[Path]:
    """Lay a model out as the hub does; yield the folder."""
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(folder / f"{stem}.config.json", Path(place) / "config.json")
        shutil.copy(folder / f"{stem}.safetensors", Path(place) / "model.safetensors")
        yield Path(place)


def load_vision(where: Path) -> CLIP:
    """Return the vision tower with weights, as the library builds and loads it."""
    options = read_clip_config(str(where)).vision
    backbone = nnx.eval_shape(lambda: CLIP(**options, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(backbone)
    values = load(str(where), params.flatten(state), backbone.grid).values
    return nnx.merge(graph, params.fill(state, {n: jnp.asarray(v) for n, v in values.items()}))


def whole(vision: CLIP, images: jax.Array) -> jax.Array:
    """Return image features; of the last layer only the class token is computed."""
    tokens = vision.embed(images, EVALUATION)
    for i, layer in enumerate(vision.layers):
        num_outputs = vision.num_pooled_tokens if i == len(vision.layers) - 1 else None
        tokens = layer(tokens, EVALUATION.at(i), num_outputs=num_outputs)
    return vision.pool(tokens)


def recorded(ours: dict, arrays: Record, limits: dict) -> Iterator[Comparison]:
    """Yield results beside what was recorded under the same names."""
    for name, value in ours.items():
        yield scaled(name, value, arrays[f"out/{name}"], **limits)


def sizes_of(config: Path) -> dict[str, int]:
    """Return the sizes in a config.json, in the words of the cases."""
    content = json.loads(config.read_text())
    return {key: content[section][name] for key, (section, name) in SIZES.items()}


def pixels(images: np.ndarray) -> jax.Array:
    """Return images B C H W as B H W C."""
    return jnp.asarray(images.transpose(0, 2, 3, 1))
