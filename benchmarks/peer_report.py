"""All races on one page: a line a task and step, and a picture. Needs neither JAX nor PyTorch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tasks import TASKS
from vpjax.core.table import table

KINDS = ("eager", "compiled")
STEPS = {"inference": "inference", "train": "training"}
HEADER = ("task", "step", "dtype", "batch", "ours, images/s", "of floor peak")
HEADER += ("times eager", "times compiled", "MB", "eager MB", "compiled MB")
Rows = Sequence[Mapping[str, Any]]


def races(rows: Rows) -> list[dict[str, Mapping[str, Any]]]:
    """Return rows by side, "ours", "eager" and "compiled", for each race.

    Tasks are in their own order, dtypes as they come.
    """
    found: dict[tuple, dict[str, Mapping[str, Any]]] = {}
    order, dtypes = list(TASKS), list(dict.fromkeys(row["dtype"] for row in rows))
    for row in rows:
        if "ours_over_this" in row and "remat" not in row["who"]:
            who = "ours" if row["who"].startswith("ours") else row["who"]
            key = (dtypes.index(row["dtype"]), order.index(row["task"]), row["step"])
            found.setdefault(key, {})[who] = row
    return [found[key] for key in sorted(found) if "ours" in found[key]]


def report(rows: Rows) -> str:
    """Return the table; ratios are of pairs of turns, with their middle half."""
    return table(HEADER, [line(race) for race in races(rows)], "lllr")


def line(race: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a race as a row of the table."""
    own = race["ours"]
    share = own.get("of_floor_peak")
    peaks = [race.get(who, {}).get("peak_bytes") for who in ("ours", *KINDS)]
    return [
        TASKS[own["task"]].title,
        STEPS[own["step"]],
        own["dtype"],
        str(own["batch"]),
        f"{own['images_per_second']:.1f}",
        "-" if share is None else f"{share:.1%}",
        *(times(race.get(kind)) for kind in KINDS),
        *("-" if peak is None else f"{peak / 1e6:.0f}" for peak in peaks),
    ]


def times(row: Mapping[str, Any] | None) -> str:
    """Formats how many times as long a peer takes."""
    if row is None:
        return "-"
    low, high = row["ours_over_this_spread"]
    return f"{row['ours_over_this_pairs']:.2f} [{low:.2f} .. {high:.2f}]"


def plot(rows: Rows, path: Path) -> None:
    """Writes the picture of the first dtype: a bar a peer and task, the middle half of its pairs.

    Raises: ImportError without matplotlib.
    """
    from vpjax.report.plots.style import GREY, PALETTE, SIZE, figure_of, plain

    found = races(rows)
    dtype = found[0]["ours"]["dtype"]
    found = [race for race in found if race["ours"]["dtype"] == dtype]
    tasks = list(dict.fromkeys(race["ours"]["task"] for race in found))
    figure = figure_of(7.5, 0.8 + 0.34 * len(tasks))
    panels = figure.subplots(1, len(STEPS), sharey=True, squeeze=False)[0]
    for axes, (step, said) in zip(panels, STEPS.items(), strict=True):
        plain(axes)
        axes.set_title(f"{said}, {dtype}", fontsize=SIZE + 1, loc="left")
        axes.set_xlabel("times as fast as PyTorch", fontsize=SIZE)
        axes.axvline(1, color=GREY, linewidth=1)
        for i, kind in enumerate(KINDS):
            some = {r["ours"]["task"]: r[kind] for r in found if step_of(r) == step and kind in r}
            values = [row["ours_over_this_pairs"] for row in some.values()]
            spread = [row["ours_over_this_spread"] for row in some.values()]
            errors = [[v - low for v, (low, _) in zip(values, spread, strict=True)]]
            errors.append([high - v for v, (_, high) in zip(values, spread, strict=True)])
            places = [tasks.index(name) + 0.38 * (i - 0.5) for name in some]
            style = {"height": 0.36, "color": PALETTE[i], "ecolor": GREY, "capsize": 2}
            axes.barh(places, values, xerr=errors, label=kind, **style)
        axes.set_xlim(left=0)
    panels[0].set_yticks(range(len(tasks)), [TASKS[name].title for name in tasks], fontsize=SIZE)
    panels[0].invert_yaxis()
    entries = panels[0].get_legend_handles_labels()
    style = {"fontsize": SIZE - 1, "frameon": False, "labelcolor": GREY}
    figure.legend(*entries, loc="outside lower center", ncols=len(KINDS), **style)
    figure.savefig(path)


def step_of(race: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the step a race is about."""
    return race["ours"]["step"]
