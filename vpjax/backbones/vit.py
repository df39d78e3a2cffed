"""Vision Transformer: patches and prefix tokens through pre-norm blocks, with the field's options.

    image -> patches -> [ class, distillation, registers | patches ] + positions (-> pre_norm)
          -> blocks -> norm -> pool -> fc_norm -> projection

Dosovitskiy et al. 2021, arXiv 2010.11929; every part that its successors add, leave out or replace
is an option. Weights come from Google's npz files (`vpjax.weights.google`), from files with timm's
names (`vpjax.weights.timm`) and others; they decide all options that are None. The ImageNet-21k
files have another dense layer with tanh before their head, `pre_logits`, which is left out unless
`pre_logits=True`. The self-supervised variants MAE and MoCoV3 are at the end.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone, Site, Stem
from vpjax.backbones.vit_sizes import SIZES, Sizes, parse
from vpjax.core.errors import UserError, unknown
from vpjax.core.size import pair
from vpjax.nn.context import Context
from vpjax.nn.layers import Block, Dense, LayerNorm, PatchEmbed
from vpjax.nn.pooling import AttentionPool
from vpjax.nn.rope import Rope
from vpjax.nn.tokens import Tokens, over_batch

TAPS = frozenset(
    ("stem", "embed", "norm1", "attn.query", "attn.key", "attn.value", "attn.qkv", "attn.out")
    + ("attn", "attn.residual", "norm2", "mlp.fc1", "mlp.fc2", "mlp", "mlp.residual")
)
POSITIONS = ("learned", "fixed", "none")
# What pooling reads: whether prompts that leave the last layer are part of it.
POOLS = {
    "token": False,
    "mean": False,
    "mean_prompts": True,
    "mean_all": True,
    "prefix_mean": False,
    "token_mean": False,
    "map": False,
}


class ViT(Backbone):
    """A Vision Transformer.

    An option that is None comes from the weights; without them it is that of the paper (`usual`).
    Dropout of any kind acts only while the backbone trains.

    Args:
        variant: SIZE/PATCH: a size of `vpjax.backbones.vit_sizes` ("B") and pixels of a patch.
        image_size: an edge or (height, width), pixels.
        patch_size: an edge or (height, width), pixels; None: the variant's.
        dim: D, width of tokens; None: the variant's, as for the following.
        mlp_dim: hidden width of MLPs.
        heads: number of attention heads.
        depth: number of layers.
        channels: channels of images: 3, or 1 for grey ones.
        dropout: rate after the embedding and after both layers of every MLP.
        attention_dropout: rate for the probabilities of attention and for its output.
        drop_path: probability with which an image skips a branch of the last layer, rising linearly
            from 0 in the first.
        eps: of every LayerNorm; 1e-6.
        pos_std: standard deviation of randomly initialised positions.
        pre_logits: whether the dense layer with tanh of Google's ImageNet-21k files is applied.
        class_token: whether the first token is a class token; True.
        dist_token: whether DeiT's distillation token follows it; False.
        num_registers: R, register tokens after those; 0.
        positions: "learned", "fixed" (sines of rows and columns) or "none"; added to tokens.
        prefix_positions: how many prefix tokens have positions, from the first; None: class and
            distillation token.
        rope: rotary positions, "eva" or "dinov3", see `vpjax.nn.rope`; "": none.
        rope_theta: base of their frequencies; None: the usual one.
        rope_grid: rows and columns of EVA's reference grid; None: the image's.
        relative_bias: whether layers have BEiT's bias, see `vpjax.nn.relative_bias`; False.
        qkv_bias: whether query, key and value have biases; "qv": all but the key; True.
        qk_norm: whether queries and keys are normalised; False.
        out_norm: whether there is a norm before attention's output projection; False.
        layer_scale: whether branches are multiplied by learnt vectors; False.
        mlp: "mlp", "swiglu" or "swiglu_norm", see `vpjax.nn.layers`.
        activation: of "mlp" and of attention pooling, see `vpjax.nn.activations`; "gelu".
        pre_norm: whether a norm precedes the layers; False.
        patch_bias: whether the projection of patches has a bias; True.
        pool: "token", the class token; "mean" of the grid; "mean_prompts", of grid and prompts;
            "mean_all" tokens; "prefix_mean", of class and distillation token; "token_mean", class
            token beside mean of the grid, 2 D wide; "map", `vpjax.nn.pooling` of the grid. "token",
            or "mean" where there is no class token.
        final_norm: whether tokens are normalised before pooling; True.
        fc_norm: whether pooled features are normalised; False.
        projection_dim: width of a last projection, without bias; None: there is none.
        attention: the implementation, see `vpjax.nn.attention`.

    Raises:
        UserError: for an unknown name, or sizes or options that do not fit together.
    """

    never_assumed = frozenset({"rope"})
    sizes: Sizes = SIZES
    usual: Mapping[str, Any] = {
        "variant": "B/16",
        "image_size": 224,
        "dropout": 0.1,
        "eps": 1e-6,
        "pre_logits": False,
        "class_token": True,
        "dist_token": False,
        "num_registers": 0,
        "positions": "learned",
        "rope": "",
        "relative_bias": False,
        "qkv_bias": True,
        "qk_norm": False,
        "out_norm": False,
        "layer_scale": False,
        "mlp": "mlp",
        "activation": "gelu",
        "pre_norm": False,
        "patch_bias": True,
        "pool": None,
        "final_norm": True,
        "fc_norm": False,
        "projection_dim": None,
    }

    def __init__(
        self,
        variant: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        *,
        patch_size: int | tuple[int, int] | None = None,
        dim: int | None = None,
        mlp_dim: int | None = None,
        heads: int | None = None,
        depth: int | None = None,
        channels: int = 3,
        dropout: float | None = None,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        eps: float | None = None,
        pos_std: float = 0.02,
        pre_logits: bool | None = None,
        class_token: bool | None = None,
        dist_token: bool | None = None,
        num_registers: int | None = None,
        positions: str | None = None,
        prefix_positions: int | None = None,
        rope: str | None = None,
        rope_theta: float | None = None,
        rope_grid: tuple[int, int] | None = None,
        relative_bias: bool | None = None,
        qkv_bias: bool | str | None = None,
        qk_norm: bool | None = None,
        out_norm: bool | None = None,
        layer_scale: bool | None = None,
        mlp: str | None = None,
        activation: str | None = None,
        pre_norm: bool | None = None,
        patch_bias: bool | None = None,
        pool: str | None = None,
        final_norm: bool | None = None,
        fc_norm: bool | None = None,
        projection_dim: int | None = None,
        attention: str = "xla",
        rngs: nnx.Rngs,
    ):
        given = {k: v for k, v in locals().items() if k in self.usual and v is not None}
        o = SimpleNamespace(**(dict(self.usual) | given))
        size, patch = parse(o.variant, self.sizes)
        dim, mlp_dim, heads, depth = (
            given or usual
            for given, usual in zip((dim, mlp_dim, heads, depth), self.sizes[size], strict=True)
        )
        self.image_size, self.patch_size = pair(o.image_size), pair(patch_size or patch)
        self.grid = tuple(i // p for i, p in zip(self.image_size, self.patch_size, strict=True))
        if dim % heads:
            raise UserError(f"ViT width {dim} does not divide into {heads} heads")
        if 0 in self.grid:
            raise UserError(f"image_size {self.image_size} is below patch {self.patch_size}")
        self.pooling = o.pool or ("token" if o.class_token else "mean")
        check(o, self.pooling)

        # Fused attention never stores the probabilities that dropout or a bias would act on.
        self.head_dim = None if attention_dropout or o.relative_bias else dim // heads
        self.num_pooled_prefix = int(o.class_token) + int(o.dist_token)
        self.num_prefix_tokens = self.num_pooled_prefix + o.num_registers
        self.num_pooled_tokens = {"token": 1, "prefix_mean": self.num_pooled_prefix}.get(
            self.pooling
        )
        self.pools_prompts = POOLS[self.pooling]
        self.positions_in_layers = bool(o.rope or o.relative_bias)
        self.dropout, self.taps = o.dropout, TAPS
        self.stem = Stem(self.patch_size, self.patch_size, 0, dim, channels=channels)
        self.sites = tuple(Site(i, 0, dim, self.grid) for i in range(depth))

        self.patch_embed = PatchEmbed(
            self.patch_size, dim, channels=channels, bias=o.patch_bias, rngs=rngs
        )
        small = lambda n: 1e-6 * jax.random.normal(rngs.params(), (n, dim))  # noqa: E731
        self.cls_token = nnx.Param(jnp.zeros((1, dim))) if o.class_token else None
        self.dist_token = nnx.Param(small(1)) if o.dist_token else None
        self.registers = nnx.Param(small(o.num_registers)) if o.num_registers else None
        self.pos_embed = self._positions(o.positions, prefix_positions, dim, pos_std, rngs)
        self.pre_norm = LayerNorm(dim, eps=o.eps) if o.pre_norm else None
        turned = Rope(o.rope, self.grid, dim // heads, rope_theta, rope_grid) if o.rope else None
        self.layers = nnx.List(
            Block(
                dim,
                heads,
                mlp_dim,
                dropout=o.dropout,
                attention_dropout=attention_dropout,
                drop_path=drop_path * i / max(depth - 1, 1),
                eps=o.eps,
                activation=o.activation,
                attention=attention,
                mlp=o.mlp,
                layer_scale=o.layer_scale,
                qkv_bias=o.qkv_bias,
                qk_norm=o.qk_norm,
                out_norm=o.out_norm,
                rope=turned,
                relative_bias=self.grid if o.relative_bias else None,
                rngs=rngs,
            )
            for i in range(depth)
        )
        self.norm = LayerNorm(dim, eps=o.eps) if o.final_norm else None
        same = {"eps": o.eps, "activation": o.activation}
        map_ = self.pooling == "map"  # attributes are set once: nnx fixes then what they are
        self.attn_pool = AttentionPool(dim, heads, mlp_dim, **same, rngs=rngs) if map_ else None
        width = 2 * dim if self.pooling == "token_mean" else dim
        self.fc_norm = LayerNorm(width, eps=o.eps) if o.fc_norm else None
        self.pre_logits = Dense((width,), (width,), rngs=rngs) if o.pre_logits else None
        self.dim = out = o.projection_dim or width
        kernel = lambda: Dense((width,), (out,), bias=False, rngs=rngs)  # noqa: E731
        self.projection = kernel() if o.projection_dim else None

    def _positions(
        self, kind: str, prefix: int | None, dim: int, std: float, rngs: nnx.Rngs
    ) -> nnx.Variable | None:
        """Return positions, (n + h w) D, n being those of prefix tokens; None: there are none."""
        n = self.num_pooled_prefix if prefix is None else prefix
        if not 0 <= n <= self.num_prefix_tokens:
            raise UserError(f"prefix_positions is {n}; give 0 to {self.num_prefix_tokens}")
        self.prefix_positions = n
        if kind == "none":
            return None
        if kind == "fixed":
            return _Fixed(waves(self.grid, dim, n))
        count = n + self.grid[0] * self.grid[1]
        return nnx.Param(std * jax.random.normal(rngs.params(), (count, dim)))

    @classmethod
    def complete(cls, options: dict[str, Any], weights: str) -> dict[str, Any]:
        """Fill in the image size, which methods ask for before the backbone is built."""
        size = options.get("image_size")
        return options | {"image_size": cls.usual["image_size"] if size is None else size}

    @classmethod
    def options_of_variant(cls, variant: str) -> dict[str, Any]:
        """Return the sizes that a variant stands for."""
        size, patch = parse(variant, cls.sizes)
        names = ("dim", "mlp_dim", "heads", "depth")
        return dict(zip(names, cls.sizes[size], strict=True)) | {"patch_size": patch}

    def embed(self, images: Float[Array, "B H W C"], ctx: Context) -> Tokens:
        """Return prefix tokens and patches of normalised images, with their positions."""
        tokens = self.add_positions(self.patchify(images, ctx), ctx)
        x = ctx.backbone_dropout(tokens.x, self.dropout, "embed")
        return Tokens(ctx.tap("embed", x, images), tokens.num_prefix_tokens, tokens.grid)

    def patchify(self, images: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        """Project the patches of images."""
        return ctx.tap("stem", self.patch_embed(images), images)

    def add_positions(
        self,
        patches: Float[Array, "B h w D"],
        ctx: Context,
        prefix: Float[Array, "B n D"] | None = None,
    ) -> Tokens:
        """Puts the prefix tokens, or `prefix` in their place, first, and adds positions."""
        batch, h, w, dim = patches.shape
        x, n = patches.reshape(batch, h * w, dim), self.num_prefix_tokens
        if n:
            if prefix is None:
                own = (self.cls_token, self.dist_token, self.registers)
                own = jnp.concatenate([token[...] for token in own if token is not None])
                prefix = over_batch(own, batch).astype(x.dtype)
            x = jnp.concatenate([prefix, x], axis=1)  # B (n + h w) D
        if self.pos_embed is not None:
            positions = self.pos_embed[...].astype(x.dtype)
            if self.prefix_positions < n:
                without = jnp.zeros((n - self.prefix_positions, dim), x.dtype)
                first, cells = jnp.split(positions, [self.prefix_positions])
                positions = jnp.concatenate([first, without, cells])
            x = x + positions
        return Tokens(self.pre_norm(x) if self.pre_norm else x, num_prefix_tokens=n, grid=(h, w))

    def pool(self, tokens: Tokens, over: slice | None = None) -> Float[Array, "B D"]:
        """Return the pooled tokens after the last norms, projected where there is a projection."""
        x = self._pool(tokens, over)
        x = self.fc_norm(x) if self.fc_norm else x
        x = jnp.tanh(self.pre_logits(x)) if self.pre_logits else x
        return self.projection(x) if self.projection else x

    def _pool(self, tokens: Tokens, over: slice | None) -> Float[Array, "B D"]:
        norm = self.norm or (lambda x: x)
        if over is not None and self.pooling == "token_mean":
            raise UserError(
                "pool='token_mean' joins the class token and a mean, which no mean of other tokens "
                "replaces. Set method.pool='original', or backbone.pool='token'."
            )
        cells = slice(tokens.num_prefix_tokens, None)
        if over is None and self.pooling == "token":
            return norm(tokens.x[:, 0])
        if over is None and self.pooling == "map":
            return self.attn_pool(norm(tokens.x[:, cells]))
        if over is None and self.pooling == "token_mean":
            parts = norm(tokens.x[:, 0]), norm(tokens.x[:, cells]).mean(1)
            return jnp.concatenate(parts, axis=-1)
        usual = {
            "mean": cells,
            "mean_prompts": slice(self.num_prefix_tokens, None),
            "mean_all": slice(None),
            "prefix_mean": slice(self.num_pooled_prefix),
        }
        return norm(tokens.x[:, over or usual[self.pooling]]).mean(1)

    def partial(self, k: int) -> str:
        """Return the last k layers and the norms after them."""
        norms = [n for n in ("norm", "fc_norm") if getattr(self, n)]
        return "|".join([last_layers(k, len(self.layers)), *(f"{n}/.*" for n in norms)])


class MAE(ViT):
    """A ViT pre-trained as a masked autoencoder; its feature is the mean of its tokens.

    The class token is not part of the mean; prompts that leave the last layer are. The norm
    `fc_norm` follows it; pre-training files do not hold it, so it starts at scale 1, bias 0. He et
    al. 2021, arXiv 2111.06377.
    """

    usual = dict(ViT.usual) | {"pool": "mean_prompts", "final_norm": False, "fc_norm": True}

    def __init__(
        self,
        variant: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        *,
        dropout: float = 0.0,
        drop_path: float = 0.1,
        rngs: nnx.Rngs,
        **inherited,
    ):
        rates = {"dropout": dropout, "drop_path": drop_path}
        super().__init__(variant, image_size, **rates, rngs=rngs, **inherited)


class MoCoV3(ViT):
    """A ViT pre-trained by MoCo v3, whose positions are fixed sines and cosines; S has 12 heads.

    Chen, Xie, He 2021, arXiv 2104.02057.
    """

    sizes = dict(SIZES) | {"S": (384, 1536, 12, 12)}
    usual = dict(ViT.usual) | {"positions": "fixed"}

    def __init__(
        self,
        variant: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        *,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(variant, image_size, dropout=dropout, rngs=rngs, **inherited)

    def partial(self, k: int) -> str:
        """Return the last k layers; the last norm stays frozen, as in VPT's code."""
        return last_layers(k, len(self.layers))


