"""Check a recipe's data: every image, label, count and copy."""

import argparse

from vpjax.cli import flags, recipes

POSITIONALS = ("[DATA]",)
EXAMPLE = "check-data --config vpt_vtab:svhn --workdir runs/checked"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    flags.add_recipe(parser, data=True)
    flags.add_workdir(parser, "folder of what is found; default: runs/<recipe and choices>")


def run(arguments: argparse.Namespace) -> int:
    """Check; see `vpjax.data.check`. Returns 2 if there is a fault."""
    from vpjax.cli import process
    from vpjax.data.check import check_data
    from vpjax.runs.experiment import decoding, held

    config, folder = recipes.chosen(arguments)
    process.hide_notices()
    data = config.data
    splits = {part: data[part] for part in ("train", "val", "test") if data[part]}
    fine = check_data(
        data.name,
        splits,
        folder,
        data_dir=data.dir or None,
        classes=data.classes,
        decoding=decoding(config),
        holdout=held(config),
    )
    return 0 if fine else 2
