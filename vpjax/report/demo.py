"""What the page of `demo` shows of a photo: classes, maps, and the nearest training pictures.

    demo = Demo(run, top_k=5, nearest=nearest_of(run))
    demo.look(Path("cat.jpg").read_bytes())

A photo is decoded and computed as `predict` does it, and leaves no trace on the disk.
"""

import functools
import io
import time
from pathlib import PurePath
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from vpjax.core.errors import UserError
from vpjax.data.arrays import Arrays
from vpjax.data.decoders import FORMATS, open_image
from vpjax.data.files import PHOTO
from vpjax.data.images import TooLarge, decode_with_kind
from vpjax.data.photo_paths import Photo
from vpjax.data.source import Source
from vpjax.data.transforms import preset
from vpjax.report.answer_page import encoded
from vpjax.report.demo_maps import Asked, Lookers, Map, lookers, maps_of
from vpjax.report.plots.gradcam import resized, scaled
from vpjax.report.plots.style import HEAT
from vpjax.runs.experiment import decoding
from vpjax.runs.nearest import Nearest
from vpjax.runs.predict import answer_of, probabilities
from vpjax.runs.run import Run

TOP_K = 5  # classes that are shown, at most
NEAR = 6  # training pictures
EXAMPLES = 8  # at once
EDGE = 160  # pixels of a small picture
SHOWN = 448  # of the photo
FINE = 224  # pixels of a map, at least
READ = f"{', '.join(FORMATS)} are"
SEED = 0  # of the order of examples


class Example(NamedTuple):
    """A picture of the test split: its number, its name or number, its true class."""

    number: int
    file: str
    true: str


