"""Train E2VPT with masks, prune its prompts, train again."""

import argparse
import logging

from vpjax.cli import flags, recipes

log = logging.getLogger(__name__)

POSITIONALS = ()
EXAMPLE = "prune --config digits_prune --workdir runs/prune"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    flags.add_recipe(parser)
    flags.add_workdir(parser, "folder of the study; default: runs/<recipe>")


def run(arguments: argparse.Namespace) -> None:
    """Run the study; see `vpjax.studies.prune`."""
    from vpjax.cli import process
    from vpjax.studies import tune_report
    from vpjax.studies.prune import prune

    config, folder = recipes.chosen(arguments)
    process.start()
    summary = prune(config, folder)
    pruned = summary["choice"]["params"]["study.label"]
    log.info("\npruned    %s: %s", pruned, tune_report.line(summary))
    log.info("files     %s", folder)
