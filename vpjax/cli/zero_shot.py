"""Evaluate CLIP without training, from the classes' names."""

import argparse

from vpjax.cli import flags, recipes

POSITIONALS = ()
EXAMPLE = "zero-shot --config mop_inat --config.backbone.weights=clip-b16"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    flags.add_recipe(parser)
    flags.add_workdir(parser, "folder of the result; default: runs/<recipe>_zero_shot")


def run(arguments: argparse.Namespace) -> None:
    """Evaluate; see `vpjax.runs.zero_shot`."""
    from vpjax.cli import process
    from vpjax.runs.zero_shot import zero_shot

    config, folder = recipes.chosen(arguments, suffix="_zero_shot")
    process.start()
    zero_shot(config, folder)
