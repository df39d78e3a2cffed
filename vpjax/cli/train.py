"""Train a recipe, or go on training; the default command.

A recipe that lists several runs (`study.compare`) trains them all, as `compare` does.
"""

import argparse
import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from vpjax.cli import flags, recipes
from vpjax.core.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

log = logging.getLogger(__name__)

POSITIONALS = ("[DATA]",)
EXAMPLE = "train --config vpt_cifar --config.optim.lr=0.1"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    flags.add_recipe(parser, default=recipes.FIRST_RUN, data=True)
    flags.add_workdir(parser, "folder of the run; default: runs/<recipe and choices>")
    longer = "go on with the run in --workdir, which is to be longer now"
    parser.add_argument("--extend", action="store_true", help=longer)
    flags.add_joining(parser)


def run(arguments: argparse.Namespace) -> None:
    """Train; see `vpjax.runs.fit` and `vpjax.studies.compare`."""
    from vpjax.cli import process
    from vpjax.report.finish import draw_results
    from vpjax.runs.fit import fit
    from vpjax.runs.startup import since_process_start

    config, folder = recipes.chosen(arguments)
    startup = since_process_start()
    process.start(arguments)
    if config.study.compare:
        if arguments.extend:
            raise UserError(
                "--extend is for one run; this recipe trains several. Choose one of them."
            )
        train_all(config, folder, recipes.note(arguments.config, config))
        return
    fit(config, folder, startup, finish=draw_results, extend=arguments.extend)
    log.info("files     %s", folder)
    say_how_to_evaluate(folder)


def train_all(config: "ConfigDict", folder: Path, note: str = "") -> None:
    """Train all runs of a recipe, and show the table, which run to look at, and the page.

    Args:
        config: of the runs.
        folder: of the runs and the table.
        note: what the recipe says of itself, below the table; "": nothing.
    """
    from vpjax.studies import compare

    rows = compare.compare(config, folder)
    log.info("\n%s\n", compare.as_table(rows))
    if note:
        log.info("%s\n", note)
    best = compare.best_row(rows)["label"]
    log.info("table     %s", folder / "comparison.md")
    for picture in sorted(folder.glob("comparison*.png")):
        log.info("picture   %s", picture)
    say_how_to_evaluate(folder / best / f"seed{config.study.seeds[0]}")
    if (page := folder / "report.html").exists():
        log.info("page      %s", page)


def say_how_to_evaluate(folder: Path) -> None:
    """Log the command that evaluates a run."""
    log.info("evaluate  %s eval --workdir %s", flags.program(), shlex.quote(str(folder)))
