"""Vision Transformer: patches and a class token through pre-norm blocks.

    image -> patches (+ class token) + positions -> blocks -> norm -> class token

Dosovitskiy et al. 2021, arXiv 2010.11929. The variant "B/16" is a size and a patch size in pixels;
every number of it can be replaced, so any ViT is one config line. Weights come from Google's npz
files (`vpjax.weights.google`). The ImageNet-21k files carry a further dense layer with tanh before
their head, `pre_logits`; transfer drops it unless `pre_logits=True`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.contract import Site
from vpjax.context import Context
from vpjax.errors import UserError, unknown
from vpjax.layers import Block, Dense, LayerNorm, PatchEmbed
from vpjax.tokens import Tokens, over_batch

# size: dim, mlp_dim, heads, depth
SIZES = {
    "Ti": (192, 768, 3, 12),
    "S": (384, 1536, 6, 12),
    "B": (768, 3072, 12, 12),
    "L": (1024, 4096, 16, 24),
    "H": (1280, 5120, 16, 32),
}
TAPS = frozenset(
    ("embed", "norm1", "attn.query", "attn.key", "attn.value", "attn.out", "attn", "norm2")
    + ("mlp.fc1", "mlp.fc2", "mlp")
)


class ViT(nnx.Module):
    """A ViT for images of `image_size` pixels, an edge or (height, width).

    `dropout` follows the embedding and both layers of every MLP; it acts only while the backbone
    trains. `pos_std` is the spread of freshly drawn position embeddings.
    Raises: UserError for an unknown variant or sizes that do not fit together.
    """

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
        dropout: float = 0.1,
        pos_std: float = 0.02,
        pre_logits: bool = False,
        attention: str = "xla",
        rngs: nnx.Rngs,
    ):
        size, patch = parse(variant)
        dim, mlp_dim, heads, depth = (
            given or own
            for given, own in zip((dim, mlp_dim, heads, depth), SIZES[size], strict=True)
        )
        self.image_size, self.patch_size = pair(image_size), pair(patch_size or patch)
        self.grid = tuple(i // p for i, p in zip(self.image_size, self.patch_size, strict=True))
        if dim % heads:
            raise UserError(f"ViT width {dim} does not divide into {heads} heads")
        if 0 in self.grid:
            raise UserError(f"image_size {self.image_size} is below patch {self.patch_size}")

        self.dim, self.head_dim, self.dropout = dim, dim // heads, dropout
        self.pooled = 1
        self.taps = TAPS
        self.sites = tuple(Site(i, 0, dim, self.grid) for i in range(depth))

        self.patch_embed = PatchEmbed(self.patch_size, dim, rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros((1, dim)))
        positions = 1 + self.grid[0] * self.grid[1]
        self.pos_embed = nnx.Param(pos_std * jax.random.normal(rngs.params(), (positions, dim)))
        self.layers = nnx.List(
            Block(dim, heads, mlp_dim, dropout=dropout, attention=attention, rngs=rngs)
            for _ in range(depth)
        )
        self.norm = LayerNorm(dim)
        self.pre_logits = Dense((dim,), (dim,), rngs=rngs) if pre_logits else None

    def embed(self, images: Float[Array, "B H W C"], ctx: Context) -> Tokens:
        """Images, normalised, to class token and patches with their positions."""
        tokens = self.place(self.patchify(images, ctx), ctx)
        x = ctx.backbone_dropout(tokens.x, self.dropout, "embed")
        return Tokens(ctx.tap("embed", x, images), tokens.extra, tokens.grid)

    def patchify(self, images: Float[Array, "B H W C"], ctx: Context) -> Float[Array, "B h w D"]:
        """Patches of the image, projected."""
        return self.patch_embed(images)

    def place(self, patches: Float[Array, "B h w D"], ctx: Context) -> Tokens:
        """Puts the class token first and adds a position to every token."""
        batch, h, w, dim = patches.shape
        cls = over_batch(self.cls_token[...], batch).astype(patches.dtype)
        x = jnp.concatenate([cls, patches.reshape(batch, h * w, dim)], axis=1)  # B (1 + h w) D
        return Tokens(x + self.pos_embed[...].astype(x.dtype), extra=1, grid=(h, w))

    def pool(self, tokens: Tokens) -> Float[Array, "B D"]:
        """The class token after the last norm."""
        x = self.norm(tokens.x[:, 0])
        return jnp.tanh(self.pre_logits(x)) if self.pre_logits else x


def parse(variant: str) -> tuple[str, int]:
    """Splits "B/16" into ("B", 16)."""
    size, _, patch = variant.partition("/")
    if size not in SIZES or not patch.isdigit() or int(patch) == 0:
        raise unknown("ViT variant (SIZE/PATCH)", variant, [f"{s}/16" for s in SIZES])
    return size, int(patch)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """An edge in pixels, or (height, width)."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
