"""The command `prune`: E2VPT's prompts are trained with masks, pruned, and trained again.

    python main.py prune --config configs/digits_prune.py --workdir DIR

    masked       one run on data.train, whose masks train with it; the test split stays closed
    importance   of each prompt, and of each piece of a prompt: the mean over the training batches
                 of d loss / d mask, signed; the lowest are pruned first
    select       rewinding: each pair of counts (`study.prune`) is a new model with fixed masks,
                 trained on data.train from prompts drawn anew; the best on data.val is chosen
    final        the choice, trained on both splits with every seed, and tested

    DIR/masked             the run             DIR/pruning.json    importance and candidates
    DIR/select, DIR/final  the runs            DIR/tune.md ...     the tables, as `tune` writes them

Of equals the one with more prompts pruned is chosen. Finished runs are not run again. The published
code lets the weights move while it measures, by steps of its optimiser; here they stay. Han et al.
2023, arXiv 2307.13770.
"""

import contextlib
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from vpjax.core import files, forms, registry
from vpjax.core.errors import UserError
from vpjax.methods.e2vpt import E2VPT
from vpjax.models.partition import merge
from vpjax.nn.context import Context
from vpjax.runs import config as configs
from vpjax.runs.defaults import single_run
from vpjax.runs.experiment import prepare
from vpjax.runs.fit import fit
from vpjax.runs.restore import record_of, restore_checkpoint
from vpjax.studies import trials
from vpjax.studies.tune import tune
from vpjax.train import sharding
from vpjax.train.checkpoint import Checkpoints

log = logging.getLogger(__name__)

MASKS = ("method/token_mask", "method/piece_mask")
CANDIDATE = {"name": str, "pruned_tokens": [int], "pruned_pieces": [int]}
PRUNING = {"val": forms.NUMBER, "candidates": [CANDIDATE]}  # what is read of pruning.json
ADVICE = "Restore it from a copy; or rename it, and it is made anew from the run in masked."


def prune(config: ConfigDict, folder: Path) -> dict[str, Any]:
    """Run all that is missing of the study; return the content of tune.json.

    Raises:
        UserError: if the recipe is for another method, or no run of the selection finished.
    """
    if not issubclass(registry.lookup("methods", config.method.name), E2VPT):
        raise UserError(
            f"prune is for e2vpt.E2VPT, whose prompts have masks; config.method.name is "
            f"{config.method.name}. Use --config digits_prune, or a recipe of that method."
        )
    trials.check(config)
    path = folder / "pruning.json"
    if (found := read_pruning(path)) is None:
        masked = configs.merged(
            single_run(config),
            {"method": {"masks": True, "pruned_tokens": (), "pruned_pieces": ()}},
        )
        masked.data.test = ""
        log.info("masked    trains once, to find what may be pruned")
        result = fit(masked, folder / "masked")
        found = pruning(config, folder / "masked")
        found["val"] = result[f"val_{result['metric']}"]
        files.write_json(path, found)
    log.info("masked    val %.2f %%, %d candidates", found["val"], len(found["candidates"]))
    (summary,) = tune(selection(config, found["candidates"]), folder)
    return summary


def read_pruning(path: Path) -> dict[str, Any] | None:
    """Return the content of pruning.json; None if there is none yet.

    Raises:
        Damaged: if it is not as a study writes it.
    """
    return forms.read(path, PRUNING, ADVICE)


def selection(config: ConfigDict, candidates: Sequence[dict[str, Any]]) -> ConfigDict:
    """Return the config of `tune` that trains each candidate anew.

    Args:
        config: of the study.
        candidates: of pruning.json.
    """
    out = configs.merged(config, {"method": {"masks": False}})
    options = ("pruned_tokens", "pruned_pieces")
    also = {c["name"]: {"method": {k: tuple(c[k]) for k in options}} for c in candidates}
    out.study.tune.grid = ConfigDict({"study": {"label": tuple(also)}})
    out.study.tune.also = ConfigDict({"study": {"label": also}})
    return out


