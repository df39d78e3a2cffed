"""The page of a run, run.html, from what lies in its folder."""

from pathlib import Path

from vpjax.core.errors import UserError
from vpjax.core.files import write_text
from vpjax.report import run_sections
from vpjax.report.html import page
from vpjax.report.run_folders import RUN_PAGE, read


def write_run_page(folder: Path) -> Path:
    """Write the page of a run; return its path.

    Args:
        folder: of the run, finished or not.

    Raises:
        UserError: if its config.json is not that of a run.
    """
    run = read(folder, folder)
    if run is None:
        raise UserError(
            f"{folder / 'config.json'} has no method or no data: it is no config of a run, or is "
            "damaged. Restore it from a copy."
        )
    write_text(folder / RUN_PAGE, page(run_sections.title(run), run_sections.run_blocks(run)))
    return folder / RUN_PAGE
