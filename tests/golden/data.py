"""Cases of preprocessing: stored images and annotations go in, the model's input comes out."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.golden.runner import Comparison, NotUnderstood
from vpjax.data import preset, vtab

LEVEL = "uint8 equal within 1 level"


def compare(meta: dict, arrays: dict, folder: Path) -> Iterator[Comparison]:
    """Yields ours beside what was recorded."""
    if "resize_shorter_side" in meta:
        yield from fgvc(meta, arrays)
    elif "legacy bilinear" in meta.get("resize", ""):
        yield from stretched(meta, arrays)
        yield from labels(arrays)
    else:
        raise NotUnderstood(f"preprocessing of {meta['case']}")


def stretched(meta: dict, arrays: dict) -> Iterator[Comparison]:
    """Resized on the host and on the device, then normalised."""
    size = meta["target_size"]
    statistics = {k: tuple(meta[k]) for k in ("mean", "std")}
    chosen = dataclasses.replace(preset("vpt_vtab"), **statistics)
    for name, image in images(arrays):
        recorded = arrays[f"out/{name}"].transpose(1, 2, 0)
        host = chosen.host(image, size, False)
        for where, batch in {"device": image, "host": host}.items():
            out = chosen.device(batch[None], size, False)[0]
            yield Comparison(f"{name} on {where}", out, recorded, **meta["tolerance"])


def fgvc(meta: dict, arrays: dict) -> Iterator[Comparison]:
    """Resized and cropped to whole levels, then normalised."""
    if meta["tolerance"] != LEVEL:
        raise NotUnderstood(f"tolerance {meta['tolerance']!r}")
    short, crop = meta["resize_shorter_side"], meta["centre_crop"]
    chosen = dataclasses.replace(preset("vpt_fgvc"), short=(short, crop))
    for name, image in images(arrays):
        number = name.removeprefix("image_")
        pixels = arrays[f"out/uint8_{number}"]
        yield Comparison(f"{name} cropped", chosen.host(image, crop, False), pixels, 1.0)
        out = chosen.device(pixels[None], crop, False)[0]
        yield Comparison(name, out, arrays[f"out/{name}"].transpose(1, 2, 0), 2e-5)


def images(arrays: dict) -> list[tuple[str, np.ndarray]]:
    """Returns (name, image) of a file."""
    prefix = "in/image_"
    return [(n.removeprefix("in/"), v) for n, v in arrays.items() if n.startswith(prefix)]


def labels(arrays: dict) -> Iterator[Comparison]:
    """Labels derived from annotations; those of a split's examples lie one after the other."""
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


def parts(arrays: dict, prefix: str, *names: str) -> list[dict]:
    """Returns the examples that were joined to one array."""
    ends = np.cumsum(arrays[f"in/{prefix}_count"])[:-1]
    pieces = [np.split(arrays[f"in/{prefix}_{n}"], ends) for n in names]
    return [{"objects": dict(zip(names, p, strict=True))} for p in zip(*pieces, strict=True)]
