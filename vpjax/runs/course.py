"""How the loss of a run went, by its history: what a user should know who sees its result only.

A loss may be finite from the first step to the last, and yet nothing is learnt: a rate that is too
high lets it rise, a start that is too far away lets it fall no lower than that of a guess.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vpjax.runs.experiment import Experiment
from vpjax.runs.history import read_history

FEW = 20  # steps: of fewer nothing can be said
EXPLODES = 3.0  # times as high as at the start, or as a guess
ADVICE = "lower optim.lr, lengthen the warm-up, or bound the gradient with optim.clip_norm=1"
# What a line of the history holds beside the terms of the loss.
OTHERS = ("step", "loss", "accuracy", "lr", "grad_norm")
TAIL = 0.1  # of a run: the share of its steps that says how it ends


def faults_of(experiment: Experiment, folder: Path) -> list[str]:
    """Return what is wrong with the loss of a run, see `faults`.

    Args:
        experiment: of the run.
        folder: where its history is.

    Raises:
        UserError: if the history is damaged.
    """
    path, config = folder / "metrics.jsonl", experiment.config
    rows = read_history(path) if path.exists() else []
    terms = {k for row in rows for k in row if not k.startswith("val_")} - {*OTHERS}
    weighted = config.train.class_weights != "none"
    known = None if terms else guess(config.train.loss, len(experiment.classes.names), weighted)
    return faults(rows, known)


def faults(rows: Iterable[Mapping[str, Any]], guess: float | None) -> list[str]:
    """Return what is wrong with the loss of a run, a sentence each; [] if nothing is.

    Args:
        rows: of the history, see `vpjax.runs.history`.
        guess: the loss of equal logits for all classes; None: not known, as where a method adds
            other terms.
    """
    points = [(r["step"], r["loss"]) for r in rows if r.get("loss") is not None]
    if len(points) < 2 or points[-1][0] < FEW:
        return []
    first, steps = points[0][1], points[-1][0]
    tail = [loss for step, loss in points if step > steps * (1 - TAIL)]
    end = sum(tail) / len(tail)
    peak_step, peak = max(points, key=lambda p: p[1])
    low = min(loss for _, loss in points)
    out = []
    if peak > EXPLODES * max(first, guess or 0.0):
        out.append(f"the loss rose to {peak:.4g} at step {peak_step}, from {first:.4g}")
    if end > first:
        out.append(f"the loss ended at {end:.4g}, above the {first:.4g} that it began with")
    if guess is not None and low >= guess:
        out.append(f"the loss never fell below {guess:.4g}, that of a guess; lowest {low:.4g}")
    return out


def guess(loss: str, classes: int, weighted: bool) -> float | None:
    """Return the loss of equal logits for all classes.

    Args:
        loss: of `config.train.loss`.
        classes: how many.
        weighted: whether classes have weights, which make it depend on the images.
    """
    if weighted or classes < 2:
        return None
    return math.log(classes) if loss == "softmax" else classes * math.log(2)
