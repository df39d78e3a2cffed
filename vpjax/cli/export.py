"""Write a trained run for other programs: weights, a program."""

import argparse

from vpjax.cli import flags

POSITIONALS = ("TARGET",)
EXAMPLE = "export --workdir runs/digits_pretrain digits_vit.npz"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    text = "file, or for timm and transformers a folder, to write"
    parser.add_argument("target", metavar="TARGET", type=flags.folder, help=text)
    flags.add_workdir(parser, "folder of the run", required=True)
    text = (
        "google (.npz, a ViT), vpjax (.safetensors), timm, transformers, stablehlo; default: by "
        "the ending of TARGET"
    )
    parser.add_argument("--format", default="", metavar="FORMAT", help=text)
    text = "where the frozen weights lie now; default: where they were"
    parser.add_argument("--weights", default="", metavar="WEIGHTS", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Export; see `vpjax.runs.export`."""
    from vpjax.cli import process
    from vpjax.runs.export import export_run

    process.start()
    export_run(arguments.workdir, arguments.target, arguments.format, arguments.weights)
