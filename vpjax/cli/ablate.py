"""Run a study: a grid of runs with seeds, a table, a picture."""

import argparse

from vpjax.cli import flags, recipes

POSITIONALS = ()
EXAMPLE = "ablate --config ablate_fusion:data=digits --workdir runs/fusion"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    flags.add_recipe(parser)
    flags.add_workdir(parser, "folder of the study; default: runs/<recipe>")


def run(arguments: argparse.Namespace) -> None:
    """Run the study; see `vpjax.studies.ablate`."""
    from vpjax.cli import process
    from vpjax.studies.ablate import ablate

    config, folder = recipes.chosen(arguments)
    process.start()
    ablate(config, folder)
