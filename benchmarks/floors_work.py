"""What the layers of a transformer must at least compute and move, added up as they are passed.

A product of rows with a weight matrix of `size` numbers, 2 FLOPs a multiply-add:

    forward           2 size rows
    input gradient    2 size needs              those of the rows that depend on what trains
    weight gradient   2 size rows               where the weight trains

Attention of Q queries over S keys and values, D wide, of which q, k, v depend on what trains:

    forward           2 D (2 Q S)                                   scores, mixed values
    backward          2 D (Q S - (Q - q)(S - k) + q S + Q k + Q v)  scores; queries; keys; values

So nothing is counted below the first thing that trains, nor any gradient of a frozen weight. Rows
of what is done once a batch count 1 / batch. Elementwise work is left out: norms, softmax,
activations, sums, loss, optimiser.

The least traffic between memory and chip, in bytes:

    weights       read once forward, and once more where an input gradient passes them
    activations   what the backward pass cannot do without, written once and read once; of a layer:
                  the normalised input of both norms, queries, keys, values, what attention gives
                  with a float32 number a query and head, the input of the MLP's activation
    optimiser     float32 parameters that train and their momentum, read and written

All else stays on the chip: what is elementwise is computed where it is used, and gradients go
straight into the update. Nothing but that is computed twice; remat moves less, for more FLOPs.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

LINEARS = {"q": "attn/query", "k": "attn/key", "v": "attn/value", "proj": "attn/out"}
LINEARS |= {"fc1": "mlp/fc1", "fc2": "mlp/fc2"}
FLOAT32 = 4  # bytes
OPTIMISER = 4 * FLOAT32  # bytes a number that trains: it and its momentum, read and written


class Floor(NamedTuple):
    """The least that a step needs, an image."""

    flops: float  # of matrix products
    bytes: float  # between memory and chip


class Rows(NamedTuple):
    """Tokens of an image."""

    count: float
    needs: float = 0  # those that depend on what trains, and so need a gradient
    copies: float = 1  # 1 / batch: computed once a batch

    def first(self, count: float | None) -> "Rows":
        """Return the first `count`; None: all."""
        count = self.count if count is None else count
        return self._replace(count=count, needs=min(self.needs, count))

    def if_any(self, needs: float | bool) -> "Rows":
        """Return these, all of which need a gradient where `needs` is not 0."""
        return self._replace(needs=self.count) if needs else self


class Work:
    """The account of one step."""

    def __init__(
        self, weights: Mapping[str, Any], trained: Mapping[str, Any], batch: int, dtype: str
    ):
        self.shapes = {name: v.shape for name, v in weights.items()}
        self.trained = set(trained)
        self.batch, self.item = batch, jnp.dtype(dtype).itemsize
        self.flops = self.kept = 0.0
        self.reads: dict[str, int] = {}  # of each weight, how often

    def size(self, name: str) -> int:
        """Return how many numbers a weight has."""
        return math.prod(self.shapes[name])

    def learns(self, name: str) -> bool:
        """Whether anything whose name begins so trains."""
        return any(n.startswith(name) for n in self.trained)

    def keep(self, numbers: float) -> None:
        """Counts numbers that the backward pass needs."""
        self.kept += numbers * self.item

    def norm(self, name: str, rows: Rows) -> Rows:
        """Return what comes out of a norm."""
        return rows.if_any(self.learns(f"{name}/"))

    def dense(self, name: str, rows: Rows) -> Rows:
        """Counts a product with the weight `name`, or `name`/kernel; returns what comes out."""
        kernel = name if name in self.shapes else f"{name}/kernel"
        count = rows.count + rows.needs + (kernel in self.trained) * rows.count
        self.flops += 2 * self.size(kernel) * count * rows.copies
        if rows.count:
            self.reads[kernel] = max(self.reads.get(kernel, 0), 2 if rows.needs else 1)
        return rows.if_any(self.learns(name))

    def attention(self, queries: Rows, keys: Rows, width: int, values: float | None = None) -> Rows:
        """Counts scores and mixing; returns what comes out.

        `values` are those that need a gradient; None: as many as keys.
        """
        (all_q, q, copies), (all_k, k, _) = queries, keys
        v = k if values is None else values
        backward = all_q * all_k - (all_q - q) * (all_k - k) + q * all_k + all_q * (k + v)
        self.flops += 2 * width * (2 * all_q * all_k + backward) * copies
        return queries.if_any(q or k or v)

    def block(
        self,
        i: int,
        rows: Rows,
        keep: float | None = None,
        read: Rows | None = None,
        own_keys: Rows | None = None,
        between: Callable[[Rows], Rows] = lambda rows: rows,
    ) -> Rows:
        """Counts layer `i`, of which the first `keep` tokens come out (None: all).

        `read` are further tokens that are looked at, `own_keys` further keys and values as they
        are; `between` counts what is done to the tokens between attention and MLP.
        """
        name = f"backbone/layers/{i}"
        x = self.norm(f"{name}/norm1", rows)
        x = self.at(i, "norm1", x, rows)
        q = self.linear(i, "q", x.first(keep))
        keys, values = (self.linear(i, part, x) for part in "kv")
        total, read_values = (keys.count, keys.needs), values.needs
        if read:
            p, v = (self.linear(i, part, self.norm(f"{name}/norm1", read)) for part in "kv")
            total = total[0] + p.count, total[1] + p.needs
            read_values += v.needs
        if own_keys:
            total = total[0] + own_keys.count, total[1] + own_keys.needs
            read_values += own_keys.needs
        if not q.count:
            return q
        width, heads = self.shapes[f"{name}/attn/query/kernel"][:2]
        mixed = self.attention(q, Rows(*total), width, read_values)
        o = self.at(i, "attn", self.linear(i, "proj", mixed), x)
        out = rows.first(keep).if_any(o.needs)
        out = between(self.at(i, "attn.residual", out, rows))
        y = self.at(i, "norm2", self.norm(f"{name}/norm2", out), out)
        hidden = self.linear(i, "fc1", y)
        m = self.at(i, "mlp", self.linear(i, "fc2", hidden), y)
        after = self.adapter(i, self.at(i, "mlp.residual", out.if_any(m.needs), out))
        if mixed.needs:  # queries, what attention gives; keys, values
            self.keep(2 * width * (q.count + keys.count) * q.copies)
            self.keep(2 * width * (read.count * read.copies if read else 0))
            self.kept += FLOAT32 * heads * q.count * q.copies
        if self.learns(f"{name}/") or after.needs:
            trains = self.learns(f"{name}/attn") or self.learns(f"{name}/mlp")
            self.keep(width * (x.if_any(trains).needs + y.if_any(trains).needs) * x.copies)
            self.keep(hidden.needs * self.shapes[f"{name}/mlp/fc1/kernel"][1] * x.copies)
        return after

    def path(self, i: int, part: str) -> str:
        """Return the name of a linear layer of block `i`."""
        return f"backbone/layers/{i}/{LINEARS[part]}"

    def linear(self, i: int, part: str, rows: Rows) -> Rows:
        """Counts a linear layer of block `i`, a name of `LINEARS`; returns what comes out."""
        return self.dense(self.path(i, part), rows)

    def at(self, i: int, site: str, y: Rows, x: Rows) -> Rows:
        """Counts what a method does at a place of block `i` that is no linear layer: nothing."""
        return y

    def adapter(self, i: int, rows: Rows) -> Rows:
        """Counts the bottleneck behind layer `i`, if there is one."""
        name = f"method/adapters/{i}"
        if f"{name}/down" not in self.shapes:
            return rows
        hidden = self.dense(f"{name}/down", rows)
        if hidden.needs:  # inputs of both weights
            self.keep(rows.count * sum(self.shapes[f"{name}/down"]))
        return rows.if_any(self.dense(f"{name}/up", hidden).needs)

    def floor(self, image_bytes: float) -> Floor:
        """Return the sum."""
        moved = OPTIMISER * sum(map(self.size, self.trained))
        for name, times in self.reads.items():
            wide = name in self.trained or name.startswith("method/")
            moved += times * self.size(name) * (FLOAT32 if wide else self.item)
        return Floor(self.flops, moved / self.batch + 2 * self.kept + image_bytes)
