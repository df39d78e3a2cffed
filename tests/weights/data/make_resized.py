"""Makes resized.npz: grids that torch resized, for the rules that are torch's.

python -m tests.weights.data.make_resized           with torch; the file here: torch 2.14
"""

from pathlib import Path

import numpy as np
import torch

SIZES = [((5, 5), (8, 8)), ((8, 8), (5, 5)), ((4, 6), (7, 3)), ((7, 7), (3, 11))]
SIZES += [((16, 16), (4, 5)), ((1, 1), (3, 3))]
RULES = {"bicubic": ("bicubic", True), "bicubic_no_antialias": ("bicubic", False)}
RULES["bilinear"] = ("bilinear", False)


def main() -> None:
    """Writes the cells of each size and what every rule makes of them, float32."""
    out, draw = {}, np.random.default_rng(0)
    for number, (old, new) in enumerate(SIZES):
        cells = draw.standard_normal((*old, 2)).astype(np.float32)
        out[f"{number}.cells"] = cells
        image = torch.from_numpy(cells).double().permute(2, 0, 1)[None]
        for rule, (mode, antialias) in RULES.items():
            resized = torch.nn.functional.interpolate(
                image, size=new, mode=mode, align_corners=False, antialias=antialias
            )
            out[f"{number}.{rule}"] = resized[0].permute(1, 2, 0).numpy().astype(np.float32)
    np.savez_compressed(Path(__file__).with_name("resized.npz"), **out)


if __name__ == "__main__":
    main()
