"""Write a trained run's backbone as a file of weights."""

import argparse

from vpjax.cli import flags

POSITIONALS = ("TARGET",)
EXAMPLE = "export --workdir runs/digits_pretrain digits_vit.npz"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    text = "file to write: .npz with Google's names (ViT), .safetensors with vpjax's own"
    parser.add_argument("target", metavar="TARGET", type=flags.folder, help=text)
    flags.add_workdir(parser, "folder of the run", required=True)


def run(arguments: argparse.Namespace) -> None:
    """Export; see `vpjax.runs.export`."""
    from vpjax.cli import process
    from vpjax.runs.export import export_run

    process.start()
    export_run(arguments.workdir, arguments.target)
