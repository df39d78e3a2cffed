"""A run as a model of timm or transformers: a folder with weights, configuration, preprocessing.

The file that the run's backbone was loaded from is the pattern: its names, its configuration, with
the run's numbers and head in them. A plain ViT from elsewhere gets timm's or transformers' names
anew. The result is compared with the run: by the library itself where it and torch are installed,
else by reading it back here.
"""

import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.numpy
from flax import nnx

from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.core.files import atomic_folder, open_to_readers, write_json
from vpjax.data import preset
from vpjax.data.preset_write import timm_fields, transformers_fields
from vpjax.models.create import load_backbone
from vpjax.runs.experiment import backbone_spec
from vpjax.runs.export_check import compare, sample
from vpjax.runs.merge import compared, folded, joined
from vpjax.runs.run import Run
from vpjax.weights import plain_vit, timm, transformers
from vpjax.weights.anchor import split
from vpjax.weights.load import form_of, opened, read_backbone
from vpjax.weights.rewrite import origins, rewritten

LIBRARIES = ("timm", "transformers")
HEAD = r"method/head/(kernel|bias)"
# Classes of transformers with a head, by model_type: the class, and what precedes its names.
CLASSIFIERS = {
    "vit": ("ViTForImageClassification", "vit"),
    "vit_msn": ("ViTMSNForImageClassification", "vit"),
    "deit": ("DeiTForImageClassification", "deit"),
    "beit": ("BeitForImageClassification", "beit"),
    "data2vec-vision": ("Data2VecVisionForImageClassification", "data2vec_vision"),
    "dinov2": ("Dinov2ForImageClassification", "dinov2"),
    "dinov2_with_registers": (
        "Dinov2WithRegistersForImageClassification",
        "dinov2_with_registers",
    ),
    "swin": ("SwinForImageClassification", "swin"),
    "swinv2": ("Swinv2ForImageClassification", "swinv2"),
    "convnext": ("ConvNextForImageClassification", "convnext"),
    "convnextv2": ("ConvNextV2ForImageClassification", "convnextv2"),
    "resnet": ("ResNetForImageClassification", "resnet"),
    "bit": ("BitForImageClassification", "bit"),
}
HEADS = {"resnet": "classifier.1", "bit": "classifier.1"}  # others: "classifier"
BUFFERS = r".*(relative_position_index|relative_coords_table|attn_mask|position_ids)"


def export_weights(run: Run, target: Path, library: str) -> tuple[float, str]:
    """Write a run as a model of a library.

    Args:
        run: the run.
        target: the folder.
        library: "timm" or "transformers".

    Returns:
        The largest difference of logits, and how they were compared.

    Raises:
        UserError: if the method cannot be folded into the backbone, the library has no such model,
            or its logits differ.
    """
    values = {n: np.asarray(v, np.float32) for n, v in plain_arrays(run, library).items()}
    form, like, config = pattern(run, library)
    if config.get("model_type", "").startswith("dinov2"):
        # Its classifier reads the class token and the mean of the patches: that gets zeros.
        missing = 2 * config["hidden_size"] - len(values["head/kernel"])
        values["head/kernel"] = np.pad(values["head/kernel"], ((0, missing), (0, 0)))
    like = with_head(like, form, config, values, library)
    expected = backbone_of(values)
    like = resized(like, form, expected)
    arrays = rewritten(form, like, expected, values)
    images = sample(run.image_size, run.config.backbone.get("channels", 3))
    ours = run.outputs(images)["logits"]
    with atomic_folder(target) as new:
        safetensors.numpy.save_file(arrays, new / "model.safetensors", {"format": "pt"})
        open_to_readers(new / "model.safetensors")
        described = describe(run, config, library)
        for name, content in described.items():
            write_json(new / name, content)
        # Of the model's size already: a preset that resizes and crops would do it again.
        prepared = np.asarray(run.predictor.to_input()({"image": images}, None), np.float32)
        differ = compare(run, ours, read_back(new, prepared, values))
        how = f"read back here, as torch and {library} are not both installed"
        if all(importlib.util.find_spec(name) for name in ("torch", library)):
            differ = max(differ, compare(run, ours, by_library(new, prepared, library)))
            how = f"computed by {library} {importlib.metadata.version(library)}"
    if len(described) == 1 and library == "transformers" or "mean" not in str(described):
        how += f"; {library} has no words for the preprocessing {preset(run.preset).text}"
    return differ, f"; {how}"


