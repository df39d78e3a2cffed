"""Vision Transformer: patches and a class token through pre-norm blocks.

    image -> patches (+ class token) + positions -> blocks -> norm -> class token
                                                           -> mean -> fc_norm           MAE

Dosovitskiy et al. 2021, arXiv 2010.11929. The variant "B/16" is a size and a patch size in pixels;
every number of it can be replaced. Weights come from Google's npz files (`vpjax.weights.google`) or
from files with timm's names (`vpjax.weights.timm`). The ImageNet-21k files have another dense layer
with tanh before their head, `pre_logits`, which is left out unless `pre_logits=True`. The
self-supervised variants MAE and MoCoV3 are at the end.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.base import Backbone, Site, Stem
from vpjax.core.errors import UserError, unknown
from vpjax.core.size import pair
from vpjax.nn.context import Context
from vpjax.nn.layers import Block, Dense, LayerNorm, PatchEmbed
from vpjax.nn.tokens import Tokens, over_batch

# size: dim, mlp_dim, heads, depth
SIZES = {
    "Ti": (192, 768, 3, 12),
    "S": (384, 1536, 6, 12),
    "B": (768, 3072, 12, 12),
    "L": (1024, 4096, 16, 24),
    "H": (1280, 5120, 16, 32),
}
TAPS = frozenset(
    ("stem", "embed", "norm1", "attn.query", "attn.key", "attn.value", "attn.out", "attn", "norm2")
    + ("mlp.fc1", "mlp.fc2", "mlp")
)


class ViT(Backbone):
    """A Vision Transformer; features are `dim` wide.

    Dropout of any kind acts only while the backbone trains.

    Args:
        variant: SIZE/PATCH: a size of `SIZES` ("Ti", "S", "B", "L", "H") and pixels of a patch.
        image_size: an edge or (height, width), pixels.
        patch_size: an edge or (height, width), pixels; None: the variant's.
        dim: width of tokens; None: the variant's, as for the following.
        mlp_dim: hidden width of MLPs.
        heads: number of attention heads.
        depth: number of layers.
        channels: channels of images: 3, or 1 for grey ones.
        dropout: rate after the embedding and after both layers of every MLP.
        attention_dropout: rate for the probabilities of attention and for its output.
        drop_path: probability with which an image skips a branch of the last layer, rising linearly
            from 0 in the first.
        eps: of every LayerNorm.
        pos_std: standard deviation of randomly initialised positions.
        pre_logits: whether the dense layer with tanh of Google's ImageNet-21k files is applied.
        attention: the implementation, see `vpjax.nn.attention`.

    Raises:
        UserError: for an unknown variant, or sizes that do not fit together.
    """

    # Subclasses may differ: see `vpjax.backbones.clip`.
    activation = "gelu"
    patch_bias = True

    def __init__(
        self,
        variant: str = "B/16",
        image_size: int | tuple[int, int] = 224,
        *,
        patch_size: int | tuple[int, int] | None = None,
        dim: int | None = None,
        mlp_dim: int | None = None,
        heads: int | None = None,
        depth: int | None = None,
        channels: int = 3,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
        pos_std: float = 0.02,
        pre_logits: bool = False,
        attention: str = "xla",
        rngs: nnx.Rngs,
    ):
        size, patch = parse(variant)
        dim, mlp_dim, heads, depth = (
            given or usual
            for given, usual in zip((dim, mlp_dim, heads, depth), SIZES[size], strict=True)
        )
        self.image_size, self.patch_size = pair(image_size), pair(patch_size or patch)
        self.grid = tuple(i // p for i, p in zip(self.image_size, self.patch_size, strict=True))
        if dim % heads:
            raise UserError(f"ViT width {dim} does not divide into {heads} heads")
        if 0 in self.grid:
            raise UserError(f"image_size {self.image_size} is below patch {self.patch_size}")

        self.dim, self.dropout = dim, dropout
        # Fused attention never stores the probabilities that dropout would act on.
        self.head_dim = None if attention_dropout else dim // heads
        self.num_prefix_tokens = self.num_pooled_tokens = 1
        self.taps = TAPS
        self.stem = Stem(self.patch_size, self.patch_size, 0, dim, channels=channels)
        self.sites = tuple(Site(i, 0, dim, self.grid) for i in range(depth))

        self.patch_embed = PatchEmbed(
            self.patch_size, dim, channels=channels, bias=self.patch_bias, rngs=rngs
        )
        self.cls_token = nnx.Param(jnp.zeros((1, dim)))
        positions = 1 + self.grid[0] * self.grid[1]
        self.pos_embed = nnx.Param(pos_std * jax.random.normal(rngs.params(), (positions, dim)))
        self.layers = nnx.List(
            Block(
                dim,
                heads,
                mlp_dim,
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=drop_path * i / max(depth - 1, 1),
                eps=eps,
                activation=self.activation,
                attention=attention,
                rngs=rngs,
            )
            for i in range(depth)
        )
        self.norm = LayerNorm(dim, eps=eps)
        self.pre_logits = Dense((dim,), (dim,), rngs=rngs) if pre_logits else None

    def embed(self, images: Float[Array, "B H W C"], ctx: Context) -> Tokens:
        """Return class token and patches of normalised images, with their positions."""
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
        cls: Float[Array, "B 1 D"] | None = None,
    ) -> Tokens:
        """Puts the class token first, or `cls`, and adds a position to every token."""
        batch, h, w, dim = patches.shape
        if cls is None:
            cls = over_batch(self.cls_token[...], batch).astype(patches.dtype)
        x = jnp.concatenate([cls, patches.reshape(batch, h * w, dim)], axis=1)  # B (1 + h w) D
        return Tokens(x + self.pos_embed[...].astype(x.dtype), num_prefix_tokens=1, grid=(h, w))

    def pool(self, tokens: Tokens, over: slice | None = None) -> Float[Array, "B D"]:
        """Return the class token after the last norm."""
        x = self.norm(tokens.x[:, 0]) if over is None else self.norm(tokens.x[:, over]).mean(1)
        return jnp.tanh(self.pre_logits(x)) if self.pre_logits else x

    def partial(self, k: int) -> str:
        """Return the last k layers and the last norm."""
        return f"{last_layers(k, len(self.layers))}|norm/.*"


class MAE(ViT):
    """A ViT pre-trained as a masked autoencoder; its feature is the mean of its tokens.

    The class token is not part of the mean; prompts that leave the last layer are. The norm
    `fc_norm` follows it; pre-training files do not hold it, so it starts at scale 1, bias 0. He et
    al. 2021, arXiv 2111.06377.
    """

    def __init__(
        self,
        variant: str = "B/16",
        image_size: int | tuple[int, int] = 224,
        *,
        dropout: float = 0.0,
        drop_path: float = 0.1,
        rngs: nnx.Rngs,
        **inherited,
    ):
        rates = {"dropout": dropout, "drop_path": drop_path}
        super().__init__(variant, image_size, **rates, rngs=rngs, **inherited)
        if self.pre_logits:
            raise UserError("vit.MAE has no pre_logits; leave the option out")
        self.num_pooled_tokens = None
        self.norm, self.fc_norm = None, self.norm

    def pool(self, tokens: Tokens, over: slice | None = None) -> Float[Array, "B D"]:
        """Return the normalised mean of tokens, which are not normalised before."""
        return self.fc_norm(tokens.x[:, over or slice(1, None)].mean(1))

    def partial(self, k: int) -> str:
        """Return the last k layers and the norm after pooling."""
        return f"{last_layers(k, len(self.layers))}|fc_norm/.*"


class MoCoV3(ViT):
    """A ViT pre-trained by MoCo v3, whose positions are fixed sines and cosines.

    Chen, Xie, He 2021, arXiv 2104.02057.
    """

    def __init__(
        self,
        variant: str = "B/16",
        image_size: int | tuple[int, int] = 224,
        *,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(variant, image_size, dropout=dropout, rngs=rngs, **inherited)
        self.pos_embed = _Fixed(waves(self.grid, self.dim))

    def partial(self, k: int) -> str:
        """Return the last k layers; the last norm stays frozen, as in VPT's code."""
        return last_layers(k, len(self.layers))


