"""Swin Transformer: attention in windows of a grid that halves from stage to stage.

    image -> patches, norm -> [ block, shifted block, ... merging ] x stages -> norm -> mean

    a window of a block     [ extra_kv | prefix | its own w x w cells ]     keys and values
                                       [ prefix | its own w x w cells ]     queries

Liu et al. 2021, arXiv 2103.14030. Prefix tokens (prompts) have no position in the grid, so each
window gets a copy of them: its cells attend to the copies and the copies to its cells, without
position bias or shift mask, and the mean of the copies over all windows is the output. Tokens of
`extra_kv` are copied as keys and values. Merging joins four neighbours; a prefix token is joined
with itself.

VPT's published code gives the windows of an image the prompts of other images of the batch;
`match_reference_code=True` repeats that. Weights come from the released torch files, see
`vpjax.weights.swin`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone, Site, Stem
from vpjax.backbones.vit import TAPS
from vpjax.core.errors import UserError, unknown
from vpjax.core.size import pair
from vpjax.nn.attention import attention
from vpjax.nn.context import Context
from vpjax.nn.layers import Attention, Block, Dense, LayerNorm, Mlp, PatchEmbed
from vpjax.nn.tokens import Tokens
from vpjax.nn.windows import Windows

# variant: embed_dim, depths, heads, drop_path
VARIANTS = {
    "T": (96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
    "S": (96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
    "B": (128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5),
    "L": (192, (2, 2, 18, 2), (6, 12, 24, 48), 0.5),
}
EPS = 1e-5  # of patches and merging in every library, and of blocks unless told otherwise
USUAL = "B", 224


class Swin(Backbone):
    """A Swin Transformer; features are `embed_dim` x 2^(stages - 1) wide.

    What is None is the weights' if they say it, see `vpjax.weights.swin`.

    Args:
        variant: a size of `VARIANTS`: "T", "S", "B" or "L"; None: that of the widths, depths and
            heads, else "B".
        image_size: an edge or (height, width), pixels; None: 224.
        window: cells along the edge of a window, one number or one each stage; None: 7, and 12 at
            384 pixels, as released. A grid no larger than the window is one window, without shift.
        patch_size: an edge or (height, width), pixels; None: 4.
        embed_dim: width of the first stage, which doubles with every stage; None: the variant's.
        depths: number of blocks of each stage; None: the variant's.
        heads: number of attention heads of each stage; None: the variant's.
        mlp_ratio: hidden width of MLPs as a multiple of the stage's; None: 4.
        channels: channels of images: 3, or 1 for grey ones.
        qkv_bias: whether queries, keys and values have biases; None: yes.
        patch_norm: whether patches are normalised; None: yes.
        positions: whether every cell of the first grid has a learnt position; None: no.
        eps: of the norms of blocks and the last one; None: 1e-5.
        activation: of MLPs, a name of `vpjax.nn.activations.ACTIVATIONS`; None: "gelu".
        drop_path: probability with which the last block is skipped, rising linearly from 0 at the
            first; it acts only while the backbone trains. None: the variant's.
        attention: must be "xla".
        match_reference_code: share prompts among the images of a batch as VPT's code does.

    Raises:
        UserError: for an unknown variant, or sizes that do not fit together.
    """

    def __init__(
        self,
        variant: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        *,
        window: int | tuple[int, ...] | None = None,
        patch_size: int | tuple[int, int] | None = None,
        embed_dim: int | None = None,
        depths: tuple[int, ...] | None = None,
        heads: tuple[int, ...] | None = None,
        mlp_ratio: float | None = None,
        channels: int = 3,
        qkv_bias: bool | None = None,
        patch_norm: bool | None = None,
        positions: bool | None = None,
        eps: float | None = None,
        activation: str | None = None,
        drop_path: float | None = None,
        attention: str = "xla",
        match_reference_code: bool = False,
        rngs: nnx.Rngs,
    ):
        known = {v[:3]: name for name, v in VARIANTS.items()}
        variant = variant or known.get((embed_dim, depths, heads), USUAL[0])
        image_size = image_size or USUAL[1]
        if variant not in VARIANTS:
            raise unknown("Swin variant", variant, VARIANTS)
        if attention != "xla":
            raise UserError(f"Swin has no fused attention; use attention 'xla', not {attention!r}")
        dim, depths, heads, drop_path = (
            own if given is None else given
            for given, own in zip(
                (embed_dim, depths, heads, drop_path), VARIANTS[variant], strict=True
            )
        )
        self.image_size, self.patch_size = pair(image_size), pair(patch_size or 4)
        self.grid = tuple(i // p for i, p in zip(self.image_size, self.patch_size, strict=True))
        window = window or (12 if self.image_size == (384, 384) else 7)
        sizes = (window,) * len(depths) if isinstance(window, int) else tuple(window)
        check(dim, depths, heads, sizes)
        check_grids(self.grid, sizes, math.lcm(*self.patch_size))

        eps = eps or EPS
        self.dim, self.taps = dim * 2 ** (len(depths) - 1), TAPS
        self.stem = Stem(self.patch_size, self.patch_size, 0, dim, channels=channels)

        self.patch_embed = PatchEmbed(self.patch_size, dim, channels=channels, rngs=rngs)
        self.patch_norm = None if patch_norm is False else LayerNorm(dim, eps=EPS)
        cells = math.prod(self.grid)
        self.positions = (
            nnx.Param(0.02 * jax.random.normal(rngs.params(), (cells, dim))) if positions else None
        )
        sites, layers = [], []
        rates = iter(np.linspace(0, drop_path, sum(depths)).tolist())
        for stage, depth in enumerate(depths):
            grid = (self.grid[0] >> stage, self.grid[1] >> stage)
            for i in range(depth):
                sites.append(Site(len(sites), stage, dim << stage, grid))
                layers.append(
                    self.make_block(
                        stage,
                        sites[-1].dim,
                        heads[stage],
                        Windows.of(grid, sizes[stage], shifted=i % 2 == 1),
                        mlp_ratio=float(mlp_ratio or 4),
                        qkv_bias=qkv_bias is not False,
                        eps=eps,
                        activation=activation or "gelu",
                        drop_path=next(rates),
                        match_reference_code=match_reference_code,
                        rngs=rngs,
                    )
                )
            if stage + 1 < len(depths):
                sites.append(Site(len(sites), stage, dim << stage, grid, has_attention=False))
                layers.append(self.make_merging(dim << stage, rngs=rngs))
        self.sites, self.layers = tuple(sites), nnx.List(layers)
        self.norm = LayerNorm(self.dim, eps=eps)

    @classmethod
    def options_of_variant(cls, variant: str) -> dict[str, Any]:
        """Return width, depths and heads of a variant.

        Raises: UserError for an unknown variant.
        """
        if variant not in VARIANTS:
            raise unknown("Swin variant", variant, VARIANTS)
        return dict(zip(("embed_dim", "depths", "heads"), VARIANTS[variant][:3], strict=True))

    def make_block(
        self, stage: int, dim: int, heads: int, windows: Windows, **options: Any
    ) -> nnx.Module:
        """Return a block of a stage; see `SwinBlock` for the options."""
        return SwinBlock(dim, heads, windows, **options)

    def make_merging(self, dim: int, *, rngs: nnx.Rngs) -> nnx.Module:
        """Return what joins four neighbours `dim` wide to one of twice the width."""
        return Merging(dim, rngs=rngs)

    def patchify(self, images: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        """Project the patches of images."""
        return ctx.tap("stem", self.patch_embed(images), images)

    def add_positions(self, patches: Float[Array, "B h w D"], ctx: Context) -> Tokens:
        """Return the normalised patches as tokens; each block has its own position bias."""
        batch, h, w, dim = patches.shape
        x = patches.reshape(batch, h * w, dim)
        x = x if self.patch_norm is None else self.patch_norm(x)
        x = x if self.positions is None else x + self.positions[...].astype(x.dtype)
        return Tokens(x, num_prefix_tokens=0, grid=(h, w))

    def pool(self, tokens: Tokens, over: slice | None = None) -> Float[Array, "B D"]:
        """Return the mean of all tokens, prompts included, after the last norm."""
        return self.norm(tokens.x if over is None else tokens.x[:, over]).mean(1)

    def partial(self, k: int) -> str:
        """Return the last block for 1 or the last stage for 2, and the last norm.

        4 is the last stage with two blocks and the merging before it.
        Raises: UserError for another k.
        """
        last = self.sites[-1].stage
        stage = [s.index for s in self.sites if s.stage == last]
        before = [s.index for s in self.sites if s.stage == last - 1]
        groups = {1: stage[-1:], 2: stage, 4: before[-3:] + stage}
        if k not in groups:
            raise UserError(
                f"partial-{k} does not exist for Swin: partial-1 trains the last block, partial-2 "
                "the last stage, partial-4 also two blocks of the stage before and the merging."
            )
        return rf"layers/({'|'.join(map(str, groups[k]))})/.*|norm/.*"


class SwinBlock(Block):
    """A block with attention in windows."""

    def __init__(
        self,
        dim: int,
        heads: int,
        windows: Windows,
        *,
        mlp_ratio: float,
        qkv_bias: bool,
        eps: float,
        activation: str,
        drop_path: float,
        match_reference_code: bool,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(dim, eps=eps)
        self.attn = WindowAttention(
            dim, heads, windows, match_reference_code, qkv_bias=qkv_bias, rngs=rngs
        )
        self.norm2 = LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, round(mlp_ratio * dim), activation=activation, rngs=rngs)
        self.drop_path = drop_path


class WindowAttention(Attention):
    """Attention of every cell over its window, the prefix tokens and `extra_kv`.

    Queries, keys and values of tokens outside the grid are computed once and copied to the windows.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        windows: Windows,
        match_reference_code: bool,
        *,
        qkv_bias: bool,
        rngs: nnx.Rngs,
    ):
        super().__init__(dim, heads, rngs=rngs)
        if not qkv_bias:
            for name in ("query", "key", "value"):
                setattr(self, name, Dense((dim,), (heads, dim // heads), bias=False, rngs=rngs))
        self.relative_position_bias_table = nnx.Param(
            0.02 * jax.random.normal(rngs.params(), ((2 * windows.size - 1) ** 2, heads))
        )
        self.windows, self.match_reference_code = windows, match_reference_code

    def __call__(
        self,
        x: Float[Array, "B L D"],
        ctx: Context,
        extra_kv: Float[Array, "... P D"] | None = None,
        num_outputs: int | None = None,
    ) -> Float[Array, "B K D"]:
        # Pooling reads all tokens, so fewer outputs are rare: they are cut from all of them.
        return super().__call__(x, ctx, extra_kv)[:, :num_outputs]

    def mix(
        self,
        q: Float[Array, "B L N d"],
        k: Float[Array, "B S N d"],
        v: Float[Array, "B S N d"],
    ) -> Float[Array, "B L N d"]:
        """Attends within windows; L and S are tokens outside the grid, then the cells."""
        cells = math.prod(self.windows.grid)
        bias = self.bias(q.shape[1] - cells, k.shape[1] - cells)
        y = attention(*(self.scatter(x) for x in (q, k, v)), bias=bias)  # (B W) (P + T) N d
        return self.gather(y, q.shape[0])

    def scatter(self, x: Float[Array, "B L N d"]) -> Float[Array, "BW M N d"]:
        """Divide cells into W windows of T cells, each after a copy of the other tokens."""
        grid = self.windows.grid
        batch, others = x.shape[0], x.shape[1] - math.prod(grid)
        own = self.windows.divide(x[:, others:].reshape(batch, *grid, *x.shape[2:]))  # B W T N d
        shape = (*own.shape[:2], others, *x.shape[2:])
        # The reference copies window by window to windows that are ordered image by image.
        if self.match_reference_code:
            copies = jnp.tile(x[:, :others], (own.shape[1], 1, 1, 1)).reshape(shape)
        else:
            copies = jnp.broadcast_to(x[:, None, :others], shape)
        return jnp.concatenate([copies, own], 2).reshape(-1, shape[2] + own.shape[2], *x.shape[2:])

    def gather(self, y: Float[Array, "BW M N d"], batch: int) -> Float[Array, "B L N d"]:
        """Join windows again: the mean of the copies of each other token, then the grid."""
        y = y.reshape(batch, -1, *y.shape[1:])
        others = y.shape[2] - self.windows.size**2
        cells = self.windows.unite(y[:, :, others:]).reshape(batch, -1, *y.shape[3:])
        copies = y[:, :, :others]
        if self.match_reference_code:
            means = copies.reshape(y.shape[1], batch, *copies.shape[2:]).mean(0)
        else:
            means = copies.mean(1)
        return jnp.concatenate([means, cells], 1)

    def bias(self, queries: int, keys: int) -> Float[Array, "W N M S"]:
        """Return what is added to scores, 0 for tokens outside the grid.

        W is 1 where all windows have the same.
        """
        bias = self.table()[self.windows.positions()].transpose(2, 0, 1)[None]  # 1 N T T
        if self.windows.shift:
            bias = bias + self.windows.mask()[:, None]  # W N T T
        return jnp.pad(bias, ((0, 0), (0, 0), (queries, 0), (keys, 0)))

    def table(self) -> Float[Array, "R N"]:
        """Return the bias of every offset between two cells of a window."""
        return self.relative_position_bias_table[...]


class Merging(nnx.Module):
    """Four neighbours become one cell of twice the width; a prefix token is joined with itself."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(4 * dim, eps=EPS)
        self.reduction = _Reduction(4 * dim, 2 * dim, rngs=rngs)

    def __call__(
        self,
        tokens: Tokens,
        ctx: Context,
        extra_kv: Float[Array, "... P D"] | None = None,
        num_outputs: int | None = None,
    ) -> Tokens:
        """Ignores `extra_kv`: there is no attention."""
        batch, _, dim = tokens.x.shape
        (h, w), prefix = tokens.grid, tokens.x[:, : tokens.num_prefix_tokens]
        cells = tokens.x[:, tokens.num_prefix_tokens :].reshape(batch, h // 2, 2, w // 2, 2, dim)
        # (even, even), (odd row, even), (even, odd column), (odd, odd)
        cells = cells.transpose(0, 1, 3, 4, 2, 5).reshape(batch, -1, 4 * dim)
        x = jnp.concatenate([jnp.tile(prefix, (1, 1, 4)), cells], axis=1)
        return Tokens(self.reduce(x), tokens.num_prefix_tokens, (h // 2, w // 2)).first(num_outputs)

    def reduce(self, x: Float[Array, "B L C"]) -> Float[Array, "B L D"]:
        """Return cells of twice the width for four neighbours, C = 4 x the width."""
        return self.reduction(self.norm(x))


class _Reduction(nnx.Module):
    """A matrix without bias."""

    def __init__(self, dim_in: int, dim_out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(
            jax.nn.initializers.glorot_uniform()(rngs.params(), (dim_in, dim_out))
        )

    def __call__(self, x: Float[Array, "B L C"]) -> Float[Array, "B L D"]:
        return x @ self.kernel[...].astype(x.dtype)


def check(
    dim: int, depths: tuple[int, ...], heads: tuple[int, ...], windows: tuple[int, ...]
) -> None:
    """Check that every stage has a window, and a number of heads that divides its width.

    Raises: UserError if not.
    """
    for found, name in ((heads, "heads"), (windows, "windows")):
        if len(depths) != len(found):
            raise UserError(
                f"Swin has {len(depths)} depths but {len(found)} {name}: one each a stage"
            )
    for stage, count in enumerate(heads):
        if (dim << stage) % count:
            raise UserError(f"Swin: {dim << stage} channels of stage {stage}, {count} heads")


def check_grids(grid: tuple[int, int], windows: tuple[int, ...], patch: int) -> None:
    """Check that the windows of every stage divide its grid, and merging halves all but the last.

    Raises: UserError if not.
    """
    stages = len(windows)
    for stage, window in enumerate(windows):
        h, w = (n >> stage for n in grid)
        size = max(1, min(window, h, w))
        if 0 in (h, w) or h % size or w % size or (stage + 1 < stages and (h % 2 or w % 2)):
            raise UserError(
                f"Swin: stage {stage} has a grid of {h}x{w} cells; windows of {size}x{size} must "
                "divide it, and merging halves all grids but the last. Any image_size that is a "
                f"multiple of {patch * window << (stages - 1)} pixels fits windows of {window}."
            )
