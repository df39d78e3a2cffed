"""The pictures of a table."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from vpjax.report.cells import Table
from vpjax.report.document import Picture
from vpjax.report.means import Mean, overall, ranks
from vpjax.report.plots.benchmark import accuracies, places
from vpjax.report.plots.curves import comparison
from vpjax.report.plots.style import SIZE

DPI = 150


def pictures(table: Table, folder: Path, number: int) -> list[Picture]:
    """Draws the table with this number into `folder`: every accuracy; of several methods also a
    mean against parameters, and ranks."""
    names = [column.name for column in table.columns]
    figures = {"accuracy": ("accuracy of every data set", every(table, names))}
    name, found = overall(table)
    if len(found) > 1:
        figures["parameters"] = (f"{name}, and trainable parameters", cost(table, name, found))
        drawn = places(ranks(table), table.methods, names)
        figures["ranks"] = ("rank of each method, 1 the best", drawn)
    out = []
    for kind, (caption, figure) in figures.items():
        tag = (table.suite or "other") + (f"_{number}" if number else "")
        out.append(Picture(folder / f"report_{tag}_{kind}.png", caption))
        figure.savefig(out[-1].file, dpi=DPI, bbox_inches="tight")
    return out


def every(table: Table, names: list[str]) -> Figure:
    """Draws every number, beside what was published."""
    rows = {method: table.row(method) for method in table.methods}
    scores = {m: {n: (c.mean, c.std) for n, c in row.items()} for m, row in rows.items()}
    told = {
        method: {n: c.published for n, c in row.items() if c.published is not None}
        for method, row in rows.items()
    }
    return accuracies(scores, names, told, [column.group for column in table.columns])


def cost(table: Table, name: str, found: Mapping[str, Mean]) -> Figure:
    """Draws a mean against the parameters it took."""
    rows = []
    for method in table.methods:
        cells = list(table.row(method).values())
        row = {"label": method, "accuracy": found[method].value, "std": found[method].std}
        row["trainable"] = sum(cell.trainable for cell in cells) / len(cells)
        rows.append(row | {"percent": sum(cell.percent for cell in cells) / len(cells)})
    figure = comparison(rows)
    axes = figure.axes[0]
    say = axes.set_ylabel if axes.get_ylabel() else axes.set_xlabel  # of many: a row a method
    say(f"{name} (%)", fontsize=SIZE)
    return figure
