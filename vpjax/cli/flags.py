"""Flags: those that commands share, how help looks, and what is wrong with a command line."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from vpjax.cli import overrides, published, recipes
from vpjax.core.errors import UserError, unknown
from vpjax.core.files import local_folder
from vpjax.runs import provenance

if TYPE_CHECKING:
    from ml_collections import ConfigDict

CONFIG = "--config"
KEY = f"{CONFIG}.KEY"


class Parser(argparse.ArgumentParser):
    """The flags of one command; mistakes are `UserError`s."""

    def error(self, message: str) -> None:
        """Raise what argparse would print."""
        raise UserError(f"{message.rstrip('.')}. See {self.prog} --help.")

    @property
    def flags(self) -> list[str]:
        """Return the names of the flags, "--workdir" ..."""
        return [s for action in self._actions for s in action.option_strings if s.startswith("--")]


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, width=80, max_help_position=27)


def program() -> str:
    """Return how a user starts vpjax: "python main.py" in a checkout, else "vpjax"."""
    return " ".join(provenance.program()) or "vpjax"


def sentence(command: ModuleType) -> str:
    """Return what a command does: the first line of its module's docstring."""
    return (command.__doc__ or "").partition("\n")[0]


def make_parser(name: str, command: ModuleType) -> Parser:
    """Return the parser of a command."""
    start = f"{program()} {name}"
    parser = Parser(
        prog=start,
        usage=f"{' '.join([start, *command.POSITIONALS])} [flags]",
        description=sentence(command),
        epilog=f"example:\n  {program()} {command.EXAMPLE}",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    command.add_flags(parser)
    return parser


def parse(name: str, words: list[str], parsers: Mapping[str, Parser]) -> argparse.Namespace:
    """Read the flags of a command.

    Args:
        name: the command.
        words: what follows it.
        parsers: those of all commands.

    Returns:
        The values; `overrides` holds the config keys that the command line sets, `command` the
        command.

    Raises:
        UserError: for a flag of another command, an unknown one, or a value that cannot be.
    """
    parser = parsers[name]
    changes, rest = overrides.take(words)
    if changes:
        _check(name, KEY, f"{CONFIG}.{changes[0][0]}", parsers)
    ours = {flag for other in parsers.values() for flag in other.flags}
    # A command with a recipe has no words that stand alone.
    if text := published.answer(rest, ours, yacs=CONFIG in parser.flags):
        raise UserError(text)
    for word in rest:
        if word == "--":
            break
        if word.startswith("--"):
            flag = word.partition("=")[0]
            _check(name, flag, flag, parsers, rest)
    arguments, extra = parser.parse_known_args(rest)
    if extra:
        raise UserError(f"unexpected argument {extra[0]!r} of {name}; flags begin with --")
    if getattr(arguments, "recipe", None) == "" and not (arguments.config or arguments.data):
        parser.error("the following arguments are required: --config, or DATA")
    arguments.overrides, arguments.command = changes, name
    return arguments


def _check(
    name: str, flag: str, shown: str, parsers: Mapping[str, Parser], words: Sequence[str] = ()
) -> None:
    if flag in parsers[name].flags:
        return
    if owners := [other for other, parser in parsers.items() if flag in parser.flags]:
        text = f"{shown} is a flag of {', '.join(owners)}, not of {name}"
        if flag in (CONFIG, KEY) and "--workdir" in parsers[name].flags:
            text += ", which reads the config of the run in --workdir"
        text += f". See {parsers[name].prog} --help."
        if theirs := published.answer(words, parsers[name].flags, yacs=False):
            text += f"\nOr {theirs}"
        raise UserError(text)
    raise unknown(f"flag of {name}", flag, parsers[name].flags)


def add_recipe(parser: Parser, *, default: str = "", data: bool = False) -> None:
    """Add --config, and what help says of single keys.

    Args:
        parser: of the command.
        default: the recipe where none is given; "": one must be.
        data: whether data of one's own, for the recipe `photos`, may stand alone.
    """
    text = "recipe: a name, or a file; choices follow a colon"
    text += f"; default: {default}" if default else ""
    if data:
        own = "your photos: a folder, a list, or a name of TFDS"
        parser.add_argument("data", nargs="?", metavar="DATA", help=own)
        text += f", or {recipes.OWN_DATA} with DATA" if default else ""
    kind = {"type": _recipe, "metavar": "RECIPE", "required": not (default or data)}
    kind |= {} if data else {"default": default or None}
    parser.add_argument(CONFIG, help=text, **kind)
    parser.set_defaults(recipe=default)
    # Those are taken off the command line before it is parsed, see `overrides.take`.
    parser.add_argument(KEY, metavar="VALUE", help="change any key of the recipe")


def add_run(
    parser: Parser, keys: str = "data.*, backbone.weights, mesh.* ...: other data or devices"
) -> None:
    """Add the flags of commands that restore a run; `keys` says which of its config may change."""
    add_workdir(parser, "folder of the run", required=True)
    which = "last, best, or a step; default: the one that is reported"
    parser.add_argument("--checkpoint", default="", metavar="WHICH", help=which)
    parser.add_argument(KEY, metavar="VALUE", help=keys)


def run_config(arguments: argparse.Namespace, folder: Path | None = None) -> "ConfigDict":
    """Return the config of the run that a command restores, with what the command line changes.

    Args:
        arguments: with `workdir` and `overrides`.
        folder: of the run; None: `workdir`.

    Raises:
        UserError: if there is no run, or a key may not change.
    """
    from vpjax.runs import recorded  # here: it imports jax

    keys = [key for key, _ in arguments.overrides]
    config = recorded.load(folder or arguments.workdir, keys)
    for key, text in arguments.overrides:
        overrides.set_key(config, key, text)
    overrides.settle(config, keys)
    also = f"data.{getattr(arguments, 'split', '')}"  # plot may show images of another split
    recorded.check_changes(config, [key for key in keys if key != also], arguments.command)
    if "train.batch_size" in keys and "data.eval_batch_size" not in keys:
        config.data.eval_batch_size = 0  # the batch that is asked for is that of evaluation
    return config


def _recipe(text: str) -> str:
    recipes.find(text)  # at once: reading one takes seconds
    return text


def add_workdir(parser: Parser, text: str, *, required: bool = False) -> None:
    """Add --workdir."""
    kind = {"type": folder, "metavar": "DIR", "required": required, "help": text}
    parser.add_argument("--workdir", **kind)


def add_joining(parser: Parser) -> None:
    """Add the flags of commands that several processes may share."""
    group = parser.add_argument_group("several processes")
    group.add_argument("--distributed", action="store_true", help="join what srun or mpirun starts")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, to join by hand")
    group.add_argument("--num_processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process_id", type=int, metavar="I", help="which this is, from 0 on")


def folder(text: str) -> Path:
    """Return a path, with ~ for the user's home."""
    try:
        return local_folder(text)
    except UserError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def words(text: str) -> list[str]:
    """Return comma-separated words."""
    return [word for word in text.split(",") if word]
