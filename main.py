"""vpjax: visual prompt tuning from one command.

    python main.py                                                 the first run, offline
    python main.py --config configs/vpt_cifar.py --workdir DIR     train, or go on training, in DIR
    python main.py --mode eval --workdir DIR                       evaluate what DIR has trained
    python main.py --mode draw --workdir DIR --image 3             pictures of what DIR has learnt
    python main.py --mode class_embeddings --config ...            write prompts' starting points

Any key of a config can be set: --config.method.num_tokens=10.
"""

import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

HOME = Path(__file__).resolve().parent
RECIPES = [p for p in (HOME / "configs").glob("*.py") if p.stem not in ("__init__", "base")]
MODES = ("train", "eval", "draw", "class_embeddings")

FIRST_RUN = str(HOME / "configs" / "digits.py")

# The default is filled in when flags are parsed: here it would be read, and could fail, too early.
CONFIG = config_flags.DEFINE_config_file("config", None, f"A recipe. Default: {FIRST_RUN}.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run. Default: runs/<recipe>.")
MODE = flags.DEFINE_string("mode", "train", f"What to do: {', '.join(MODES)}.")
IMAGE = flags.DEFINE_integer("image", 0, "--mode draw: which image of the test split.")
PATCH = flags.DEFINE_list("patch", None, "--mode draw: row,column of a patch. Default: the middle.")


def main(arguments: list[str], chosen: dict) -> None:
    """Dispatches on --mode; `chosen` are the config's sections that the command line renames."""
    from vpjax import cli

    if len(arguments) > 1:
        raise cli.UserError(f"unexpected argument {arguments[1]!r}; options begin with --")
    flag = flags.FLAGS["config"]
    recipe = Path(config_flags.get_config_filename(flag).partition(":")[0])
    if not recipe.exists():
        raise cli.unknown("recipe", str(recipe), (f"configs/{p.name}" for p in RECIPES))
    folder = Path(WORKDIR.value or Path("runs") / recipe.stem).expanduser()
    picture = {"image": IMAGE.value, "patch": PATCH.value}
    cli.dispatch(MODE.value, MODES, CONFIG.value, chosen, folder, picture)


if __name__ == "__main__":
    sys.path.insert(0, str(HOME))
    from vpjax import cli

    cli.run(main, app, FIRST_RUN)
