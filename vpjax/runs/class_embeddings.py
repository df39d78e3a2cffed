"""Class embeddings, from which VPT's prompts may start: class means of the class token, by layer.

    class_embeddings.npy   N (L + 1) D, as `vpjax.methods.prototypes` reads it
    class_embeddings.json  classes, images, weights and data that they were computed from

One pass over the training images, preprocessed as for evaluation. N is the number of classes; with
fewer prompts than classes, class means are put into `method.num_tokens` groups (k-means on the last
layer's entry) and averaged.
"""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict
from scipy.cluster.vq import kmeans2

from vpjax.backbones.base import Backbone
from vpjax.core import files
from vpjax.core.errors import UserError
from vpjax.data import Loader, preset
from vpjax.models.partition import merge
from vpjax.nn.context import EVALUATION
from vpjax.nn.stack import run_layers
from vpjax.runs import config as configs
from vpjax.runs import summary
from vpjax.runs.experiment import Experiment, prepare
from vpjax.train import sharding

log = logging.getLogger(__name__)


def class_embeddings(config: ConfigDict, folder: Path) -> Path:
    """Compute class embeddings of `config.data.train` and write them to `folder`.

    Returns:
        The file of the embeddings.

    Raises:
        UserError: if the backbone has no class token, its layers differ in width, or there are
            fewer classes than prompts.
    """
    wanted = config.method.get("num_tokens", 0)
    config = configs.merged(config, {"method": {"name": "finetune.Linear"}})
    # Other splits are not opened, and what a recipe does with them does not apply.
    config.data.update(val="", test="", val_augmented=False)
    config.train.update(select="last", patience=0, test_best=False)
    config.optim.schedule = "constant"
    with files.lock_folder(folder):
        experiment = prepare(config)
        source = experiment.sources["train"]
        backbone = merge(*experiment.parts).backbone
        without = getattr(backbone, "cls_token", None) is None
        if without or len({s.dim for s in backbone.sites}) > 1:
            raise UserError(
                f"{type(backbone).__name__} has no class token that passes all layers. Use a ViT "
                "with one."
            )
        count = wanted or source.num_classes
        if count > source.num_classes:
            raise UserError(
                f"method.num_tokens is {count}, but there are only {source.num_classes} classes. "
                "Choose at most as many prompts as classes."
            )
        means, counts = class_means(experiment)
        missing = [c for c, n in enumerate(counts) if not n]
        if missing:
            raise UserError(
                f"{source.name} has no image of class {missing[0]}; every class needs one"
            )
        groups = np.arange(len(means))
        if count < len(means):
            last = means[:, -1].astype(np.float64)
            _, groups = kmeans2(last, count, minit="++", rng=config.seed)
            groups = _without_empty(groups, count)
        values = np.stack([means[groups == g].mean(0) for g in range(count)])
        path = folder / "class_embeddings.npy"
        with files.atomic(path) as new, open(new, "wb") as file:
            np.save(file, values.astype(np.float32))
        facts = {
            "shape": values.shape,
            "classes": [np.flatnonzero(groups == g).tolist() for g in range(count)],
            "images": counts.tolist(),
            "data": source.name,
        }
        files.write_json(folder / "class_embeddings.json", facts | summary.result_facts(experiment))
    log.info("%d class embeddings of %d layers: %s", count, values.shape[1], path)
    log.info("use them with --config.method.init=cls-nolastl --config.method.init_path=%s", path)
    return path


def class_means(experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Return the class means of the class token, C (L + 1) D, and the images of each class, C."""
    source, inputs, parts = experiment.sources["train"], experiment.inputs, experiment.parts
    to_input = inputs.to_input(train=False)

    @jax.jit
    def sums(trainable, stats, frozen, batch):
        model = merge(parts.graph, trainable, stats, frozen)
        tokens = cls_by_layer(model.backbone, to_input(batch, None))
        rows = jax.nn.one_hot(batch["label"], source.num_classes) * batch["mask"][:, None]
        return jnp.einsum("bc,bld->cld", rows, tokens, precision="highest"), rows.sum(0)

    batches = Loader(
        source,
        inputs.settings.eval_batch_size,
        preset(experiment.preset),
        experiment.image_size,
        train=False,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        multiple=inputs.settings.devices,
    ).batches()
    total, counts = 0.0, 0.0
    for batch in sharding.prefetch(iter(batches), experiment.mesh):
        state = experiment.state
        part, seen = sums(state.trainable, state.stats, experiment.frozen, batch)
        total, counts = total + np.asarray(part, np.float64), counts + np.asarray(seen)
    return total / np.maximum(counts, 1)[:, None, None], counts.astype(int)


def cls_by_layer(backbone: Backbone, images: Float[Array, "B H W C"]) -> Float[Array, "B L D"]:
    """Return the class token before the first layer and after each."""
    tokens = backbone.embed(images, EVALUATION)

    def step(layer, state, ctx):
        tokens, found = state
        tokens = layer(tokens, ctx)
        return tokens, (*found, tokens.x[:, 0])

    _, found = run_layers(backbone.layers, (tokens, (tokens.x[:, 0],)), step, EVALUATION)
    return jnp.stack(found, axis=1).astype(jnp.float32)


def _without_empty(groups: np.ndarray, count: int) -> np.ndarray:
    """Give every empty group the first member of the largest one."""
    for g in range(count):
        if not (groups == g).any():
            groups[np.flatnonzero(groups == np.bincount(groups).argmax())[0]] = g
    return groups
