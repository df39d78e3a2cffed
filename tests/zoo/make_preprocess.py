"""Records what timm, transformers and open_clip make of photos, for `test_preprocess`.

python -m tests.zoo.make_preprocess         with torch, timm, transformers, open_clip, scikit-learn

tests/zoo/data/preprocess/recorded.json: of every configuration and image the SHA-256 of the pixels
after resizing and cropping (uint8 H W C), and a few numbers of the model's input (float32 H W C).
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import open_clip
import timm.data
from PIL import Image
from timm.data import auto_augment
from transformers import AutoImageProcessor

from tests.zoo.preprocess_cases import CASES, OPERATIONS, images, places

OUT = Path(__file__).parent / "data" / "preprocess" / "recorded.json"
PACKAGES = ("timm", "transformers", "open_clip_torch", "torchvision", "pillow")


def of_timm(config: dict, size: int):
    """Returns a function from an image to its pixels and to the model's input, both H W C."""
    resolved = timm.data.resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"])
    resolved["input_size"] = (3, size, size)
    whole = timm.data.create_transform(**resolved)
    pixels = timm.data.create_transform(**resolved, normalize=False)
    turn = lambda tensor: tensor.numpy().transpose(1, 2, 0)  # noqa: E731
    return lambda image: (turn(pixels(image)), turn(whole(image)))


def of_open_clip(config: dict, size: int):
    """Returns likewise."""
    cfg = open_clip.transform.merge_preprocess_dict(
        open_clip.transform.PreprocessCfg(), config.get("preprocess_cfg", {})
    )
    cfg = open_clip.transform.PreprocessCfg(**cfg | {"size": size})
    whole = open_clip.transform.image_transform_v2(cfg, is_train=False)
    before = [t for t in whole.transforms if type(t).__name__ in ("Resize", "CenterCrop")]

    def both(image):
        pixels = image
        for step in before:
            pixels = step(pixels)
        return np.asarray(pixels), whole(image).numpy().transpose(1, 2, 0)

    return both


def of_transformers(processor: dict, size: int, folder: Path):
    """Returns likewise; `size` is the processor's own."""
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    torchs = "DINOv3" in processor["image_processor_type"]  # has no other
    load = lambda: AutoImageProcessor.from_pretrained(  # noqa: E731
        folder, backend="torchvision" if torchs else "pil"
    )
    made = load()

    def both(image):
        turn = lambda a: np.asarray(a).transpose(1, 2, 0)  # noqa: E731
        whole = turn(made(image, return_tensors="np")["pixel_values"][0])
        if torchs:
            return None, whole
        plain = load()(image, return_tensors="np", do_rescale=False, do_normalize=False)
        return turn(plain["pixel_values"][0]), whole

    return both


def main() -> None:
    """Writes the file."""
    out = {"versions": {p: version(p) for p in PACKAGES}, "cases": {}}
    folder = OUT.parent / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (library, config, processor, size) in CASES.items():
        if library == "transformers":
            both = of_transformers(processor, size, folder)
        else:
            both = {"timm": of_timm, "open_clip": of_open_clip}[library](config, size)
        own = {}
        for key, image in images().items():
            pixels, whole = both(Image.fromarray(image))
            assert whole.shape == (size, size, 3), (name, key, whole.shape)
            assert pixels is None or pixels.dtype == np.uint8, (name, pixels.dtype)
            own[key] = {
                "pixels": None if pixels is None else digest(pixels),
                "input": [float(v) for v in whole.reshape(-1)[places(whole.size)]],
            }
        out["cases"][name] = own
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    out["rand_augment"] = {name: operation(*case) for name, case in OPERATIONS.items()}
    OUT.write_text(json.dumps(out, indent=None, separators=(",", ":")) + "\n")


def operation(name: str, level: float, sign: int) -> str:
    """Returns the SHA-256 of a photo after one operation of timm's RandAugment."""
    picture, fill = Image.fromarray(images()["odd"]), (124, 116, 104)
    with mock.patch("random.random", lambda: 0.1 if sign > 0 else 0.9):
        numbers = auto_augment.LEVEL_TO_ARG[name] or (lambda *_: ())
        numbers = numbers(10 * level, {})
    made = auto_augment.NAME_TO_OP[name](
        picture, *numbers, resample=Image.Resampling.BICUBIC, fillcolor=fill
    )
    return digest(np.asarray(made))


def digest(pixels: np.ndarray) -> str:
    """Returns the SHA-256 of the values, row by row."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


if __name__ == "__main__":
    main()
