"""Evaluate runs on their test split, or on labelled photos."""

import argparse
import functools
import logging
from typing import TYPE_CHECKING

from vpjax.cli import flags

if TYPE_CHECKING:
    from ml_collections import ConfigDict

log = logging.getLogger(__name__)

POSITIONALS = ("[PATH]",)
EXAMPLE = "eval --workdir runs/pets photos/"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    text = "a folder per class, or a table of paths and labels; default: the run's data"
    parser.add_argument("path", metavar="PATH", nargs="?", type=flags.folder, help=text)
    flags.add_run(parser)
    flags.add_joining(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and compare with what the run recorded; see `vpjax.runs.scores.evaluate_run`.

    Of labelled photos return 2 if some were left out; see `vpjax.runs.labelled`.
    """
    from vpjax.cli import process
    from vpjax.runs import recorded, summary
    from vpjax.runs.scores import evaluate_run
    from vpjax.runs.workdir import read_result

    process.start(arguments)
    if not (arguments.workdir / "config.json").exists() and any(
        arguments.workdir.glob("**/config.json")
    ):
        return run_all(arguments)
    config = flags.run_config(arguments)
    if arguments.path is not None:
        return on_photos(arguments, config)
    result = evaluate_run(arguments.workdir, config, arguments.checkpoint)
    log.info("%s", summary.one_line(result))
    changed = recorded.changes(arguments.workdir, config)
    if changed := [key for key in changed if recorded.changes_numbers(key)]:
        log.info("not compared with what the run recorded: other %s", ", ".join(changed))
    else:
        summary.log_comparison(result, read_result(arguments.workdir))
    return 0


def on_photos(arguments: argparse.Namespace, config: "ConfigDict") -> int:
    """Evaluate a run on labelled photos, draw what is wrong, and return the exit code.

    Args:
        arguments: of the command.
        config: of the run.
    """
    from vpjax.report.finish import draw_answers
    from vpjax.runs.labelled import evaluate_place
    from vpjax.runs.run import restored_run

    # Its value may be a split, where the folder has several.
    split = dict(arguments.overrides).get("data.test", "")
    trained = restored_run(arguments.workdir, config, checkpoint=arguments.checkpoint)
    found = evaluate_place(trained, arguments.path, split)
    draw_answers(found.predictions, trained.classes, found.source, found.folder)
    log.info("files     %s", found.folder)
    if found.skipped:
        log.info("%d files could not be read and do not count:", len(found.skipped))
    for path, why in found.skipped.items():
        log.info("  %s: %s", path, why)
    return 2 if found.skipped else 0


def run_all(arguments: argparse.Namespace) -> int:
    """Evaluate the runs in a folder; see `vpjax.studies.evaluate`."""
    from vpjax.studies.evaluate import as_table, evaluate_runs

    config_of = functools.partial(flags.run_config, arguments)
    rows = evaluate_runs(arguments.workdir, config_of, arguments.checkpoint)
    log.info("\n%s\n", as_table(rows))
    return 0
