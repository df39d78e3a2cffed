"""Files of what the published repositories have learnt, by our names.

    VPT         shallow_prompt (1 P D), deep_prompt (L-1 P D), written after every epoch
    SA2VP       checkpoint-*.pth: the whole model below "model"
    MS-VP       best_model.pth: the whole model below "model_state_dict"
    MoP-CLIP    best_epoch*.pt: prompt_offsets (C K D) and the frozen CLIP, below "model"

Numbers are turned to our layouts; (out, in) becomes (in, out). What the files hold of a frozen
backbone is not read but for its patches' kernel, which tells one backbone from another.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from vpjax.core.errors import UserError
from vpjax.weights import formats, msvp

ENDINGS = (".pth", ".pt", ".tar", ".npz", ".safetensors", ".bin")
# A name that every file of a repository has.
MARKS = {
    "VPT": r"shallow_prompt|deep_prompt|.*\.(deep_)?prompt_embeddings",
    "SA2VP": r".*(ppt_proj|proj_ppt)\.weight",
    "MoP-CLIP": r"prompt_offsets",
    "MS-VP": r"prompting\.global_prompt|features\.0\.weight|layer4\.1\.conv2\.weight|pos_embed",
}
TEXT = "method/text"
PATCHES = "backbone/patch_embed/kernel"
COMPARED = (TEXT, PATCHES)  # of a frozen model, where they are frozen
# What those of a frozen backbone are called there.
KERNELS = (
    r"(.*\.patch_embeddings|.*\.?patch_embed\.proj|.*visual\.conv1|.*\.patch_embedding)\.weight"
)

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def is_file(where: str) -> bool:
    """Return whether a place is a file of parameters, and no folder of a run."""
    return Path(where).expanduser().is_file() or where.lower().endswith(ENDINGS)


def read(path: Path, method: str, backbone: str, expected: Shapes, classes: int) -> Arrays:
    """Return what a file holds of a method's arrays, by our names.

    Args:
        path: the file.
        method: class of the method, such as "sa2vp.SA2VP".
        backbone: class of the backbone, such as "cnn.CNN".
        expected: shapes of what is wanted, by our names. `TEXT` and `PATCHES` may be among them, to
            be compared.
        classes: how many the run has; ours may be padded to more.

    Returns:
        Those of `expected` that are in the file; in its shapes, which need not be those of
        `expected`.

    Raises:
        UserError: if there is no such file, or it is not of a repository whose method this is.
    """
    if not path.is_file():
        raise UserError(f"train.start: there is no file {path}")
    arrays = {n.removeprefix("module."): a for n, a in formats.read(path).items()}
    kind = next((k for k, mark in MARKS.items() if any(re.fullmatch(mark, n) for n in arrays)), "")
    wanted = _repository(method, backbone)
    if not wanted:
        raise UserError(
            f"train.start: {path} cannot begin a run of {method}; files of the published code are "
            "read for VPT (vpt.*), SA2VP, MS-VP and its networks, and MoP"
        )
    if kind != wanted:
        found = f"a file of the published {kind}" if kind else f"it holds {sorted(arrays)[:4]}"
        raise UserError(f"train.start: {path} is no file of the published {wanted}; {found}")
    trunk = backbone.partition(".")[0]
    found = formats.guarded(path, lambda: _READERS[kind](arrays, trunk, expected))
    if kind == "MoP-CLIP":
        found = formats.guarded(path, lambda: _padded(found, expected, classes))
    if PATCHES in expected and PATCHES not in found:
        theirs = [a for n, a in arrays.items() if re.fullmatch(KERNELS, n) and a.ndim == 4]
        if theirs:
            found[PATCHES] = theirs[0].transpose(2, 3, 1, 0)
    return found


def _repository(method: str, backbone: str) -> str:
    """Return whose files can hold parameters of a method."""
    module = method.partition(".")[0]
    small = backbone in ("cnn.CNN", "resnet.ResNet", "small_vit.SmallViT")
    if module == "msvp" or (method == "finetune.Full" and small):
        return "MS-VP"
    return {"vpt": "VPT", "sa2vp": "SA2VP", "mop": "MoP-CLIP"}.get(module, "")


def _vpt(arrays: Arrays, backbone: str, expected: Shapes) -> Arrays:
    short = {re.sub(r".*\.(?=(deep_)?prompt_embeddings$)", "", n): a for n, a in arrays.items()}
    shallow = short.get("shallow_prompt", short.get("prompt_embeddings"))
    deep = short.get("deep_prompt", short.get("deep_prompt_embeddings"))
    prompts = [] if shallow is None else list(shallow.reshape(-1, *shallow.shape[-2:]))
    prompts += [] if deep is None else list(deep)
    layers = _numbers("method/prompts/", expected)
    out = dict(zip((f"method/prompts/{i}" for i in layers), prompts, strict=False))
    if len(prompts) > len(layers):  # named, so that the difference is seen
        out["method/prompts/more"] = np.stack(prompts[len(layers) :])
    return out | _named(short, expected, {"method/head/": "head.last_layer."})


def _sa2vp(arrays: Arrays, backbone: str, expected: Shapes) -> Arrays:
    short = {n.removeprefix("vit_base.").removeprefix("transformer."): a for n, a in arrays.items()}
    swin = "patch_embed.deep_ppt" in short
    first = "patch_embed.deep_ppt" if swin else "embeddings.ppt"
    up = "patch_embed.proj_ppt." if swin else "embeddings.ppt_proj."
    places = {"method/head/": "class_head.", "method/prompt/up/": up}
    stage = next((n for n in short if re.search(r"cross_attn\.0\.ffn_norm\.weight", n)), "")
    stage = stage.partition("cross_attn.")[0]
    for k, i in enumerate(_numbers("method/adapters/", expected)):
        theirs = f"{stage}cross_attn.{k}."
        places[f"method/adapters/{i}/norm/"] = f"{theirs}ffn_norm."
        places |= {f"method/adapters/{i}/{n}/": f"{theirs}ffn.{n}." for n in ("fc1", "fc2")}
    out = {"method/prompt/map": short[first][0]} if first in short else {}
    for j, i in enumerate(_numbers("method/deep/", expected)):
        places[f"method/deep/{i}/prompt/up/"] = f"encoder.deep_proj.{j}."
        if j < len(short.get("encoder.deep_ppt", ())):
            out[f"method/deep/{i}/prompt/map"] = short["encoder.deep_ppt"][j, 0]
            out[f"method/deep/{i}/weight"] = short["encoder.cross_conv"][j]
    return out | _named(short, expected, places)


def _msvp(arrays: Arrays, backbone: str, expected: Shapes) -> Arrays:
    out, gated = {}, "prompting.gate.0.weight" in arrays
    used = {n for n in arrays if n.endswith("num_batches_tracked")}
    for name, shape in expected.items():
        place = msvp.place(name, shape, backbone, gated)
        if place.name in arrays:
            used.add(place.name)
            array = arrays[place.name]
            # In its own layout where it does not fit, for the message.
            same = array.shape == place.shape or name.startswith("method/head/")
            out[name] = place.ours(array) if same else array
    rest = {f"method/{n}": a for n, a in arrays.items() if n not in used}
    return out | {n: a for n, a in rest.items() if "prompting." in n or not out}


def _mop(arrays: Arrays, backbone: str, expected: Shapes) -> Arrays:
    out = {"method/offsets": arrays["prompt_offsets"]}
    if TEXT in expected and "base_text_features" in arrays:
        out[TEXT] = arrays["base_text_features"]
    return out


def _padded(found: Arrays, expected: Shapes, classes: int) -> Arrays:
    """Return arrays with a row a class, with the rows of zeros that ours have for the devices."""
    out = {}
    for name, array in found.items():
        rows = expected[name][0] - classes if len(array) == classes else 0
        out[name] = np.pad(array, [(0, rows)] + [(0, 0)] * (array.ndim - 1))
    return out


def _numbers(start: str, expected: Shapes) -> list[int]:
    """Return the numbers that follow `start` in names, in order."""
    found = (re.match(rf"{start}(\d+)(/|$)", name) for name in expected)
    return sorted({int(m[1]) for m in found if m})


def _named(arrays: Arrays, expected: Shapes, places: Mapping[str, str]) -> Arrays:
    """Return kernels, scales and biases by the beginnings of their names, ours to theirs."""
    out = {}
    for name in expected:
        start, _, leaf = name.rpartition("/")
        theirs = places.get(f"{start}/")
        theirs = theirs and f"{theirs}{'bias' if leaf == 'bias' else 'weight'}"
        if theirs in arrays:
            out[name] = arrays[theirs].T
    return out


_READERS: dict[str, Callable[[Arrays, str, Shapes], Arrays]] = {
    "VPT": _vpt,
    "SA2VP": _sa2vp,
    "MS-VP": _msvp,
    "MoP-CLIP": _mop,
}
