"""Models with SA2VP that tests share."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vpjax.backbones.swin import Swin
from vpjax.backbones.vit import ViT
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition
from vpjax.nn.context import EVALUATION
from vpjax.train.losses import softmax

CLASSES = 5


def vit(rngs, **options):
    """Six layers: with a period of 2, maps are injected at 2 and 4."""
    sizes = {"dim": 16, "mlp_dim": 24, "heads": 2, "depth": 6, "dropout": 0.0}
    return ViT("Ti/4", (12, 16), **(sizes | options), rngs=rngs)


def swin(rngs, **options):
    sizes = {"window": 2, "embed_dim": 8, "depths": (1, 3, 1), "heads": (1, 2, 4), "drop_path": 0.0}
    return Swin("T", 32, **(sizes | options), rngs=rngs)


def make(cls, body, backbone: dict | None = None, **options):
    """Parts of a model whose numbers are large enough for every path to matter."""
    rngs = nnx.Rngs(0)
    body = body(rngs, **(backbone or {}))
    options = {"inter_dim": 4, "inter_weight": 0.7, "dropout": 0.0, "period": 2} | options
    parts = partition(Model(body, cls(body, CLASSES, rngs=rngs, **options)))
    rng = np.random.default_rng(0)
    drawn = {n: v + 0.3 * rng.standard_normal(v.shape) for n, v in parts.trainable.items()}
    return parts._replace(trainable={n: jnp.float32(v) for n, v in drawn.items()})


def pixels(parts, batch=2):
    size = merge(*parts).backbone.image_size
    return jax.random.normal(jax.random.key(0), (batch, *size, 3))


def gradient(parts, images, ctx=EVALUATION):
    """Returns the loss, the logits of both streams and the gradients."""
    labels = jnp.arange(len(images)) % CLASSES

    @jax.jit
    def run(trainable, frozen, images):
        def loss_fn(trainable):
            model = merge(parts.graph, trainable, parts.stats, frozen)
            out = model(images, ctx)
            loss = model.method.loss(out, labels, softmax, ctx).mean()
            return loss, (loss, out["logits"], out["logits_prompt"])

        return jax.grad(loss_fn, has_aux=True)(trainable)

    grads, out = run(parts.trainable, parts.frozen, images)
    return out, grads


def full_size(cls, body, batch=1, dropout=0.0, **options):
    def build():
        rngs = nnx.Rngs(0)
        backbone = body(rngs)
        return Model(backbone, cls(backbone, 100, dropout=dropout, rngs=rngs, **options))

    parts = partition(nnx.eval_shape(build))
    return parts, jax.ShapeDtypeStruct((batch, 224, 224, 3), jnp.float32)


def vit_b(rngs):
    return ViT("B/16", dropout=0.0, rngs=rngs)
