"""Our side of a race: the library's own training step, and its inference."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import measure
from benchmarks.race import Side
from benchmarks.settings import our_settings
from benchmarks.tasks import CLASSES, Task
from vpjax.core.registry import lookup
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge, partition
from vpjax.nn.attention import resolve
from vpjax.train.step import init_state, make_train_step

RATE, MOMENTUM, DECAY = 1e-3, 0.9, 1e-4
OPTIMISERS = {
    "sgd": lambda: optax.sgd(RATE, momentum=MOMENTUM),
    "adam": lambda: optax.chain(optax.add_decayed_weights(DECAY), optax.adam(RATE)),
    "adamw": lambda: optax.adamw(RATE, weight_decay=DECAY),
}


class Data(NamedTuple):
    """One batch, and numbers by our names for every parameter and running average."""

    images: np.ndarray  # uint8 B H W 3
    labels: np.ndarray  # int32 B
    weights: dict[str, np.ndarray]


def make_model(task: Task, dtype: str, attention: str) -> tuple[Model, str]:
    """Return the model, shapes only, and the attention it uses."""

    def make(**options: Any) -> Model:
        rngs = nnx.Rngs(0)
        body = lookup("backbones", task.backbone)(**task.body, **options, rngs=rngs)
        method = lookup("methods", task.method)(body, CLASSES, **task.given, rngs=rngs)
        return Model(body, method)

    model = nnx.eval_shape(make)
    chosen = resolve(attention, jnp.dtype(dtype), model.backbone.head_dim)
    if chosen != "xla":
        model = nnx.eval_shape(lambda: make(attention=chosen))
    return model, chosen


def make_data(task: Task) -> Data:
    """Return random images, labels and weights.

    None is constant, so that a weight copied to the wrong place shows, and products keep the size
    of what enters them, so that logits are neither lost nor huge.
    """
    rng = np.random.default_rng(0)
    shape = (task.batch, task.image_size, task.image_size, 3)
    parts = partition(make_model(task, "float32", "xla")[0])
    values = {}
    for name, like in sorted((n, v) for part in parts[1:] for n, v in part.items()):
        noise = rng.standard_normal(like.shape, np.float32)
        if name.endswith("kernel"):
            heads = name.split("/")[-2] in ("query", "key", "value")  # D N d
            inputs = like.shape[0] if heads else like.size // like.shape[-1]
            values[name] = noise * inputs**-0.5
        else:
            values[name] = 0.02 * noise + (1 if name.endswith(("scale", "var")) else 0)
    return Data(
        images=rng.integers(0, 256, shape, np.uint8),
        labels=rng.integers(0, CLASSES, task.batch, np.int32),
        weights=values,
    )


def our_parts(task: Task, data: Data, dtype: str, attention: str) -> tuple[ModelParts, str]:
    """Return the model with its numbers; as in training, frozen matrices are stored in `dtype`."""
    model, chosen = make_model(task, dtype, attention)
    graph, *parts = partition(model)
    trainable, stats, frozen = (
        {name: jnp.asarray(data.weights[name]) for name in part} for part in parts
    )
    frozen = {n: v.astype(dtype) if n.endswith("kernel") else v for n, v in frozen.items()}
    return ModelParts(graph, trainable, stats, frozen), chosen


def our_side(
    task: Task, data: Data, dtype: str, *, train: bool, attention: str = "auto", remat: str = ""
) -> tuple[Side, ModelParts]:
    """Return our step, compiled, and the model. `remat` replaces the setting of the same name."""
    parts, chosen = our_parts(task, data, dtype, attention)
    images = jnp.asarray(data.images)

    def to_input(batch, key):
        return (batch["image"].astype(jnp.float32) / 127.5 - 1).astype(dtype)

    def infer(trainable, stats, frozen, images):
        model = merge(parts.graph, trainable, stats, frozen)
        return model(to_input({"image": images}, None))["logits"]

    if not train:
        with measure.precision(dtype):
            step = jax.jit(infer).lower(*parts[1:], images).compile()
        call = lambda: jax.block_until_ready(step(*parts[1:], images))  # noqa: E731
        return Side(f"ours ({chosen})", call, True, held(step)), parts

    optimiser = OPTIMISERS[task.optimiser]()
    state = init_state(parts.trainable, parts.stats, optimiser, seed=0)
    options = our_settings().step | ({"remat": remat} if remat else {})
    batch = {
        "image": images,
        "label": jnp.asarray(data.labels),
        "mask": jnp.ones(len(images), bool),
    }
    with measure.precision(dtype):
        step = make_train_step(parts.graph, optimiser, to_input, steps=1000, **options)
        step = step.lower(state, parts.frozen, batch).compile()

    def call():
        nonlocal state
        state, numbers = jax.block_until_ready(step(state, parts.frozen, batch))
        return state, numbers

    who = f"ours ({', '.join([chosen, *(f'remat {r}' for r in [remat] if r)])})"
    return Side(who, call, True, held(step)), parts


def held(compiled: Any) -> dict[str, int | None]:
    """Return the bytes of a compiled step: what is in between, and that with all it is given."""
    analysis = compiled.memory_analysis()
    names = ("temp", "argument", "output", "alias")
    sizes = [getattr(analysis, f"{name}_size_in_bytes", None) for name in names]
    if None in sizes:
        return {"temporary_bytes": None, "peak_bytes": None}
    temporary, given, back, donated = sizes
    return {"temporary_bytes": temporary, "peak_bytes": temporary + given + back - donated}