def plain_arrays(run: Run, library: str) -> dict[str, np.ndarray]:
    """Return the arrays of a run's backbone, with what its method learnt in them, and "head/...".

    Raises: UserError if the method cannot be folded into the backbone, or the head is not linear.
    """
    model = run.model
    try:
        plain = joined(model, folded(model))
    except UserError as e:
        raise UserError(
            f"no model of {library} can be what {run.folder} learnt: {e} docs/export.md has a "
            "recipe for prompts."
        ) from e
    compared(model, plain, "float32")
    head = params.flatten(nnx.state(plain.method))
    if beside := [n for n in head if n not in ("head/kernel", "head/bias")]:
        raise UserError(
            f"the head of {run.folder} has {beside[0]}, and no model of {library} a head of more "
            "than one linear layer: use --format stablehlo."
        )
    return params.flatten(nnx.state(plain.backbone)) | head


def pattern(run: Run, library: str) -> tuple[ModuleType, dict[str, np.ndarray], dict[str, Any]]:
    """Return the format, arrays and configuration that a run's model is written like.

    Args:
        run: the run.
        library: "timm" or "transformers".

    Raises:
        UserError: if there is no file of this library to go by, and the backbone is no plain ViT.
    """
    where, own = run.config.backbone.weights, ""
    if (path := run.weights_file) is not None:
        file = opened(where, path)
        own = file.library if file.library in LIBRARIES else ""
        if file.library == library:
            arrays, _ = read_backbone(path, split(where)[1])
            return form_of(arrays), dict(arrays), json.loads(json.dumps(file.config))
    if run.config.backbone.name != "vit.ViT":
        raise UserError(
            f"{run.config.backbone.name} from {where or 'random values'} has no file of {library} "
            "to go by, and only plain ViTs are written without one. Use --format stablehlo, or a "
            "target that ends in .safetensors."
        )
    options = vit_options(run)
    plain_vit.check_plain(options, library, own)
    classes = len(run.classes)
    if library == "timm":
        return timm, plain_vit.like_timm(options, classes), plain_vit.config_timm(options)
    like = plain_vit.like_transformers(options, classes)
    return transformers, like, plain_vit.config_transformers(options)


def vit_options(run: Run) -> dict[str, Any]:
    """Return the options of a run's ViT with every default filled in."""
    from vpjax.backbones.vit import ViT

    given = {k: v for k, v in backbone_spec(run.config).completed().items() if v is not None}
    sizes = ViT.options_of_variant(given.get("variant", ViT.usual["variant"]))
    out = dict(ViT.usual) | sizes | {"channels": 3} | given
    out["pool"] = out["pool"] or ("token" if out["class_token"] else "mean")
    return out


def with_head(
    like: dict[str, np.ndarray],
    form: ModuleType,
    config: dict[str, Any],
    values: dict[str, np.ndarray],
    library: str,
) -> dict[str, np.ndarray]:
    """Return a pattern with an empty head of the run's classes, and names as the library has them.

    Args:
        like: arrays of the pattern.
        form: its format.
        config: its configuration.
        values: of the run; "head/kernel" is D C.
        library: "timm" or "transformers".

    Raises:
        UserError: for a kind of model that has no classifier in the library.
    """
    kind = config.get("model_type", "")
    if library == "transformers" and kind not in CLASSIFIERS:
        raise UserError(
            f"transformers' {kind!r} models have no classifier that computes what this run does. "
            "Use --format stablehlo."
        )
    becomes = origins(form, like, backbone_of(values))
    kept, width = {}, values["head/kernel"].shape[::-1]
    for name, array in like.items():
        to = [ours for ours, _ in becomes[name]]
        if any(ours.startswith("head/") for ours in to):
            rest = array.shape[2:]
            kept[name] = np.zeros((*width, *rest) if array.ndim > 1 else width[:1], np.float32)
        elif not re.fullmatch(BUFFERS, name) and not _leave(name, to, library):
            kept[name] = array
    if library == "transformers":
        first = CLASSIFIERS[kind][1] + "."
        in_front = lambda n: n if n.startswith((first, "classifier")) else first + n  # noqa: E731
        kept = {in_front(n): a for n, a in kept.items()}
    place = (config.get("pretrained_cfg") or {}).get("classifier") or "head"
    place = HEADS.get(kind, "classifier") if library == "transformers" else place
    kept.setdefault(f"{place}.weight", np.zeros(width, np.float32))
    kept.setdefault(f"{place}.bias", np.zeros(width[:1], np.float32))
    return kept