class Demo:
    """A run that looks at one photo at a time.

    Args:
        run: trained.
        top_k: classes to tell.
        nearest: the training pictures; None: they are not searched.
        examples: pictures of the test split; None: there are none.
    """

    def __init__(
        self,
        run: Run,
        top_k: int = TOP_K,
        nearest: Nearest | None = None,
        examples: Source | None = None,
    ):
        self.run, self.top_k = run, min(top_k, len(run.classes))
        self.nearest, self.examples = nearest, examples
        self._how, self._chosen = decoding(run.config), preset(run.predictor.built.preset)
        self._to_input = jax.jit(lambda image: run.predictor.to_input()({"image": image}, None))
        self._small = functools.lru_cache(maxsize=500)(self._thumbnail)

    def warm_up(self) -> None:
        """Compile everything, so that the first photo is answered at once."""
        height, width = self.run.predictor.built.image_size
        self._answer(np.full((height, width, 3), 127, np.uint8))

    def look(self, data: bytes) -> dict[str, Any]:
        """Return what the page shows of a photo, as JSON values.

        Args:
            data: content of a file.

        Raises:
            UserError: if it cannot be read as a picture.
        """
        begin = time.perf_counter()
        pixels, words = self._decoded(data)
        answer = self._answer(pixels)
        return answer | {"about": words, "milliseconds": 1000 * (time.perf_counter() - begin)}

    def list_examples(self, page: int) -> list[dict[str, Any]]:
        """Return some pictures of the test split; other ones on every page.

        Args:
            page: from 0 on; after the last comes the first.
        """
        n = 0 if self.examples is None else len(self.examples)
        order = np.random.default_rng(SEED).permutation(n)
        first = page % max(-(-n // EXAMPLES), 1) * EXAMPLES
        out = []
        for number in order[first : first + EXAMPLES].tolist():
            try:
                source, small = self._small(self.examples, number)
            except UserError:  # a broken file is no example
                continue
            example = self._example(number)
            out.append({"source": source, "small": small, **example._asdict()})
        return out

    def look_at_example(self, number: int) -> dict[str, Any]:
        """Return what the page shows of a picture of the test split, with its true class.

        Args:
            number: of the picture.

        Raises:
            UserError: if there is none of this number.
        """
        if self.examples is None or not 0 <= number < len(self.examples):
            raise UserError(f"there is no example {number}")
        image = self.examples.records.__getitems__([number])[0].image
        if isinstance(image, np.ndarray):
            data = io.BytesIO()
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(data, "PNG")
            image = data.getvalue()
        return self.look(image) | {"true": self._example(number).true}

    def _example(self, number: int) -> Example:
        return Example(number, _file(self.examples, number), _classes(self.examples, number))

    def _decoded(self, data: bytes) -> tuple[UInt8[np.ndarray, "H W 3"], str]:
        """Return the pixels, and what the file is, in words."""
        if not data:
            raise UserError("The file is empty.")
        try:
            pixels, kind = decode_with_kind(data, 3, self._how)
        except TooLarge as error:
            raise UserError(f"The picture has {error}.") from error
        except Exception as error:  # Pillow raises a dozen kinds on broken files
            if isinstance(error.__cause__, UnidentifiedImageError):
                raise UserError(
                    f"This is no picture, or of a kind that is not read: {READ}."
                ) from error
            why = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"This is not a picture that can be read: {why}.") from error
        with open_image(data) as image:
            words = [image.format or "", f"{pixels.shape[1]} × {pixels.shape[0]} pixels"]
            frames = getattr(image, "n_frames", 1)
            transparent = image.has_transparency_data
        mode, _, more = kind.removesuffix(" turned").partition(" ")
        words += [more] * (more not in ("", "of 8 bits", "transparent"))
        words += ["CMYK"] * (mode == "CMYK")
        if transparent and self._how.background != "none":
            words.append(f"transparent, on {self._how.background}")
        words += ["upright by its EXIF"] * kind.endswith(" turned")
        words += [f"the first of {frames} pictures"] * (frames > 1)
        return pixels, ", ".join(filter(None, words))

    def _answer(self, pixels: UInt8[np.ndarray, "H W 3"]) -> dict[str, Any]:
        run, predictor = self.run, self.run.predictor
        shape = pixels.shape if self._chosen.rule == "none" else PHOTO  # as files of all sizes
        records = Arrays([pixels], np.zeros(1, np.int64))
        source = Source("photo", ["unknown"], records, shape)
        (batch,) = predictor.outputs(source, 1)
        row = probabilities(batch.values["logits"], run.multilabel)[0]
        said = answer_of(run, Photo(""), row, self.top_k, 1000 * batch.seconds)
        image = predictor.loader(source, 1).batch(0)["image"]
        asked = Asked(self._to_input(image), said.labels[0], said.names[0])
        found = maps_of(self._lookers(asked), asked)
        seen = np.clip(np.asarray(image[0]), 0, 255).astype(np.uint8)
        address, small = encoded(_image(seen), SHOWN)
        return {
            "top": [{"name": n, "share": s} for n, s in zip(said.names, said.shares, strict=True)],
            "several": list(said.classes),
            "picture": address,
            "small": small,
            "size": [seen.shape[1], seen.shape[0]],
            "maps": [_drawn(m, seen.shape[:2]) for m in found],
            "near": self._near(batch.values.get("features")),
        }

    def _lookers(self, asked: Asked) -> Lookers:
        if not hasattr(self, "_looks"):
            self._looks = lookers(self.run.predictor.parts, asked.inputs)
        return self._looks

    def _near(self, features: np.ndarray | None) -> list[dict[str, Any]]:
        """Return the nearest training pictures; those that cannot be read any more are left out."""
        if self.nearest is None or features is None:
            return []
        out, source = [], self.nearest.source
        for near in self.nearest.find(features[0], NEAR):
            try:
                address, small = self._small(source, near.index)
            except UserError:
                address, small = "", False
            facts = {"name": _classes(source, near.index), "file": _file(source, near.index)}
            out.append({"source": address, "small": small, "cosine": near.cosine, **facts})
        return out

    def _thumbnail(self, source: Source, index: int) -> tuple[str, bool]:
        return encoded(_image(source[index]["image"]), EDGE)


def _image(pixels: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    return Image.fromarray(np.squeeze(pixels, -1) if pixels.shape[-1] == 1 else pixels)


def _classes(source: Source, index: int) -> str:
    """Return the class of an image, or its classes."""
    label = source.records.__getitems__([index])[0].label
    labels = label if isinstance(label, tuple) else (label,)
    return ", ".join(source.classes[int(k)] for k in labels) or "none"


def _file(source: Source, index: int) -> str:
    """Return the name of an image's file, or its number."""
    names = getattr(source.records, "names", None)
    name = f"number {index}" if names is None or names[index].isdecimal() else names[index]
    return PurePath(name).name.encode("utf-8", "replace").decode()


def _drawn(found: Map, size: tuple[int, int]) -> dict[str, Any]:
    """Return a map as a picture in colours, as large as the photo."""
    import matplotlib

    scale = max(1.0, FINE / max(size))
    values = resized(scaled(found.values), tuple(round(scale * edge) for edge in size))
    colours = matplotlib.colormaps[HEAT](np.clip(values, 0, 1), bytes=True)[..., :3]
    address, _ = encoded(Image.fromarray(np.ascontiguousarray(colours)), SHOWN)
    return {"name": found.name, "text": found.text, "picture": address}