class _Fixed(nnx.Variable):
    """An array of a model that never trains, not even in full fine-tuning."""


def check(options: SimpleNamespace, pool: str) -> None:
    """Check options of `ViT` against each other.

    Raises: UserError for the first that is unknown or does not go with the others.
    """
    if pool not in POOLS:
        raise unknown("pool", pool, POOLS)
    if options.positions not in POSITIONS:
        raise unknown("positions", options.positions, POSITIONS)
    if pool in ("token", "prefix_mean", "token_mean") and not options.class_token:
        raise UserError(f"pool={pool!r} needs a class token. Set class_token=True, or pool='mean'.")
    if options.pre_logits and (options.fc_norm or options.projection_dim):
        raise UserError(
            "a backbone with fc_norm or a projection has no pre_logits; leave the option out"
        )
    if options.relative_bias and (
        not options.class_token or options.dist_token or options.num_registers
    ):
        raise UserError(
            "relative_bias is made for a class token and the grid: set class_token=True, and leave "
            "dist_token and num_registers out"
        )


def waves(grid: tuple[int, int], dim: int, prefix: int = 1) -> Float[Array, "L D"]:
    """Return positions, (n + h w) D: zeros for n prefix tokens, then sines and cosines.

    A quarter of the width each: sin and cos of the row, then of the column, at the frequencies
    10000^(-j / (dim / 4)). Source: MoCo v3's code, which calls the row w; grids there are square.
    Raises: UserError if dim does not divide by 4.
    """
    if dim % 4:
        raise UserError(f"fixed positions need a width that divides by 4, and dim is {dim}")
    h, w = grid
    frequency = 10000.0 ** (-jnp.arange(dim // 4) / (dim // 4))
    rows = jnp.repeat(jnp.arange(h), w)[:, None] * frequency  # (h w) dim/4
    columns = jnp.tile(jnp.arange(w), h)[:, None] * frequency
    parts = [wave(angle) for angle in (rows, columns) for wave in (jnp.sin, jnp.cos)]
    return jnp.concatenate([jnp.zeros((prefix, dim)), jnp.concatenate(parts, axis=1)])


def last_layers(k: int, depth: int) -> str:
    """Return a regular expression of the parameters of the last k of `depth` layers.

    Raises: UserError if there are not that many.
    """
    if not 1 <= k <= depth:
        raise UserError(f"partial-{k} needs 1 to {depth} layers; the backbone has {depth}")
    return rf"layers/({'|'.join(map(str, range(depth - k, depth)))})/.*"
