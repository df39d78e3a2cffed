"""The pictures of a table: every number, a mean against parameters, ranks."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vpjax.report.blocks import Picture
from vpjax.report.means import Mean, overall, ranks
from vpjax.report.plots.benchmark import rank_table, score_plot
from vpjax.report.plots.curves import comparison
from vpjax.report.plots.style import SIZE, save
from vpjax.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150


def draw_table(table: Table, folder: Path, number: int) -> list[Picture]:
    """Draw a table into `folder`; return the pictures.

    Args:
        number: of the table in the report; it keeps the files of two tables apart.
    """
    names = [column.name for column in table.columns]
    figures = {"accuracy": ("result on every data set", every_number(table, names))}
    name, found = overall(table)
    if len(found) > 1:
        caption = f"{name}, and trainable parameters"
        figures["parameters"] = (caption, against_parameters(table, name, found))
        if len(names) > 1:  # of one data set the table has the order
            figure = rank_table(ranks(table), table.methods, names)
            figures["ranks"] = ("rank of each method, 1 the best", figure)
    out = []
    for kind, (caption, figure) in figures.items():
        tag = (table.suite or "other") + (f"_{number}" if number else "")
        out.append(Picture(folder / f"report_{tag}_{kind}.png", caption))
        save(figure, out[-1].file, DPI)
    return out


def every_number(table: Table, names: list[str]) -> "Figure":
    """Draw the number of every method on every data set, beside the published one."""
    rows = {method: table.row(method) for method in table.methods}
    scores = {m: {n: (c.mean, c.std) for n, c in row.items()} for m, row in rows.items()}
    published = {
        method: {n: c.published for n, c in row.items() if c.published is not None}
        for method, row in rows.items()
    }
    return score_plot(scores, names, published, [column.group for column in table.columns])


def against_parameters(table: Table, name: str, found: Mapping[str, Mean]) -> "Figure":
    """Draw a mean, called `name`, against the number of trainable parameters."""
    rows = []
    for method in table.methods:
        cells = list(table.row(method).values())
        row = {"label": method, "mean": found[method].value, "std": found[method].std}
        row |= {"seeds": max(len(cell.runs) for cell in table.row(method).values())}
        row["trainable"] = sum(cell.trainable for cell in cells) / len(cells)
        rows.append(row | {"percent": sum(cell.percent for cell in cells) / len(cells)})
    figure = comparison(rows)
    axes = figure.axes[0]
    # Many methods are drawn one below the other, with the mean along x.
    set_label = axes.set_ylabel if axes.get_ylabel() else axes.set_xlabel
    set_label(f"{name} (%)", fontsize=SIZE)
    return figure
