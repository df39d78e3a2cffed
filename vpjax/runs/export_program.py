"""A run as one program, which runs without vpjax: StableHLO with weights and preprocessing inside.

    images, uint8 B H W C  ->  {"logits": B C, "probabilities": B C}, both float32

B is free. H and W are the run's image size: decoding, and resizing and cropping to that size, stay
outside, as they do in training. Inside are (x / 255 - mean) / std and the whole model. A preset
that resizes without rounding takes float32 images, 0 to 255.

The file is what `jax.export` serialises: `jax.export.deserialize(bytes)` loads it in any program
with JAX, on CPU, NVIDIA GPU or TPU. Beside it lies a JSON file that says what goes in and out.
"""

import dataclasses
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from vpjax.core.errors import UserError
from vpjax.core.files import atomic, write_json
from vpjax.data import preset
from vpjax.models.partition import merge
from vpjax.nn.context import EVALUATION
from vpjax.runs.export_check import compare, sample
from vpjax.runs.inputs import image_to_input
from vpjax.runs.run import Run

PLATFORMS = ("cpu", "cuda", "tpu")
# What loads the file again: a process in which vpjax cannot be imported.
ELSEWHERE = """
import sys
sys.modules["vpjax"] = None
import jax, numpy as np
from jax import export
call = export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call
images = np.load(sys.argv[2])
one, all = jax.jit(call)(images[:1]), jax.jit(call)(images)
np.savez(sys.argv[3], one=one["logits"], all=all["logits"], shares=all["probabilities"])
"""


def export_program(run: Run, target: Path) -> float:
    """Write a run as a program; return the largest difference from the run's own outputs.

    Args:
        run: the run; attention must be "xla", which every platform has.
        target: the file; TARGET.json is written beside it.

    Raises:
        UserError: if flatbuffers is missing, the model cannot be exported, or the outputs differ.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError(
            "--format stablehlo needs flatbuffers, which is not installed: pip install "
            "'vpjax[export]', or pip install flatbuffers."
        )
    size, channels = run.image_size, run.config.backbone.get("channels", 3)
    dtype = preset(run.preset).host_dtype()
    batch = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((*batch, *size, channels), dtype)
    try:
        exported = jax.export.export(jax.jit(program(run)), platforms=PLATFORMS)(images)
    except (jax.errors.JAXTypeError, TypeError, NotImplementedError) as e:
        reason = str(e).partition("\n")[0]
        raise UserError(
            f"{run.config.method.name} on {run.config.backbone.name} cannot be exported with a "
            f"free batch size: {reason}"
        ) from e
    pixels = sample(size, channels).astype(dtype)
    ours = run.outputs(pixels)["logits"]
    with atomic(target) as new:
        new.write_bytes(exported.serialize())
        differ = compare(run, ours, reloaded(new, pixels))
    write_json(target.with_name(f"{target.name}.json"), facts(run, dtype))
    return differ


def program(run: Run) -> Callable:
    """Return the function images -> {"logits", "probabilities"} with the run's weights inside."""
    graph, *weights = run.parts
    channels = run.config.backbone.get("channels", 3)
    to_input = image_to_input(run.preset, run.image_size, channels, run.config.dtype)
    share = jax.nn.sigmoid if run.multilabel else jax.nn.softmax
    ctx = dataclasses.replace(EVALUATION, settled=run.predictor.settled)

    def apply(images):
        out = merge(graph, *weights)(to_input({"image": images}, None), ctx)
        logits = out["logits"].astype(jnp.float32)
        return {"logits": logits, "probabilities": share(logits)}

    return apply


def reloaded(path: Path, images: np.ndarray) -> np.ndarray:
    """Return the logits that a program computes in a process without vpjax, on its CPU.

    Args:
        path: of the program.
        images: B H W C.

    Raises:
        UserError: if it cannot be loaded or run there, or one image alone gives other logits than
            among others.
    """
    with tempfile.TemporaryDirectory(prefix="vpjax-") as folder:
        given, found = Path(folder) / "images.npy", Path(folder) / "logits.npz"
        np.save(given, images)
        command = [sys.executable, "-c", ELSEWHERE, str(path), str(given), str(found)]
        env = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            raise UserError(f"the exported program does not run without vpjax: {last}")
        with np.load(found) as arrays:
            one, every = arrays["one"], arrays["all"]
    if not np.allclose(one, every[:1], rtol=1e-3, atol=1e-4 * np.abs(every).max()):
        raise UserError("the exported program gives other logits for one image than for several")
    return every


def facts(run: Run, dtype: type) -> dict[str, Any]:
    """Return what the JSON file beside the program says."""
    height, width = run.image_size
    channels = run.config.backbone.get("channels", 3)
    return {
        "input": {
            "shape": ["batch", height, width, channels],
            "dtype": np.dtype(dtype).name,
            "values": "0 to 255; red, green, blue" if channels == 3 else "0 to 255",
        },
        "before": f"decode, then resize and crop to {height} x {width} as {preset(run.preset).text}"
        " says; mean and std are applied inside",
        "preset": preset(run.preset).text,
        "outputs": ["logits", "probabilities"],
        "probabilities": "sigmoid" if run.multilabel else "softmax",
        "classes": list(run.classes),
        "platforms": list(PLATFORMS),
    }
