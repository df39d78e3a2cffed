"""A small hybrid of Google's program as it is saved, with what it computes.

    python tests/zoo/make_google_hybrid.py FOLDER

FOLDER is a checkout of github.com/google-research/vision_transformer. Writes
tests/zoo/data/google_hybrid/ as `tests/zoo/make_conv.py` does its cases.
"""

import collections
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

CLASSES = 5
Patches = collections.namedtuple("Patches", "size")
ResNet = collections.namedtuple("ResNet", "num_layers width_factor")


def main(checkout, folder):
    sys.path.insert(0, checkout)
    from vit_jax import models_vit

    model = models_vit.VisionTransformer(
        num_classes=CLASSES,
        patches=Patches((2, 2)),
        resnet=ResNet((1,), 0.5),
        transformer={"mlp_dim": 32, "num_heads": 2, "num_layers": 1},
        hidden_size=16,
    )
    random = np.random.default_rng(0)
    images = random.integers(-2, 2, (2, 32, 32, 3), np.int8)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    flat = traverse_util.flatten_dict(shapes["params"], sep="/")
    values = {n: draw(random, n, v.shape) for n, v in flat.items()}
    params = traverse_util.unflatten_dict(values, sep="/")
    x = jnp.asarray(images, jnp.float32)
    logits = model.apply({"params": params}, x, train=False)
    features = model.clone(num_classes=0).apply({"params": params}, x, train=False)
    folder.mkdir(parents=True, exist_ok=True)
    # Half precision holds these numbers exactly.
    half = {n: v.astype(np.float16) for n, v in values.items()}
    np.savez_compressed(folder / "model.npz", **half)
    np.savez_compressed(
        folder / "recorded.npz", images=images, features=features, logits=np.asarray(logits)
    )


def draw(random, name, shape):
    normal = random.standard_normal(shape)
    if name.endswith("scale"):
        normal = 1 + 0.3 * normal
    elif len(shape) < 2 or name.endswith("bias"):
        normal = 0.3 * normal
    elif name.endswith("kernel"):
        normal = normal / np.sqrt(np.prod(shape) / shape[-1])
    return normal.astype(np.float16).astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1], Path(__file__).parent / "data" / "google_hybrid")
