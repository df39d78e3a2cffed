"""What a compiled step really does: the products in its HLO text, and the compiler's own count.

`cost_analysis()` counts elementwise work too. Products are read from the program as a CPU's
compiler leaves it, with nothing in it that is not run; loops count as often as they turn. (A GPU's
compiler puts products into kernels that cannot be read.) With `optimise=False` they are read from
the program as it enters the compiler, which takes a quarter of the time.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vpjax.models.partition import ModelParts, merge
from vpjax.train.step import init_state, make_train_step

LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
WORD = re.compile(r"[\w.\-]+")
SHAPE = re.compile(r"\w+\[([\d,]*)\]")
CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
WINDOW = ("stride", "pad", "lhs_dilate", "rhs_dilate")
TURNS = re.compile(r'"?known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')


class Counted(NamedTuple):
    """FLOPs of a compiled step."""

    products: float
    total: float  # as the compiler counts, elementwise work included


def inference(parts: ModelParts, images: tuple[int, ...], optimise: bool = True) -> Counted:
    """Counts images B H W C to logits, in float32."""

    def logits(trainable, stats, frozen, images):
        return merge(parts.graph, trainable, stats, frozen)(to_input({"image": images}, None))[
            "logits"
        ]

    images = jax.ShapeDtypeStruct(images, jnp.uint8)
    return count(jax.jit(logits).lower(*parts[1:], images), optimise)


def training(parts: ModelParts, images: tuple[int, ...], optimise: bool = True) -> Counted:
    """Counts the library's own training step, with SGD and momentum, in float32."""
    optimiser = optax.sgd(1e-3, momentum=0.9)
    step = make_train_step(parts.graph, optimiser, to_input, steps=1000)
    start = lambda trainable, stats: init_state(trainable, stats, optimiser, 0)  # noqa: E731
    state = jax.eval_shape(start, parts.trainable, parts.stats)
    of_image = lambda dtype: jax.ShapeDtypeStruct(images[:1], dtype)  # noqa: E731
    batch = {"image": jax.ShapeDtypeStruct(images, jnp.uint8)}
    batch |= {"label": of_image(jnp.int32), "mask": of_image(bool)}
    return count(step.lower(state, parts.frozen, batch), optimise)


def to_input(batch: dict[str, jax.Array], key: Any) -> jax.Array:
    """Return the model's input."""
    return batch["image"].astype(jnp.float32) / 127.5 - 1


def count(lowered: Any, optimise: bool) -> Counted:
    """Counts a lowered function, compiled first or as it is."""
    program = lowered.compile() if optimise else lowered
    text = program.as_text() if optimise else program.as_text(dialect="hlo")
    return Counted(products(text), program.cost_analysis()["flops"])


def products(hlo: str) -> float:
    """Return the FLOPs of all matrix products and convolutions of a program."""
    programs, entry = computations(hlo)

    @functools.cache
    def of(name: str) -> float:
        total, sizes = 0.0, {}
        for result, kind, op, rest in programs[name]:
            sizes[result] = dims(kind)
            if op in ("dot", "convolution"):
                total += product(op, dims(kind), rest, sizes)
            turns = TURNS.search(rest) if op == "while" else None
            inner = sum(of(called) for called in CALLED.findall(rest))
            total += inner * (int(turns[1]) if turns else 1)
        return total

    return of(entry)


def computations(hlo: str) -> tuple[dict[str, list[tuple[str, ...]]], str]:
    """Return the instructions of each computation, and the name of the one that is run."""
    found: dict[str, list[tuple[str, ...]]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if not line.startswith((" ", "}")) and line.endswith("{"):
            name = line.removeprefix("ENTRY ").split(maxsplit=1)[0].lstrip("%")
            found[name] = []
            entry = name if line.startswith("ENTRY ") else entry
        elif name and (match := LINE.match(line)):
            found[name].append(match.groups())
    return {name: used(lines) for name, lines in found.items()}, entry


def used(lines: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the instructions that the result depends on, without their first mark."""
    wanted, kept = set(), []
    for root, name, *rest in reversed(lines):
        if root or name in wanted:
            wanted.update(WORD.findall(rest[-1]))
            kept.append((name, *rest))
    return kept[::-1]


def dims(shape: str) -> tuple[int, ...]:
    """Return the sizes in "f32[2,3]{1,0}"; of a tuple, those of its first member."""
    match = SHAPE.search(shape)
    return tuple(int(n) for n in match[1].split(",") if n) if match else ()


def product(op: str, result: tuple[int, ...], rest: str, sizes: dict[str, tuple]) -> float:
    """Return the FLOPs of one product, from what follows its opening bracket."""
    left, right = (sizes[n.split()[-1].lstrip("%")] for n in operands(rest))
    if op == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)[1]
        return 2 * math.prod(result) * math.prod(left[int(a)] for a in axes.split(",") if a)
    forms = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest).groups()
    image, kernel, out = (
        dict(zip(form, size, strict=True))
        for form, size in zip(forms, (left, right, result), strict=True)
    )
    places = [a for a in kernel if a.isdigit()]
    window = window_of(rest, len(places))
    met = (taps(image[a], kernel[a], out[a], *window[int(a)]) for a in places)
    return 2 * out["b"] * out["f"] * kernel["i"] * math.prod(met)


def window_of(rest: str, axes: int) -> list[tuple[int, int, int, int]]:
    """Return stride, padding in front, and dilation of image and kernel, an axis."""
    window = re.search(r"window=\{(.*?)\}", rest)
    given = dict(part.split("=") for part in window[1].split()) if window else {}
    numbers = lambda name, usual: [  # noqa: E731
        int(n.split("_")[0]) for n in given.get(name, "x".join([usual] * axes)).split("x")
    ]
    parts = [numbers(n, "0" if n == "pad" else "1") for n in WINDOW]
    return list(zip(*parts, strict=True))


def taps(size: int, edge: int, out: int, stride: int, padding: int, holes: int, spread: int) -> int:
    """Return how many numbers of the image windows meet along an axis, zeros left out."""
    reach = (size - 1) * holes + 1
    places = (o * stride + k * spread - padding for o in range(out) for k in range(edge))
    return sum(0 <= place < reach and place % holes == 0 for place in places)


def operands(rest: str) -> Iterator[str]:
    """Yields the first two operands."""
    depth, word, found = 0, "", 0
    for letter in rest:
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0 or (letter == "," and depth == 0):
            yield word.strip()
            found, word = found + 1, ""
            if found == 2:
                return
        else:
            word += letter
