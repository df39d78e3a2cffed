"""Draw what a trained run has learnt, into its folder."""

import argparse

from vpjax.cli import flags

POSITIONALS = ()
EXAMPLE = "plot --workdir runs/sa2vp --image 3 --patch 0,1"


def add_flags(parser: flags.Parser) -> None:
    """Add this command's flags."""
    add = parser.add_argument
    flags.add_run(parser)
    add("--picture", type=flags.words, default=[], metavar="A,B", help="which; default: all")
    add("--image", type=int, default=0, metavar="N", help="image of the test split; default: 0")
    add("--patch", type=place, metavar="ROW,COL", help="patch to look at; default: the middle")
    add("--target", default="", metavar="SITE", help="where Grad-CAM looks, such as 7.conv2")
    add("--baseline", type=flags.folder, metavar="DIR", help="another run to show beside it")
    add("--class_name", default="", metavar="NAME", help="class whose sub-prompts to show")
    add("--class_idx", type=int, metavar="N", help="the same, by its label")
    add("--top_n", type=int, default=16, metavar="N", help="images a sub-prompt; default: 16")
    add("--tau", type=float, metavar="T", help="its temperature; default: the checkpoint's")
    add("--split", default="", metavar="SPLIT", help="split of its images; default: test")


def run(arguments: argparse.Namespace) -> None:
    """Draw; see `vpjax.report.plots`."""
    from vpjax.cli import process
    from vpjax.report.plots.run import draw_run
    from vpjax.report.plots.subject import SubpromptOptions

    process.start()
    a = arguments
    options = SubpromptOptions(a.class_name, a.class_idx, a.top_n, a.tau, a.split)
    draw_run(
        a.workdir,
        config=flags.run_config(a),
        checkpoint=a.checkpoint,
        image=a.image,
        patch=a.patch,
        target=a.target,
        baseline=a.baseline,
        wanted=a.picture,
        subprompt_options=options,
    )


def place(text: str) -> tuple[int, int]:
    """Read "row,column"."""
    words = text.split(",")
    if len(words) != 2 or not all(word.isdigit() for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not row,column, such as 3,5")
    return int(words[0]), int(words[1])
