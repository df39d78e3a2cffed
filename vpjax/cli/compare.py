"""Train all runs of a recipe with every seed; one table."""

import argparse

from vpjax.cli import flags, recipes, train
from vpjax.core.errors import UserError

POSITIONALS = ("[DATA]",)
EXAMPLE = "compare --config digits_baselines --workdir runs/baselines"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    flags.add_recipe(parser, data=True)
    flags.add_workdir(
        parser, "folder of the runs and the table; default: runs/<recipe and choices>"
    )
    flags.add_joining(parser)


def run(arguments: argparse.Namespace) -> None:
    """Train and compare; see `vpjax.studies.compare`."""
    from vpjax.cli import process

    config, folder = recipes.chosen(arguments)
    if not config.study.compare:
        raise UserError(
            f"{arguments.config} is one run: its config.study.compare lists none to compare. "
            f"Train it: {flags.program()} train --config {arguments.config}"
        )
    process.start(arguments)
    train.train_all(config, folder, recipes.note(arguments.config, config))
