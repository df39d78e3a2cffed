"""The least work of LoRA, adapters and their like: thin products beside the layers they change.

A matrix is passed forward, back where its input needs a gradient, and once more where it trains.
What depends on no image, as the change of a weight that DoRA measures, is done once a batch. Scales
and shifts are elementwise, but everything behind them needs a gradient.
"""

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.floors_work import Rows, Work
from vpjax.methods import linears
from vpjax.methods.bottleneck import Placed
from vpjax.methods.compacter import Compacter
from vpjax.methods.convpass import Convpass
from vpjax.methods.dora import DoRA
from vpjax.methods.fact import TT
from vpjax.methods.ia3 import IA3
from vpjax.methods.lora import LoRA
from vpjax.methods.repadapter import PLACES, RepAdapter
from vpjax.methods.ssf import SSF
from vpjax.methods.vera import VeRA
from vpjax.nn.context import EVALUATION

EDGE = 3  # cells, of Convpass' kernel
NORMS = {norm: name for name, (norm, _) in PLACES.items()}  # of RepAdapter


class PeftWork(Work):
    """The account of one step of a model whose method acts inside layers."""

    def __init__(self, method: Any, *arguments: Any):
        super().__init__(*arguments)
        self.method, self.batches = method, 1 / self.batch

    def thin(self, rows: Rows, *matrices: tuple[str, float]) -> Rows:
        """Count a chain of products with matrices, each its name and size; return what comes out.

        A matrix trains if any parameter does whose name begins so.
        """
        for name, size in matrices:
            learns = self.learns(name)
            self.flops += 2 * size * (rows.count * (1 + learns) + rows.needs) * rows.copies
            if rows.count and name in self.shapes:
                self.reads[name] = max(self.reads.get(name, 0), 2 if rows.needs else 1)
            rows = rows.if_any(learns)
        return rows

    def linear(self, i: int, part: str, rows: Rows) -> Rows:
        """Count a linear layer of block `i` and what the method does beside it."""
        method, kernel = self.method, super().linear
        names = getattr(method, "names", ())
        found = (
            linears.at(names, linears.SITES[part], EVALUATION.at(i))
            if isinstance(method, LoRA | VeRA | IA3)
            else None
        )
        if isinstance(method, SSF):
            return kernel(i, part, rows).if_any(self.learns("method/layers"))
        if isinstance(method, TT):
            return self.fact(part, rows, kernel(i, part, rows))
        if found is None:
            return kernel(i, part, rows)
        site, fused = found[0], found[0] == "qkv"
        own = f"method/layers/{i}/{site}"
        if isinstance(method, IA3):
            learns = self.learns(own)
            if site in method.feedforward:
                return kernel(i, part, rows.if_any(learns))
            return kernel(i, part, rows).if_any(learns)
        y, share = kernel(i, part, rows), 1 / 3 if fused else 1
        if isinstance(method, VeRA):
            width, out = self.wide(i, part)
            first = [("method/a", width * len(method.b))] if self.first(names, part) else []
            h = self.thin(rows, *first).if_any(self.learns(f"{own}/d"))
            return y.if_any(
                self.thin(h, ("method/b", len(method.b) * out)).needs or self.learns(own)
            )
        if isinstance(method, DoRA):
            inner = self.shapes[f"{own}/a"][1]
            self.flops += 2 * math.prod(self.wide(i, part)) * inner * self.batches
        a, b = f"{own}/a", f"{own}/b"
        first = [(a, self.size(a))] if not fused or part == "k" else []
        h = self.thin(rows, *first).if_any(self.learns(a))
        return y.if_any(self.thin(h, (b, self.size(b) * share)).needs)

    def wide(self, i: int, part: str) -> tuple[int, int]:
        """Return how many numbers enter and leave a linear layer."""
        shape = self.shapes[f"{self.path(i, part)}/kernel"]
        inputs = 2 if part == "proj" else 1
        return math.prod(shape[:inputs]), math.prod(shape[inputs:])

    def first(self, names: Sequence[str], part: str) -> bool:
        """Whether a product that q, k and v share is counted with this one: that of most rows."""
        shared = [p for name in names for p in linears.parts_of(name) if p in linears.QKV]
        ranked = sorted(shared, key=lambda p: p == "q")  # queries may be fewer
        return part not in shared or part == ranked[0]

    def fact(self, part: str, rows: Rows, y: Rows) -> Rows:
        """Count FacT's change of a linear layer, whose hidden values are groups."""
        method = self.method
        (dim, r), g = method.u.shape, method.groups
        into, out = (g if part == name else 1 for name in ("fc2", "fc1"))
        learns = self.learns("method/")
        first = [("method/u", dim * r * into)] if self.first(("qkv",), part) else []
        h = self.thin(rows, *first).if_any(learns)
        core = r * into * r * out
        self.flops += 2 * core * h.count * (1 + 2 * learns) * h.copies
        return y.if_any(self.thin(h, ("method/v", dim * r * out)).needs)

    def at(self, i: int, site: str, y: Rows, x: Rows) -> Rows:
        """Count what the method does at a place of block `i` that is no linear layer."""
        method, own = self.method, f"method/layers/{i}"
        if isinstance(method, SSF) and site in ("norm1", "norm2"):
            return y.if_any(self.learns(own))
        if isinstance(method, RepAdapter) and NORMS.get(site) in method.names:
            a, b = (f"{own}/{NORMS[site]}/{n}" for n in "ab")
            return y.if_any(self.thin(y, (a, self.size(a)), (b, self.size(b))).needs)
        if isinstance(method, Placed):
            for name, place in method.places.items():
                if place == site:
                    down, up = (f"{own}/{name}/{n}" for n in ("down", "up"))
                    read = x if method.from_stream else y
                    passed = self.thin(read, (down, self.size(down)), (up, self.size(up)))
                    return y.if_any(passed.needs or self.learns(own))
        if isinstance(method, Compacter) and site in ("attn", "mlp"):
            passed = self.thin(y, *(self.kronecker(f"{own}/{site}/{n}") for n in ("down", "up")))
            return y.if_any(passed.needs)
        if isinstance(method, Convpass) and site in method.places:
            return y.if_any(self.bypass(f"{own}/{site}", method.grids[i], x.first(y.count)).needs)
        return y

    def kronecker(self, name: str) -> tuple[str, float]:
        """Return a matrix of Compacter, which is made once a batch, and its size."""
        (n, inputs, _), (_, _, outputs) = (self.shapes[f"{name}/{p}"] for p in ("left", "right"))
        return name, n * inputs * n * outputs

    def bypass(self, own: str, grid: tuple[int, int], rows: Rows) -> Rows:
        """Count Convpass' bypass; the class token meets the centre of the kernel alone."""
        down, conv, up = (f"{own}/{n}" for n in ("down", "conv", "up"))
        rank = self.shapes[down][1]
        met = math.prod(EDGE * n - EDGE + 1 for n in grid) if rows.count >= math.prod(grid) else 0
        outside = rows.count - math.prod(grid) * bool(met)
        h = self.thin(rows, (down, self.size(down)))
        h = self.thin(h, (conv, rank * rank * (met + outside) / rows.count))
        return self.thin(h, (up, self.size(up)))
