"""Random operations of training on one image, on the host.

    random_crop                       a part of the resized image, see `vpjax.data.fields`
    random_resized_crop=0.08/1        a part of 8 to 100 % of the area, resized to the model's size
    rand_augment=9/2/0.5              two random operations of strength 9 of 10, each with
                                      probability 1/2; strengths vary by a deviation of 0.5

RandomResizedCrop is that of Inception (Szegedy et al. 2015, arXiv 1409.4842): aspects from 3/4 to
4/3. RandAugment (Cubuk et al. 2020, arXiv 1909.13719) has timm's 15 operations, all of which are
stronger where the number is higher ("inc1" there), and its fill: the mean of the preset.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageEnhance, ImageOps

from vpjax.core.errors import UserError

# Operations, and the numbers behind them where none are given.
HOST_OPS: dict[str, tuple[int | float, ...]] = {
    "random_crop": (),
    "random_resized_crop": (0.08, 1.0),
    "rand_augment": (9, 2, 0.5),
}
ASPECTS = (3 / 4, 4 / 3)
TRIES = 10  # at a part that lies inside the image
STRONGEST = 10.0
PROBABILITY = 0.5  # of each operation of RandAugment that was drawn


def settings(op: str) -> tuple[int | float, ...]:
    """Return the numbers of an operation as it is written, such as "rand_augment=9/2".

    Raises: UserError for numbers out of range.
    """
    name, _, text = op.partition("=")
    usual = HOST_OPS[name]
    try:
        given = tuple(float(v) for v in text.split("/")) if text else ()
    except ValueError as e:
        raise UserError(f"{op}: expected numbers with / between") from e
    out = given + usual[len(given) :]
    if len(given) > len(usual) or (name == "random_resized_crop" and not 0 < out[0] <= out[1] <= 1):
        raise UserError(f"{op}: expected {name}={'/'.join(map(str, usual))} or like it")
    if name == "rand_augment" and (not 0 <= out[0] <= STRONGEST or out[1] != int(out[1])):
        raise UserError(f"{op}: expected a strength of 0 to 10, and a whole number of operations")
    return out


class Box(NamedTuple):
    """A part of an image, pixels."""

    top: int
    left: int
    height: int
    width: int


def part(height: int, width: int, scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """Return a random part of an image whose share of the area lies in `scale`.

    Where none of `TRIES` lies inside the image, it is the largest central one of a fitting aspect.
    """
    for _ in range(TRIES):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*map(math.log, ASPECTS)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(*(int(n) for n in rng.integers(0, [height - h + 1, width - w + 1])), h, w)
    h = min(height, round(width / ASPECTS[0]))
    w = min(width, round(height * ASPECTS[1]))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def rand_augment(
    image: UInt8[np.ndarray, "H W C"],
    numbers: tuple[int | float, ...],
    mean: tuple[float, float, float],
    rng: np.random.Generator,
    kind: int = Image.Resampling.BICUBIC,
) -> Shaped[np.ndarray, "H W C"]:
    """Return an image after random operations.

    Args:
        image: grey or RGB.
        numbers: strength, number of operations, deviation of the strength.
        mean: what moves into the image from outside, of red, green, blue, from 0 to 1.
        rng: draws them.
        kind: Pillow's interpolation.
    """
    strength, count, deviation = numbers
    grey = image.shape[2] == 1
    fill = tuple(round(255 * m) for m in mean)
    fill = round(sum(fill) / 3) if grey else fill
    picture = Image.fromarray(image[:, :, 0] if grey else image)
    names = list(OPERATIONS)
    for number in rng.integers(0, len(names), int(count)):
        if rng.random() < PROBABILITY:
            level = float(np.clip(rng.normal(strength, deviation), 0, STRONGEST)) / STRONGEST
            sign = 1.0 if rng.random() < 0.5 else -1.0
            picture = OPERATIONS[names[number]](picture, level, sign, fill, kind)
    array = np.asarray(picture)
    return array[:, :, None] if grey else array


Fill = int | tuple[int, ...]


def _moved(matrix: Callable) -> Callable:
    """Return an operation that moves pixels: matrix(level * sign, width, height) -> 6 numbers."""

    def operation(picture, level, sign, fill, kind):
        numbers = matrix(level * sign, *picture.size)
        return picture.transform(
            picture.size, Image.Transform.AFFINE, numbers, resample=kind, fillcolor=fill
        )

    return operation


def _enhanced(enhancer: Callable) -> Callable:
    """Return an operation that goes away from 1 up to 1.9, or down to 0.1, times the contrast."""

    def operation(picture, level, sign, fill, kind):
        return enhancer(picture).enhance(max(0.1, 1 + 0.9 * level * sign))

    return operation


def _solarize_add(picture: Image.Image, level: float) -> Image.Image:
    values = [v + int(110 * level) if v < 128 else v for v in range(256)]
    return picture.point([min(255, v) for v in values] * len(picture.getbands()))


# picture, level 0 to 1, sign, fill, interpolation -> picture
OPERATIONS: dict[str, Callable[[Image.Image, float, float, Fill, int], Image.Image]] = {
    "auto_contrast": lambda p, *_: ImageOps.autocontrast(p),
    "equalize": lambda p, *_: ImageOps.equalize(p),
    "invert": lambda p, *_: ImageOps.invert(p),
    "rotate": lambda p, level, sign, fill, kind: p.rotate(
        30 * level * sign, resample=kind, fillcolor=fill
    ),
    "posterize": lambda p, level, *_: ImageOps.posterize(p, 4 - int(4 * level)),
    "solarize": lambda p, level, *_: ImageOps.solarize(p, 256 - int(256 * level)),
    "solarize_add": lambda p, level, *_: _solarize_add(p, level),
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": _moved(lambda level, w, h: (1, 0.3 * level, 0, 0, 1, 0)),
    "shear_y": _moved(lambda level, w, h: (1, 0, 0, 0.3 * level, 1, 0)),
    "translate_x": _moved(lambda level, w, h: (1, 0, 0.45 * level * w, 0, 1, 0)),
    "translate_y": _moved(lambda level, w, h: (1, 0, 0, 0, 1, 0.45 * level * h)),
}
