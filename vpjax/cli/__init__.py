"""The command line behind main.py: modes, messages, exit codes.

Exit codes: 0 done; 1 a bug, with its traceback; 2 something the user can mend, in one message
(--mode doctor: faults in the data);
128 + n stopped by signal n, everything saved.
"""

import ast
import logging
import re
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import absl.logging
import jax
from absl import flags
from ml_collections import ConfigDict

from vpjax.core import allocator, distributed, logs
from vpjax.core.errors import UserError, unknown
from vpjax.core.files import cache_folder
from vpjax.runs import config as configs
from vpjax.runs import summary
from vpjax.runs.startup import of_process
from vpjax.train.signals import Stopped

log = logging.getLogger(__name__)

SECTIONS = ("method", "backbone")  # of a config, whose `name` is a class
SHARED = ("train", "eval", "tune")  # modes that several processes may work on


def run(main: Callable, app: Any, recipe: str) -> None:
    """Runs `main` under absl, with `recipe` where no --config is given.

    What a user can mend becomes one message.
    """
    logs.to_screen()
    sys.argv[:] = with_recipe(sys.argv, recipe)
    chosen = another_class(sys.argv)  # ml_collections reads sys.argv itself
    warnings.filterwarnings("ignore", r"the load_module\(\) method", DeprecationWarning)
    try:
        app.run(lambda rest: main(rest, chosen), flags_parser=lambda argv: parse(sys.argv))
    except Stopped as e:
        log.info("%s", e)
        sys.exit(128 + e.number)
    except UserError as e:
        print(f"{distributed.prefix()}error: {e}", file=sys.stderr)
        sys.exit(2)


def with_recipe(argv: list[str], recipe: str) -> list[str]:
    """Returns the command line, with `recipe` where no --config is given."""
    if any(a.lstrip("-").split("=")[0] == "config" for a in argv[1:]):
        return argv
    return [argv[0], f"--config={recipe}", *argv[1:]]


def another_class(argv: list[str]) -> dict[str, dict[str, Any]]:
    """Takes from the command line the sections that it gives another `name`, and returns them.

    What options such a section has, only its class knows, so they are no flags: values are Python
    literals, or else text.
    """
    option = re.compile(rf"--?config\.({'|'.join(SECTIONS)})\.(\w+)(?:=(.*))?", re.DOTALL)
    found = [(i, m) for i, m in enumerate(map(option.fullmatch, argv)) if m]
    renamed = {m[1] for _, m in found if m[2] == "name"}
    chosen, taken = {part: {} for part in renamed}, set()
    for i, m in found:
        if m[1] in renamed:
            taken.add(i)
            value = m[3]
            if value is None and i + 1 < len(argv) and not argv[i + 1].startswith("-"):
                taken.add(i + 1)
                value = argv[i + 1]
            chosen[m[1]][m[2]] = True if value is None else literal(value)
    argv[:] = [a for i, a in enumerate(argv) if i not in taken]
    return chosen


def literal(text: str) -> Any:
    """Returns the Python literal that `text` is, else `text`."""
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (SyntaxError, ValueError):
        return text


