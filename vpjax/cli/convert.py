"""Convert weights of any kind to a .safetensors or .npz file."""

import argparse

from vpjax.cli import flags
from vpjax.core import escape

POSITIONALS = ("SOURCE", "TARGET")
EXAMPLE = "convert mae_pretrain_vit_base.pth mae_b16.safetensors"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a path, an address or a known name")
    add("target", metavar="TARGET", type=flags.folder, help=".safetensors or .npz file to write")
    add("--force", action="store_true", help="replace TARGET if it exists")
    add("--unsafe", action="store_true", help="let torch run code that is in the file")


def run(arguments: argparse.Namespace) -> None:
    """Convert; see `vpjax.weights.convert`."""
    from vpjax.weights.convert import convert

    a = arguments
    print(escape.terminal(str(convert(a.source, a.target, force=a.force, unsafe=a.unsafe))))
