"""mistakes.png: what a run gets wrong, as pictures.

    the surest mistakes       wrong predictions of the highest probability
    the least sure            the two best classes are the closest, right or wrong
    taken for each other      the pairs of classes with the most mistakes, some of each

Where images have several classes: the classes of the highest probability that an image does not
have, and those of the lowest that it has.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from vpjax.report.plots.style import GREY, INK, PALETTE, SIZE, blank, figure_of
from vpjax.report.plots.subject import Answered, Subject
from vpjax.runs import mistakes as find
from vpjax.train.evaluate import Predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 6
PAIRS = 3  # pairs of classes
EDGE = 200  # pixels of a picture, at most
WIDTH, HEIGHT = 1.28, 1.78  # inches of a picture with what is written below it
LONG, LONGEST = 13, 20  # letters of a class's name, and of a file's path
HEAD = 0.34  # inches of a heading


class Shown(NamedTuple):
    """A picture and what is written below it."""

    image: int
    lines: tuple[str, str]
    right: bool = False


class Section(NamedTuple):
    """A heading, and its pictures in rows of `COLUMNS`."""

    title: str
    shown: list[Shown]


def mistakes(subject: Subject | Answered) -> "Figure":
    """Draw the mistakes of the test split."""
    parts = [s for s in sections(subject) if s.shown]
    rows = [(s, -(-len(s.shown) // COLUMNS)) for s in parts]
    height = sum(HEAD + HEIGHT * n for _, n in rows) + 0.5
    figure = figure_of(COLUMNS * WIDTH, height)
    figure.set_layout_engine("none")
    top = height - 0.1
    figure.text(0.02, top / height, _title(subject), size=SIZE, va="top", color=INK)
    top -= 0.3
    for section, count in rows:
        place = (0.02, (top - 0.12) / height)
        figure.text(*place, section.title, size=SIZE, weight="bold", va="top", color=INK)
        top -= HEAD
        for i, shown in enumerate(section.shown):
            row, column = divmod(i, COLUMNS)
            _picture(figure, subject, shown, (column, top - row * HEIGHT, height))
        top -= HEIGHT * count
    return figure


def sections(subject: Subject | Answered) -> list[Section]:
    """Return what to show of a run, the surest mistakes first."""
    found, classes = subject.predictions, subject.classes
    if not isinstance(found, Predictions):
        kinds = {
            "Surest of a class that the image does not have": find.false_alarms(found, 12),
            "Surest that the image lacks a class that it has": find.missed(found, 12),
        }
        return [
            Section(title, [_several(said, classes) for said in chosen])
            for title, chosen in kinds.items()
        ]
    worst = find.worst(found, 2 * COLUMNS)
    out = [
        Section("Surest mistakes", [_one(i, found, classes) for i in worst]),
        Section("Least sure", [_two(i, found, classes) for i in find.least_sure(found, COLUMNS)]),
    ]
    for pair in find.confused(found, PAIRS):
        first, second = classes[pair.first], classes[pair.second]
        title = f"{first} taken for {second}: {pair.there}"
        title += f"; the other way: {pair.back}" if pair.back else ""
        out.append(Section(title, [_one(i, found, classes) for i in pair.images[:COLUMNS]]))
    return out


def _one(i: int, found: Predictions, classes: tuple[str, ...]) -> Shown:
    said = f"{_cut(classes[found.predictions[i]])} ({100 * found.shares[i, 0]:.0f} %)"
    true = f"is {_cut(classes[found.labels[i]])} ({100 * found.own[i]:.0f} %)"
    return Shown(int(i), (said, true), bool(found.labels[i] == found.predictions[i]))


def _two(i: int, found: Predictions, classes: tuple[str, ...]) -> Shown:
    """Return a picture with its two best classes."""
    best = zip(found.top[i, :2], found.shares[i, :2], strict=True)
    lines = [f"{_cut(classes[k])} ({100 * share:.0f} %)" for k, share in best]
    right = bool(found.labels[i] == found.predictions[i])
    return Shown(int(i), (lines[0], f"or {lines[-1]}"), right)


def _several(said: find.Said, classes: tuple[str, ...]) -> Shown:
    return Shown(said.image, (_cut(classes[said.label]), f"{100 * said.share:.0f} %"))


def _title(subject: Subject | Answered) -> str:
    found, source = subject.predictions, subject.source
    count = f"{len(found.labels):,} images"
    if not isinstance(found, Predictions):
        return f"{source.name}, {count}"
    wrong = int((found.labels != found.predictions).sum())
    return f"{source.name}: {wrong:,} of {count} are wrong; blue: right, orange: wrong"


def _picture(
    figure: "Figure", subject: Subject | Answered, shown: Shown, place: tuple[int, float, float]
) -> None:
    """Draw a picture into its column, below `top` inches of a figure of `height`."""
    column, top, height = place
    width, edge = COLUMNS * WIDTH, WIDTH - 0.12
    box = (0.06 + column * WIDTH) / width, (top - edge) / height, edge / width, edge / height
    axes = figure.add_axes(box)
    pixels = picture(subject, shown.image)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    half = max(pixels.shape[:2]) / 2  # a square, so that captions stand in line
    middle = [edge / 2 - 0.5 for edge in pixels.shape[:2]]
    axes.set_ylim(middle[0] + half, middle[0] - half)
    axes.set_xlim(middle[1] - half, middle[1] + half)
    blank(axes)
    axes.spines[:].set_color("#bbbbbb")
    inks = (PALETTE[0] if shown.right else PALETTE[1], INK, GREY)
    lines = (*shown.lines, _named(subject, shown.image))
    for i, (line, ink) in enumerate(zip(lines, inks, strict=True)):
        at = {"xy": (0.0, 0.0), "xycoords": "axes fraction", "textcoords": "offset points"}
        form = {"va": "top", "size": SIZE - 2.2, "color": ink}
        axes.annotate(line, xytext=(0, -3 - 9.5 * i), **at, **form)


def _cut(name: str) -> str:
    return name if len(name) <= LONG else name[: LONG - 1] + "…"


def _named(subject: Subject | Answered, index: int) -> str:
    """Return the end of a file's path, or an image's number."""
    files = getattr(subject.source.records, "names", None)
    name = f"image {index}" if files is None or files[index].isdecimal() else files[index]
    return name if len(name) <= LONGEST else "…" + name[1 - LONGEST :]


def picture(subject: Subject | Answered, index: int) -> np.ndarray:
    """Return an image of the split to show, uint8 h w 3 or h w, at most `EDGE` high and wide."""
    pixels = subject.source[index]["image"]
    image = Image.fromarray(np.squeeze(pixels, -1) if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((EDGE, EDGE))
    return np.asarray(image)