def _leave(name: str, to: list[str], library: str) -> bool:
    """Return whether an array of the pattern has no place in a classifier of transformers."""
    return library == "transformers" and any(
        ours.startswith("pre_logits/")
        or (ours.startswith("unused/") and not re.search("mask_token|num_batches", name))
        for ours in to
    )


def resized(
    like: dict[str, np.ndarray], form: ModuleType, expected: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return a pattern whose arrays have the sizes of the run's: it may have another image size."""
    out = dict(like)
    for name, became in origins(form, like, expected).items():
        for ours, shape in became:
            wanted = expected[ours].shape if ours in expected else shape
            if len(wanted) == len(shape) and wanted != shape:
                change = dict(zip(shape, wanted, strict=True))
                new = [change.get(n, n) for n in like[name].shape]
                out[name] = np.zeros(new, np.float32)
    return out


def backbone_of(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of the backbone, without those of the head."""
    return {n: v for n, v in values.items() if not n.startswith("head/")}


def describe(run: Run, config: dict[str, Any], library: str) -> dict[str, dict[str, Any]]:
    """Return the files of configuration by name.

    Args:
        run: the run.
        config: of the pattern.
        library: "timm" or "transformers".
    """
    names, size = list(run.classes), list(run.image_size)
    channels = run.config.backbone.get("channels", 3)
    if library == "timm":
        rest = {k: v for k, v in config.items() if k != "architecture"}
        cfg = config.setdefault("pretrained_cfg", rest)
        cfg |= {"input_size": [channels, *size], "num_classes": len(names)}
        cfg |= timm_fields(preset(run.preset)) or {}
        config |= {"num_classes": len(names), "label_names": names}
        sizes = dict(config.get("model_args") or {})
        sizes.pop("num_classes", None)
        if "pos_embed" in run.backbone_arrays() or "img_size" in sizes:
            sizes["img_size"] = size
        if sizes or config.get("model_args"):
            config["model_args"] = sizes
        return {"config.json": config}
    config |= {
        "architectures": [CLASSIFIERS[config["model_type"]][0]],
        "image_size": size[0] if size[0] == size[1] else size,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": "multi_label_classification"
        if run.multilabel
        else "single_label_classification",
    }
    for key in ("num_labels", "torch_dtype", "dtype", "auto_map"):
        config.pop(key, None)
    files = {"config.json": config}
    if fields := transformers_fields(preset(run.preset), run.image_size):
        files["preprocessor_config.json"] = fields
    return files


def read_back(folder: Path, images: np.ndarray, values: dict[str, np.ndarray]) -> np.ndarray:
    """Return logits of the written backbone as vpjax loads it, B C.

    Args:
        folder: that was written.
        images: prepared, B H W C.
        values: of the run, with its head.
    """
    import jax

    kernel = values["head/kernel"]
    backbone = load_backbone(str(folder), preset="imagenet")
    features = np.asarray(jax.jit(lambda body, x: body(x))(backbone, images))
    if features.shape[1] != len(kernel) and kernel[features.shape[1] :].any():
        backbone = load_backbone(str(folder), preset="imagenet", pool="token_mean")
        features = np.asarray(backbone(images))
    return features @ kernel[: features.shape[1]] + values["head/bias"]


def by_library(folder: Path, images: np.ndarray, library: str) -> np.ndarray:
    """Return logits of the written model as its library computes them, B C.

    Args:
        folder: that was written.
        images: prepared, B H W C.
        library: "timm" or "transformers".

    Raises:
        UserError: if the library does not take it.
    """
    import torch

    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    try:
        if library == "timm":
            import timm as theirs

            model = theirs.create_model(f"local-dir:{folder}", pretrained=True).eval()
        else:
            from transformers import AutoModelForImageClassification

            model = AutoModelForImageClassification.from_pretrained(str(folder)).eval()
        with torch.no_grad():
            found = model(x)
    except Exception as e:  # of torch and of the library, whose classes are their own
        reason = str(e).strip().partition("\n")[0]
        raise UserError(f"{library} does not take what was exported: {reason}") from e
    return np.asarray((found if library == "timm" else found.logits).numpy())
