"""The table of docs/backbones.md: every recorded model, loaded by its folder alone, and compared.

    python -m tests.zoo.table        writes it; takes a few minutes

The recorded models are small. Differences of those of full size are in `full_size.json`, which
`python -m tests.zoo.full_size` writes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import vpjax
from tests.zoo.loading import DATA, difference, features_of, recorded
from vpjax.core.table import table
from vpjax.weights.recognise import describe

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"
START, END = "<!-- table -->\n", "<!-- end of table -->\n"
FULL = Path(__file__).parent / "full_size.json"
VERSIONS = {
    "timm": "timm 1.0.31",
    "clip_open": "open_clip 3.3.0",
    "clip": "transformers 5.24.0",
    "hf": "transformers 5.24.0",
    "transformers": "transformers 5.24.0",
    "tv": "torchvision 0.29.1",
    "torchvision": "torchvision 0.29.1",
    "big_vision": "timm 1.0.31, which reads the same file",
    "google_vit": "timm 1.0.31, which reads the same file",
    "google_hybrid": "vision_transformer, c6de1e5",
}
# What a folder does not say, and a user would have to.
SAID = {
    "torchvision_vit": {"heads": 2},
    "clip_open_training": {"heads": 2, "activation": "gelu"},
    "tv_swinv2": {"image_size": 32, "window": 4, "pretrained_windows": 0},
}


def folders() -> list[str]:
    """Return the names of the recorded models that have an image encoder."""
    paths = sorted(path.parent for path in DATA.glob("*/recorded.npz"))
    return [path.name for path in paths if "features" in recorded(path.name)]


def weights_of(folder: str) -> Path:
    """Return the file of weights of a recorded model."""
    return next(
        path
        for path in sorted((DATA / folder).iterdir())
        if path.suffix != ".json" and path.name != "recorded.npz"
    )


def loaded(folder: str, **options):
    """Return the backbone that a recorded model's file of weights gives, with nothing else said."""
    return vpjax.load_backbone(str(weights_of(folder)), **SAID.get(folder, {}), **options)


def library(folder: str) -> str:
    """Return which library, and which version of it, recorded a model."""
    longest = max((p for p in VERSIONS if folder.startswith(p)), key=len)
    return VERSIONS[longest]


def rows() -> Iterator[list[str]]:
    """Yield a row for each recorded model."""
    full = json.loads(FULL.read_text())
    for folder in folders():
        case, backbone = recorded(folder), loaded(folder)
        found = describe(str(weights_of(folder)))
        small = difference(features_of(backbone, case["images"]), case["features"])
        large = full.get(folder)
        size = f"{large['difference']:.0e} ({large['size']})" if large else ""
        preset = f"`{backbone.preset}`" if backbone.preset else "asked for"
        if "transformers" in library(folder) and not backbone.preset:
            preset = "that of `preprocessor_config.json`"
        yield [found.kind, f"`{found.name}`", library(folder), f"{small:.0e}", size, preset]


def written() -> str:
    """Return the table."""
    head = ["file", "class", "compared with", "small", "full size", "preprocessing found"]
    return table(head, list(rows()))


def parts() -> tuple[str, str, str]:
    """Return the page before the table, the table, and the rest."""
    before, _, rest = PAGE.read_text().partition(START)
    inside, _, after = rest.partition(END)
    return before + START, inside, END + after


if __name__ == "__main__":
    start, _, end = parts()
    PAGE.write_text(start + written() + "\n" + end)
