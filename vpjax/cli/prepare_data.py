"""Download and prepare a data set; TensorFlow is optional."""

import argparse

from vpjax.cli import flags
from vpjax.core import escape

POSITIONALS = ("NAME",)
EXAMPLE = "prepare-data cifar10 --data_dir ~/tensorflow_datasets"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    add = parser.add_argument
    add("name", metavar="NAME", help="such as cifar10, cifar10:3.0.2 or eurosat/rgb")
    add("--data_dir", type=flags.folder, metavar="DIR", help="folder of prepared data sets")
    add("--manual_dir", type=flags.folder, metavar="DIR", help="folder of archives fetched by hand")
    text = "take archives in --manual_dir that differ from the published ones"
    add("--accept_copies", action="store_true", help=text)
    kinds = ("auto", "tensorflow", "standin")
    text = "what reads the archives; auto: TensorFlow if it is installed"
    add("--backend", default="auto", choices=kinds, help=text)


def run(arguments: argparse.Namespace) -> None:
    """Prepare; see `vpjax.data.prepare`."""
    from vpjax.data import vtab
    from vpjax.data.open import known_as
    from vpjax.data.prepare import prepare

    a = arguments
    name = known_as(a.name, a.data_dir)
    name = vtab.find(name).data if name.startswith("vtab/") else name
    done = prepare(name, a.data_dir, a.manual_dir, a.backend, a.accept_copies)
    print(escape.terminal(str(done)))