class _Fixed(nnx.Variable):
    """An array of a model that never trains, not even in full fine-tuning."""


def waves(grid: tuple[int, int], dim: int) -> Float[Array, "L D"]:
    """Return positions, (1 + h w) D: zeros for the class token, then sines and cosines.

    A quarter of the width each: sin and cos of the row, then of the column, at the frequencies
    10000^(-j / (dim / 4)). Source: MoCo v3's code, which calls the row w; grids there are square.
    Raises: UserError if dim does not divide by 4.
    """
    if dim % 4:
        raise UserError(f"vit.MoCoV3 needs a width that divides by 4, and dim is {dim}")
    h, w = grid
    frequency = 10000.0 ** (-jnp.arange(dim // 4) / (dim // 4))
    rows = jnp.repeat(jnp.arange(h), w)[:, None] * frequency  # (h w) dim/4
    columns = jnp.tile(jnp.arange(w), h)[:, None] * frequency
    parts = [wave(angle) for angle in (rows, columns) for wave in (jnp.sin, jnp.cos)]
    return jnp.concatenate([jnp.zeros((1, dim)), jnp.concatenate(parts, axis=1)])


def last_layers(k: int, depth: int) -> str:
    """Return a regular expression of the parameters of the last k of `depth` layers.

    Raises: UserError if there are not that many.
    """
    if not 1 <= k <= depth:
        raise UserError(f"partial-{k} needs 1 to {depth} layers; the backbone has {depth}")
    return rf"layers/({'|'.join(map(str, range(depth - k, depth)))})/.*"


def parse(variant: str) -> tuple[str, int]:
    """Return size and patch size of a variant: ("B", 16) for "B/16".

    Raises: UserError for an unknown size, or without a patch size.
    """
    size, _, patch = variant.partition("/")
    if size not in SIZES or not patch.isdigit() or int(patch) == 0:
        raise unknown("ViT variant (SIZE/PATCH)", variant, [f"{s}/16" for s in SIZES])
    return size, int(patch)
