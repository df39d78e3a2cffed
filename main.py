"""vpjax: visual prompt tuning from one command.

    python main.py                                                 the first run, offline
    python main.py --config configs/vpt_cifar.py --workdir DIR     train, or go on training, in DIR
    python main.py --mode eval --workdir DIR                       evaluate what DIR has trained
    python main.py --mode doctor --config configs/vpt_cifar.py     examine its data, every image
    python main.py --mode draw --workdir DIR --image 3             pictures of what DIR has learnt
    python main.py --mode ablate --config configs/ablate_fusion.py a study: grid, table, picture
    python main.py --mode zero_shot --config configs/mop_inat.py   CLIP, told the classes' names
    python main.py --mode tune --config configs/vtab.py:svhn       choose on val, then read test
    python main.py --mode report --workdir DIR                     tables and a page of DIR's runs
    python main.py --mode class_embeddings --config ...            write prompts' starting points
    srun python main.py --distributed ...                          on several machines

Any key of a config can be set: --config.method.num_tokens=10.
"""

import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

HOME = Path(__file__).resolve().parent
RECIPES = [p for p in (HOME / "configs").glob("*.py") if p.stem not in ("__init__", "base")]
MODES = (
    "train",
    "eval",
    "doctor",
    "draw",
    "ablate",
    "zero_shot",
    "class_embeddings",
    "report",
    "tune",
)

FIRST_RUN = str(HOME / "configs" / "digits.py")

# The default is filled in when flags are parsed: here it would be read, and could fail, too early.
CONFIG = config_flags.DEFINE_config_file("config", None, f"A recipe. Default: {FIRST_RUN}.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run. Default: runs/<recipe>.")
MODE = flags.DEFINE_string("mode", "train", f"What to do: {', '.join(MODES)}.")
IMAGE = flags.DEFINE_integer("image", 0, "--mode draw: which image of the test split.")
PATCH = flags.DEFINE_list("patch", None, "--mode draw: row,column of a patch. Default: the middle.")
TARGET = flags.DEFINE_string("target", "", "--mode draw: Grad-CAM's <layer>.<site>, as 7.conv2.")
BASELINE = flags.DEFINE_string("baseline", None, "--mode draw: another run's folder, drawn beside.")
PICTURE = flags.DEFINE_list(
    "picture", [], "--mode draw: names of pictures. Default: all there are."
)
CLASS_NAME = flags.DEFINE_string("class_name", "", "--mode draw: whose sub-prompts, by name or id.")
CLASS_IDX = flags.DEFINE_integer("class_idx", None, "--mode draw: whose sub-prompts, by label.")
TOP_N = flags.DEFINE_integer("top_n", 16, "--mode draw: images a sub-prompt.")
TAU = flags.DEFINE_float("tau", None, "--mode draw: temperature. Default: the checkpoint's.")
RUNS = flags.DEFINE_list("runs", [], "--mode report: folders of runs. Default: the workdir.")
BY = flags.DEFINE_list("group_by", [], "--mode report: what to part: preset, weights ..., config keys.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "--mode tune: say what it would cost, and stop.")
LIST = flags.DEFINE_bool("print_commands", False, "--mode tune: print a command a trial that is missing.")
TRIAL = flags.DEFINE_string("trial", None, "--mode tune: run this one, such as 3 or svhn/3.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join what srun, mpirun or a cloud started.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, to join by hand:")
PROCESSES = flags.DEFINE_integer("processes", None, "how many there are,")
PROCESS = flags.DEFINE_integer("process", None, "and which this is, from 0 on.")
SPLIT = flags.DEFINE_string("split", "", "--mode draw: split of sub-prompts' images.")


def main(arguments: list[str], chosen: dict) -> None:
    """Dispatches on --mode; `chosen` are the config's sections that the command line renames."""
    from vpjax import cli

    if len(arguments) > 1:
        raise cli.UserError(f"unexpected argument {arguments[1]!r}; options begin with --")
    cli.join(DISTRIBUTED.value, COORDINATOR.value, PROCESSES.value, PROCESS.value)
    flag = flags.FLAGS["config"]
    recipe = Path(config_flags.get_config_filename(flag).partition(":")[0])
    if not recipe.exists():
        raise cli.unknown("recipe", str(recipe), (f"configs/{p.name}" for p in RECIPES))
    stem = recipe.stem + ("_zero_shot" if MODE.value == "zero_shot" else "")
    folder = Path(WORKDIR.value or Path("runs") / stem).expanduser()
    if MODE.value == "tune":
        options = {"dry_run": DRY_RUN.value, "print_commands": LIST.value, "trial": TRIAL.value}
        cli.tune_runs(CONFIG.value, chosen, folder, **options)
        return
    if MODE.value == "report":
        cli.report_runs(folder, RUNS.value, BY.value)
        return
    picture = {"image": IMAGE.value, "patch": PATCH.value, "target": TARGET.value}
    picture |= {"baseline": BASELINE.value, "wanted": PICTURE.value}
    picture["of_class"] = {"name": CLASS_NAME.value, "label": CLASS_IDX.value}
    picture["of_class"] |= {"top_n": TOP_N.value, "tau": TAU.value, "split": SPLIT.value}
    cli.dispatch(MODE.value, MODES, CONFIG.value, chosen, folder, picture)


if __name__ == "__main__":
    sys.path.insert(0, str(HOME))
    from vpjax import cli

    cli.run(main, app, FIRST_RUN)
