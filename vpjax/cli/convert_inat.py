"""Turn iNaturalist's JSON files into a folder of classes."""

import argparse

from vpjax.cli import flags
from vpjax.core import escape

POSITIONALS = ()
EXAMPLE = "convert-inat --root data/iNat2021 --version 2021"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    add = parser.add_argument
    root = flags.folder("data/iNat2021")
    add("--root", type=flags.folder, default=root, metavar="DIR", help="JSON files and photos")
    add("--version", choices=("2017", "2018", "2019", "2021"), default="2021", help="default: 2021")
    add("--categories", action="store_true", help="write categories.json and nothing else")


def run(arguments: argparse.Namespace) -> None:
    """Convert; see `vpjax.data.convert_inat`."""
    from vpjax.data.convert_inat import convert_inat

    a = arguments
    print(escape.terminal(str(convert_inat(a.root, a.version, categories_only=a.categories))))
