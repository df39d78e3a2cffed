"""Write class means of frozen features, to start prompts from."""

import argparse

from vpjax.cli import flags, recipes

POSITIONALS = ()
EXAMPLE = "class-embeddings --config digits:vpt_deep --workdir runs/means"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    flags.add_recipe(parser)
    flags.add_workdir(parser, "folder of the file; default: runs/<recipe>")


def run(arguments: argparse.Namespace) -> None:
    """Write them; see `vpjax.runs.class_embeddings`."""
    from vpjax.cli import process
    from vpjax.runs.class_embeddings import class_embeddings

    config, folder = recipes.chosen(arguments)
    process.start()
    class_embeddings(config, folder)
