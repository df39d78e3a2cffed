"""The command line: `vpjax COMMAND ...`, or `python main.py COMMAND ...` in a checkout.

A command is a module of this folder: its docstring says what it does, `add_flags` which flags it
has, `run` does it. Nothing slow is imported before the command line has been read.

Exit codes: 0 done; 1 a bug, with its traceback; 2 something the user can mend, in one message
(check-data: faults in the data); 128 + n stopped by signal n, with everything saved.
"""

import contextlib
import logging
import os
import signal
import sys
from types import ModuleType
from typing import NoReturn

from vpjax.cli import (
    ablate,
    check_data,
    class_embeddings,
    compare,
    convert,
    convert_inat,
    demo,
    eval,
    export,
    flags,
    plot,
    predict,
    prepare_data,
    prune,
    published,
    pull,
    push,
    report,
    train,
    tune,
    zero_shot,
)
from vpjax.core import escape, logs, programs
from vpjax.core.errors import UserError, unknown
from vpjax.core.troubles import explain
from vpjax.train.signals import Stopped

log = logging.getLogger(__name__)

COMMANDS: dict[str, ModuleType] = {
    "train": train,
    "eval": eval,
    "predict": predict,
    "demo": demo,
    "compare": compare,
    "ablate": ablate,
    "tune": tune,
    "prune": prune,
    "report": report,
    "plot": plot,
    "check-data": check_data,
    "zero-shot": zero_shot,
    "class-embeddings": class_embeddings,
    "convert": convert,
    "export": export,
    "push": push,
    "pull": pull,
    "prepare-data": prepare_data,
    "convert-inat": convert_inat,
}


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: words after the program's name; by default those of this process.

    Raises:
        Exception: whatever a bug raises; what a user or a signal causes becomes an exit code.
    """
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # before the first step, or after the last
        with contextlib.suppress(ValueError):  # in another thread than the main one
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends it without a word
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # as by `vpjax --help | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is not sent yet
        return 128 + signal.SIGPIPE


def _main(words: list[str]) -> int:
    try:
        if not words or words[0].startswith("-"):
            if words[:1] in (["-h"], ["--help"]):
                print(overview())
                return 0
            words.insert(0, "train")
        name, *rest = words
        if name not in COMMANDS:
            if text := published.answer([name, *rest], ()):
                raise UserError(text)
            raise unknown("command", name, COMMANDS)
        if "-h" in rest or "--help" in rest:
            print(parsers()[name].format_help(), end="")
            return 0
        arguments = flags.parse(name, rest, parsers())
    except UserError as e:
        print(escape.terminal(f"error: {e}"), file=sys.stderr)
        return 2
    logs.to_screen()
    if os.getcwd() not in sys.path:  # a user's own methods and backbones
        sys.path.append(os.getcwd())
    try:
        return COMMANDS[name].run(arguments) or 0
    except Stopped as e:
        log.info("%s", e)
        return 128 + e.number
    except Exception as e:
        text = str(e) if isinstance(e, UserError) else explain(e)
        if text is None:
            raise
        log.debug("error", exc_info=True)
        print(escape.terminal(f"{_prefix()}error: {text}"), file=sys.stderr)
        return 2


def _prefix() -> str:
    """Return which of several processes speaks."""
    with contextlib.suppress(Exception):  # without devices there are no processes to tell apart
        from vpjax.core import distributed  # here: it imports jax

        return distributed.prefix()
    return ""


def script() -> NoReturn:
    """Run the command that the process was started for, and end it."""
    code = main()
    if code > 128:  # stopped: threads that still wait for a file would keep the process
        programs.finish()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def parsers() -> dict[str, flags.Parser]:
    """Return the parser of every command."""
    return {name: flags.make_parser(name, module) for name, module in COMMANDS.items()}


def overview() -> str:
    """Return what `--help` without a command prints."""
    program = flags.program()
    lines = [
        "Visual prompt tuning of frozen vision backbones, in JAX.",
        f"usage: {program} COMMAND [flags]; COMMAND --help lists its flags",
        "",
        *(f"  {name:16}  {flags.sentence(module)}" for name, module in COMMANDS.items()),
        "Without a command: train. Without anything: the first run, on digits, offline.",
        f"example: {program} --config vpt_cifar --workdir runs/vpt_cifar",
    ]
    return "\n".join(lines)
