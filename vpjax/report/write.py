"""`--mode report`: what run folders hold, as tables and one page.

    python main.py --mode report --workdir DIR                       all runs in and below DIR
    python main.py --mode report --workdir OUT --runs=DIR,DIR        those of several folders
    python main.py --mode report --workdir RUN                       one run's page

The folder gets

    report.md, report.html    the same, to read; the page needs no other file and no network
    report.csv, report_runs.csv, report.tex     tables for programs and papers
    report_*.png              the pictures
"""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from vpjax.core.errors import UserError
from vpjax.core.table import table
from vpjax.report import cells, content, lines
from vpjax.report.document import markdown
from vpjax.report.latex import latex
from vpjax.report.page import page
from vpjax.report.pictures import pictures
from vpjax.report.runs import Run, find, read
from vpjax.report.single import single
from vpjax.runs.summary import draw_curves

log = logging.getLogger(__name__)


def report(folder: Path, folders: Sequence[Path] = (), by: Sequence[str] = ()) -> Path:
    """Writes the report of the runs in `folders`, or in `folder`, to `folder`; returns its page.

    `by` separates what may not stand in one column; see `vpjax.report.cells.tables`.
    Raises: UserError if there is no run, if sources would mix, or if nothing can be written.
    """
    one = None
    if not folders and (folder / "config.json").exists():
        one = read(folder, folder)
    runs = [] if one else find(folders or [folder], folder)
    tables = cells.tables(runs, by)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if one:
            _one(one, folder)
        else:
            _several(tables, runs, folder)
    except OSError as e:
        raise UserError(f"{folder} cannot be written ({e}). Give another --workdir.") from e
    log.info("table     %s", folder / "report.md")
    log.info("page      %s", folder / "report.html")
    return folder / "report.html"


def _one(run: Run, folder: Path) -> None:
    if not (folder / "curves.png").exists() and (folder / "metrics.jsonl").exists():
        with contextlib.suppress(ValueError):  # an unfinished run, with nothing to draw yet
            draw_curves(folder)
    _write(folder, f"{run.label} on {run.config.data.name}", single(run))


def _several(tables: Sequence[cells.Table], runs: Sequence[Run], folder: Path) -> None:
    aside = cells.told(runs)[1]
    for old in folder.glob("report_*.png"):
        old.unlink()
    drawn = {shown.title: pictures(shown, folder, i) for i, shown in enumerate(tables)}
    _write(folder, "Results", content.report(tables, runs, aside, drawn))
    lines.write(lines.lines(tables), lines.CELL, folder / "report.csv")
    lines.write(lines.run_lines(runs), lines.RUN, folder / "report_runs.csv")
    (folder / "report.tex").write_text(latex(tables), encoding="utf-8")
    for shown in tables:
        grid = content.summary(shown)
        log.info("\n%s\n\n%s\n", shown.title, table(grid.header, grid.rows, grid.align))
    for text in content.warnings(tables, runs, aside):
        log.warning("warning   %s", text)


def _write(folder: Path, title: str, blocks: list) -> None:
    (folder / "report.md").write_text(markdown(blocks, folder), encoding="utf-8")
    (folder / "report.html").write_text(page(title, blocks), encoding="utf-8")