def parse(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses flags.

    Raises: UserError for unknown flags and config keys, with the nearest.
    """
    try:
        return values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as e:
        raise UserError(innermost(e)) from e


def innermost(error: BaseException) -> str:
    """Returns the message of an exception that may hold another as its argument."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    return str(error.args[0]) if error.args else str(error)


def join(*how: Any) -> None:
    """Joins this process to the others of a run; see `vpjax.core.distributed.join`."""
    quiet()
    distributed.join(*how)


def dispatch(
    mode: str,
    modes: tuple[str, ...],
    config: ConfigDict,
    chosen: dict[str, dict[str, Any]],
    folder: Path,
    picture: dict[str, Any],
) -> None:
    """Does what --mode says; `chosen` are sections of another class, `picture` is for "draw"."""
    from vpjax.runs.fit import evaluate_run, fit
    from vpjax.runs.workdir import read_result

    if mode not in modes:
        raise unknown("mode", mode, modes)
    startup = of_process()
    if mode not in SHARED and distributed.count() > 1:
        raise UserError(f"--mode {mode} is for one process; several share {', '.join(SHARED)}")
    set_up()
    if mode == "eval":
        result = evaluate_run(folder)
        log.info("%s", summary.one_line(result))
        summary.compare_with_recorded(result, read_result(folder))
        return
    if mode == "draw":
        from vpjax.report.plots.run import draw_run
        from vpjax.report.plots.subject import SubpromptOptions

        baseline = picture["baseline"] and Path(picture["baseline"]).expanduser()
        picture |= {"patch": place(picture["patch"]), "baseline": baseline}
        options = SubpromptOptions(**picture.pop("of_class"))
        draw_run(folder, **picture, subprompt_options=options)
        return
    config = settle(config, chosen)
    if mode == "class_embeddings":
        from vpjax.runs.class_embeddings import class_embeddings

        class_embeddings(config, folder)
    elif mode == "doctor":
        from vpjax.data.check import doctor

        if not doctor(config, folder):
            sys.exit(2)
    elif mode == "ablate":
        from vpjax.studies.ablate import ablate

        ablate(config, folder)
    elif mode == "zero_shot":
        from vpjax.runs.zero_shot import zero_shot

        zero_shot(config, folder)
    elif config.study.compare:
        from vpjax.studies import compare

        rows = compare.compare(config, folder)
        log.info("\n%s\n", compare.as_table(rows))
        best = compare.best_row(rows)["label"]
        log.info("table     %s", folder / "comparison.md")
        for picture in sorted(folder.glob("comparison*.png")):
            log.info("picture   %s", picture)
        say_how_to_evaluate(folder / best / f"seed{config.study.seeds[0]}")
    else:
        from vpjax.report.finish import draw_results

        fit(config, folder, startup, finish=draw_results)
        log.info("files     %s", folder)
        say_how_to_evaluate(folder)


def tune_runs(config: ConfigDict, chosen: dict, folder: Path, **options: Any) -> None:
    """Chooses on val and then reads the test split; see `vpjax.studies.tune`."""
    from vpjax.studies import tune

    set_up()
    tune.command(settle(config, chosen), folder, **options)


def report_runs(folder: Path, folders: list[str], by: list[str]) -> None:
    """Writes tables and a page of the runs in `folders`, or in `folder`; see `vpjax.report`."""
    from vpjax.report.write import report

    report(folder, [Path(name).expanduser() for name in folders], by)


def place(words: list[str] | None) -> tuple[int, int] | None:
    """Reads "row,column".

    Raises: UserError if that is not two numbers.
    """
    if not words:
        return None
    if len(words) != 2 or not all(w.isdigit() for w in words):
        raise UserError(
            f"--patch={','.join(words)} is no place; give row,column, such as --patch=3,5"
        )
    return int(words[0]), int(words[1])


def say_how_to_evaluate(folder: Path) -> None:
    """Logs the command that evaluates a run."""
    log.info("evaluate  python main.py --mode eval --workdir %s", shlex.quote(str(folder)))


def settle(config: ConfigDict, chosen: dict[str, dict[str, Any]]) -> ConfigDict:
    """Returns the config with sections rebuilt for the classes `chosen` on the command line."""
    for part, options in chosen.items():
        outside = {k: v for k, v in options.items() if k in configs.OUTSIDE and k in config[part]}
        config[part].update(outside)
        given = {k: v for k, v in options.items() if k not in ("name", *outside)}
        config[part] = configs.renamed(config, part, options["name"], given)
    return config


def set_up() -> None:
    """Makes this process ready to compute; see the parts."""
    quiet()
    cache_compilations()
    allocator.keep()


def cache_compilations() -> None:
    """Keeps compiled programs on disk, so that the same run starts faster the next time.

    JAX_COMPILATION_CACHE_DIR names another folder; JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
        # Small ones too: a run begins with dozens, which together take a second.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def quiet() -> None:
    """Hides other libraries' notices that a user cannot act on."""
    absl.logging.set_verbosity(absl.logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(orbax|tensorflow_datasets|google)\b.*")
