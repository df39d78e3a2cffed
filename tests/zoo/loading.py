"""Opens a recorded case as a user's folder of weights is opened.

python -m tests.zoo.loading FOLDER ...      prints the largest difference of each
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vpjax.backbones.base import Backbone
from vpjax.core import params, registry
from vpjax.weights.description import Description, WeightsFile
from vpjax.weights.load import Loaded, form_of, load, read_backbone

DATA = Path(__file__).parent / "data"
TOLERANCE = 2e-6  # of the largest feature


def opened(path: Path, library: str = "") -> WeightsFile:
    """Return what is found in a file, with the config.json beside it."""
    arrays, chosen = read_backbone(path)
    beside = path.parent / "config.json"
    config = json.loads(beside.read_text()) if beside.is_file() else {}
    library = library or ("transformers" if "model_type" in config else "")
    shapes = {n: a.shape for n, a in arrays.items()}
    return WeightsFile(str(path), path, shapes, chosen.prefix, library, config)


def described(path: Path) -> Description:
    """Return what a file says about itself."""
    file = opened(path)
    return form_of(file.shapes).describe(file)


def backbone_of(
    path: Path, head: str = "new", resample: str = "", **changes
) -> tuple[Backbone, Loaded]:
    """Return the backbone of a file, with its weights, and what was loaded."""
    found = described(path)
    options = {"name": found.name, "dropout": 0.0} | dict(found.options) | changes
    assert not [k for k in found.open if options.get(k) is None], found.open
    body = nnx.eval_shape(lambda: registry.construct("backbones", options, rngs=nnx.Rngs(0)))
    expected = params.flatten(nnx.state(body))
    loaded = load(str(path), expected, body.grid, head, resample or found.resample, found.kind)
    graph, state = nnx.split(body)
    return nnx.merge(graph, params.fill(state, _arrays(loaded.values))), loaded


def recorded(folder: str | Path) -> dict[str, np.ndarray]:
    """Return what the library computed; images as float32."""
    with np.load(DATA / folder / "recorded.npz") as file:
        return {n: np.asarray(file[n], np.float32) for n in file.files}


def features_of(backbone: Backbone, images: np.ndarray) -> np.ndarray:
    """Return the features of prepared images."""
    graph, state = nnx.split(backbone)
    call = jax.jit(lambda state, images: nnx.merge(graph, state)(images))
    return np.asarray(call(state, jnp.asarray(images)))


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference, as a part of the largest number."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _arrays(values: dict[str, np.ndarray]) -> dict[str, jnp.ndarray]:
    return {n: jnp.asarray(v, jnp.float32) for n, v in values.items()}


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        case = recorded(folder.absolute())
        backbone, _ = backbone_of(next(folder.glob("model.*")))
        print(
            folder.name,
            f"{difference(features_of(backbone, case['images']), case['features']):.1e}",
        )
