"""Choose hyperparameters on val, then test once a seed."""

import argparse

from vpjax.cli import flags, recipes

POSITIONALS = ()
EXAMPLE = "tune --config vtab:method=vpt_deep,task=svhn --dry_run"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    flags.add_recipe(parser)
    flags.add_workdir(parser, "folder of all trials; default: runs/<recipe>")
    parser.add_argument("--dry_run", action="store_true", help="say what it would cost, and stop")
    text = "print a command for every missing trial"
    parser.add_argument("--print_commands", action="store_true", help=text)
    parser.add_argument("--trial", metavar="T", help="run this one, such as 3 or svhn/3")
    flags.add_joining(parser)


def run(arguments: argparse.Namespace) -> None:
    """Tune; see `vpjax.studies.tune`."""
    from vpjax.cli import process
    from vpjax.studies import tune

    config, folder = recipes.chosen(arguments)
    process.start(arguments)
    tune.command(
        config,
        folder,
        dry_run=arguments.dry_run,
        print_commands=arguments.print_commands,
        trial=arguments.trial,
    )