def pruning(config: ConfigDict, folder: Path) -> dict[str, Any]:
    """Return the importance of tokens and pieces, and the candidates, most tokens pruned first.

    Args:
        config: of the study.
        folder: of the run with masks.
    """
    tokens, pieces = (importance(g) for g in mask_gradients(folder))
    settings = config.study.prune
    few = [
        counts(importances.shape[-1], least, settings.percents)
        for importances, least in ((tokens, settings.min_tokens), (pieces, settings.min_pieces))
    ]
    pairs = itertools.product(*(sorted(set(c), reverse=True) for c in few))
    candidates = []
    for pair in pairs:
        masked = [masks(i, [n])[0] for i, n in zip((tokens, pieces), pair, strict=True)]
        gone = [np.flatnonzero(m == 0).tolist() for m in masked]
        name = f"{pair[0]}_prompts_{pair[1]}_pieces"
        candidates.append({"name": name, "pruned_tokens": gone[0], "pruned_pieces": gone[1]})
    return {"tokens": tokens.tolist(), "pieces": pieces.tolist(), "candidates": candidates}


def mask_gradients(
    folder: Path,
) -> tuple[Float[np.ndarray, "batches N"], Float[np.ndarray, "batches N P"]]:
    """Return the gradients of both masks for every training batch of an epoch.

    Args:
        folder: of a finished run with masks.
    """
    e = prepare(configs.load(folder / "config.json"))
    place = folder / "checkpoints" / "last"
    with contextlib.closing(Checkpoints(place)) as checkpoints:
        state, _ = restore_checkpoint(checkpoints, e.state, record_of(e), only_weights=True)
    to_input = e.inputs.to_input(train=True)

    @jax.jit
    def gradients(masks, state, frozen, batch, step):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), step)

        def loss(masks):
            model = merge(e.parts.graph, state.trainable | masks, state.stats, frozen)
            ctx = Context(key=jax.random.fold_in(key, 1), progress=1.0, mask=batch["mask"])
            out = model(to_input(batch, jax.random.fold_in(key, 0)), ctx)
            each = model.method.loss(out, batch["label"], e.criterion, ctx)
            return (each * batch["mask"]).sum() / batch["mask"].sum()

        return jax.grad(loss)(masks)

    found, own = [], {name: state.trainable[name] for name in MASKS}
    loader = e.inputs.loader("train")
    batches = itertools.islice(loader.batches(), loader.steps_per_epoch)
    for step, batch in enumerate(batches):
        batch = sharding.put_batch(batch, e.mesh)
        found.append(sharding.to_host(gradients(own, state, e.frozen, batch, step)))
    return tuple(np.stack([g[name] for g in found]) for name in MASKS)


def importance(gradients: Float[np.ndarray, " batches *n"]) -> Float[np.ndarray, "*n"]:
    """Return the importance of each token or piece: the signed mean of its mask's gradients."""
    return np.asarray(gradients, np.float64).mean(0)


def counts(size: int, minimum: int, percents: Sequence[int]) -> list[int]:
    """Return how many of `size` are pruned, for each percentage; the list ends at the limit.

    Args:
        size: prompts of a layer, or pieces of a prompt.
        minimum: how many stay.
        percents: ascending.
    """
    found, most = [], max(size - minimum, 0)
    for percent in percents:
        count = size * percent // 100
        found.append(min(count, most))
        if count > most:
            break
    return found


def masks(
    importance: Float[np.ndarray, "*n size"], pruned: Sequence[int]
) -> Int[np.ndarray, "candidates *n size"]:
    """Return the mask of each candidate, 0 where pruned; ties are pruned in order.

    Args:
        importance: of tokens, or of the pieces of each prompt.
        pruned: how many of the last axis are, a number a candidate.
    """
    ranks = importance.argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable")
    return np.stack([(ranks >= count).astype(int) for count in pruned])
