"""Cases of preprocessing: stored images and annotations go in, the model's input comes out."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.golden.comparison import Comparison, limits, scaled
from tests.golden.record import NotUnderstood, Record, under
from vpjax.data import preset, vtab

LEVEL = "uint8 equal within 1 level"
LEGACY = "legacy bilinear, no half-pixel centres, no antialias"
PILLOW = "PIL bilinear (antialiased when shrinking), 8-bit output"


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield images as the model receives them, and labels made of annotations."""
    meta.ignore("case")
    if "resize_shorter_side" in meta:
        yield from fgvc(meta, arrays)
    elif "resize" in meta:
        yield from stretched(meta, arrays)
        yield from labels(arrays)
    else:
        raise NotUnderstood(f"preprocessing of {meta['case']}")


def stretched(meta: Record, arrays: Record) -> Iterator[Comparison]:
    """Yield images resized on the host and on the device, then normalised."""
    meta.expect("resize", LEGACY)
    meta.expect("layout", "CHW")
    size = meta["target_size"]
    statistics = {k: tuple(meta[k]) for k in ("mean", "std")}
    chosen = dataclasses.replace(preset("vpt_vtab"), **statistics)
    for name, image in images(arrays):
        recorded = arrays[f"out/{name}"].transpose(1, 2, 0)
        host = chosen.host(image, size, False)
        for where, batch in {"device": image, "host": host}.items():
            out = chosen.device(batch[None], size, False)[0]
            yield scaled(f"{name} on {where}", out, recorded, **limits(meta["tolerance"]))


def fgvc(meta: Record, arrays: Record) -> Iterator[Comparison]:
    """Yield images resized and cropped to whole levels, then normalised."""
    meta.expect("tolerance", LEVEL)
    meta.expect("filter", PILLOW)
    meta.expect("size_rule", "other side = int(size*long/short)")
    meta.expect("crop_offset", "int(round((side-crop)/2))")
    short, crop = meta["resize_shorter_side"], meta["centre_crop"]
    chosen = dataclasses.replace(preset("vpt_fgvc"), short=(short, crop))
    for name, image in images(arrays):
        number = name.removeprefix("image_")
        pixels = arrays[f"out/uint8_{number}"]
        yield Comparison(f"{name} cropped", chosen.host(image, crop, False), pixels, 1.0)
        out = chosen.device(pixels[None], crop, False)[0]
        yield Comparison(name, out, arrays[f"out/{name}"].transpose(1, 2, 0), 2e-5)


def images(arrays: Record) -> list[tuple[str, np.ndarray]]:
    """Return (name, image) of a file."""
    return [(f"image_{number}", image) for number, image in under(arrays, "in/image_").items()]


def labels(arrays: Record) -> Iterator[Comparison]:
    """Yield labels made of annotations, which stand one after the other for a whole split."""
    clevr = parts(arrays, "clevr", "pixel_coords")
    kitti = parts(arrays, "kitti", "location", "type")
    rules = {
        "clevr_closest": (vtab.clevr_distance, clevr),
        "clevr_count_all": (vtab.clevr_count, clevr),
        "kitti_closest_vehicle": (vtab.kitti_distance, kitti),
        "dsprites_x_position": (
            vtab.dsprites_location,
            [{"label_x_position": x} for x in arrays["in/dsprites_x_position"]],
        ),
        "dsprites_orientation": (
            vtab.dsprites_orientation,
            [{"label_orientation": x} for x in arrays["in/dsprites_orientation"]],
        ),
    }
    for name, (rule, examples) in rules.items():
        yield Comparison(name, [rule(e) for e in examples], arrays[f"out/{name}"], 0.0)


def parts(arrays: Record, prefix: str, *names: str) -> list[dict]:
    """Return the examples that were joined to one array."""
    ends = np.cumsum(arrays[f"in/{prefix}_count"])[:-1]
    pieces = [np.split(arrays[f"in/{prefix}_{n}"], ends) for n in names]
    return [{"objects": dict(zip(names, p, strict=True))} for p in zip(*pieces, strict=True)]
