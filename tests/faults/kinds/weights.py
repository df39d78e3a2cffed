"""Files of weights, what lies beside them, and what a run has learnt."""

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import safetensors.numpy
from flax import serialization

from tests.faults.table import Case, kind
from tests.helpers import torch_files
from vpjax.models.text import tokenizer
from vpjax.runs import model_file
from vpjax.weights import formats, hub
from vpjax.weights.recognise import describe

ARRAYS = {
    "blocks.0.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "blocks.0.bias": np.zeros(4, np.float16),
    "cls": np.ones(3, np.float32),
}


def of_weights(write, name: str):
    """Return a kind that reads a file of weights, and its shapes."""

    def made(folder: Path) -> Case:
        file = folder / name
        write(file)

        def read():
            shapes = formats.shapes(file)
            found = formats.read(file)
            return sorted(shapes), {n: a.sum() for n, a in found.items()} and None

        return Case(file, read)

    return made


def _npz(file: Path) -> None:
    with open(file, "wb") as stream:
        np.savez(stream, **ARRAYS)


def _compressed(file: Path) -> None:
    with open(file, "wb") as stream:
        np.savez_compressed(stream, **ARRAYS)


kind("weights, npz")(of_weights(_npz, "w.npz"))
kind("weights, npz compressed")(of_weights(_compressed, "w.npz"))
kind("weights, safetensors")(
    of_weights(lambda f: safetensors.numpy.save_file(ARRAYS, f), "w.safetensors")
)
kind("weights, msgpack")(
    of_weights(lambda f: f.write_bytes(serialization.msgpack_serialize(dict(ARRAYS))), "w.msgpack")
)
kind("weights, torch")(of_weights(lambda f: torch_files.write(f, {"model": dict(ARRAYS)}), "w.pth"))


@kind("weights, list of parts")
def index(folder: Path) -> Case:
    file = folder / "model.safetensors.index.json"
    parts = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    names = list(ARRAYS)
    for part, chosen in zip(parts, (names[:2], names[2:]), strict=True):
        safetensors.numpy.save_file({n: ARRAYS[n] for n in chosen}, folder / part)
    where = {n: parts[n == "cls"] for n in names}
    file.write_text(json.dumps({"metadata": {"total_size": 99}, "weight_map": where}))
    return Case(file, lambda: sorted(formats.read(file)), named=(file.name, "model-"))


@kind("weights, data.pkl inside")
def pickled(folder: Path) -> Case:
    file = folder / "inside.pkl"
    torch_files.write(folder / "good.pth", {"model": dict(ARRAYS)})
    with zipfile.ZipFile(folder / "good.pth") as archive:
        content = {n: archive.read(n) for n in archive.namelist()}
    (name,) = (n for n in content if n.endswith("data.pkl"))
    file.write_bytes(content[name])

    def read():
        with zipfile.ZipFile(folder / "w.pth", "w") as archive:
            for n, data in content.items():
                archive.writestr(n, file.read_bytes() if n == name else data)
        return len(formats.read(folder / "w.pth")) and None

    return Case(file, read, named=("w.pth",))


@kind("what a run has learnt")
def learnt(folder: Path) -> Case:
    file = folder / "model.safetensors"
    facts = {
        **dict.fromkeys(("preset", "method", "backbone", "weights", "licence"), "x"),
        "weights_sha256": "",
        "classes": ["ant", "bee"],
        "class_info": {"names": ["ant", "bee"], "metadata": [{}, {}], "multilabel": False},
        "image_size": [8, 8],
        "method_options": {},
        "metrics": {"step": 3},
        "identity": {},
        "config": {"method": {"name": "a"}, "data": {"name": "b"}, "backbone": {"name": "c"}},
    }
    model_file.write(file, ARRAYS, facts)

    def read():
        from vpjax.runs.classes import read_classes

        model_file.read_facts(file)
        return sorted(model_file.read_arrays(file)), read_classes(folder)

    return Case(file, read)


def _beside(config: dict, name: str, damage: str):
    def made(folder: Path) -> Case:
        dim, depth = 8, 1
        shapes = {
            "cls_token": (1, 1, dim),
            "pos_embed": (1, 5, dim),
            "patch_embed.proj.weight": (dim, 3, 4, 4),
            "patch_embed.proj.bias": (dim,),
            "norm.weight": (dim,),
            "norm.bias": (dim,),
        }
        for i in range(depth):
            block = {
                "norm1.weight": (dim,),
                "norm1.bias": (dim,),
                "norm2.weight": (dim,),
                "norm2.bias": (dim,),
                "attn.qkv.weight": (3 * dim, dim),
                "attn.qkv.bias": (3 * dim,),
                "attn.proj.weight": (dim, dim),
                "attn.proj.bias": (dim,),
                "mlp.fc1.weight": (4 * dim, dim),
                "mlp.fc1.bias": (4 * dim,),
                "mlp.fc2.weight": (dim, 4 * dim),
                "mlp.fc2.bias": (dim,),
            }
            shapes |= {f"blocks.{i}.{n}": s for n, s in block.items()}
        arrays = {n: np.zeros(s, np.float32) for n, s in shapes.items()}
        safetensors.numpy.save_file(arrays, folder / "model.safetensors")
        (folder / name).write_text(json.dumps(config))

        def read():
            from vpjax.weights import recognise

            recognise._describe.cache_clear()
            hub.configuration(folder / "model.safetensors")
            return str(describe(str(folder)))

        return Case(folder / damage, read, named=(damage, str(folder), "timm"))

    return made


TIMM = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 0,
    "model_args": {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2},
    "pretrained_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "input_size": [3, 8, 8],
    },
}
kind("config.json beside weights")(_beside(TIMM, "config.json", "config.json"))
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 8, "width": 8},
}
kind("preprocessor_config.json")(
    _beside(PROCESSOR, "preprocessor_config.json", "preprocessor_config.json")
)


def _tokenizer(name: str):
    """OpenAI's table of merges, as far as its form goes; the true one is not here."""

    def made(folder: Path) -> Case:
        letters = tokenizer.vocabulary(())
        firsts = [token for token in letters if len(token) == 1]
        ends = [token for token in letters if token.endswith("</w>")]
        pairs = [f"{a} {b}" for a in firsts for b in (*ends, *firsts)][: tokenizer.MERGES]
        data = ("#version: 0.2\n" + "\n".join(pairs) + "\n").encode()
        file = folder / name
        file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        read = lambda: tokenizer.open_tokenizer(str(file))(["an ant"]).shape  # noqa: E731
        return Case(file, read, most=30)

    return made


kind("merges of a tokenizer")(_tokenizer("merges.txt"))
kind("merges of a tokenizer, packed")(_tokenizer("merges.txt.gz"))
