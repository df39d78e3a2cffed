"""Bottleneck adapters: A(x) = scaling * up(dropout(act(down(norm(x))))), and where they stand.

    pre            u + A(u), before the MLP's norm         u: tokens after attention was added
    post           z + A(z), after the block               m: output of the MLP
    intermediate   u + m + A(m)                            z = u + m
    parallel       u + m + A(u)
    houlsby        o + A1(o), and intermediate             o: output of attention

Houlsby et al. 2019 (arXiv 1902.00751), Pfeiffer et al. 2020 (arXiv 2005.00247), Adapter+ (Steitz,
Roth 2024, arXiv 2406.06820), NOAH's (Zhang et al. 2022, arXiv 2206.04673); Adapter+'s code is the
reference of all but the last. VPT's own is `adapter.Adapter`. Pfeiffer's there is "post" with a
norm and another start.
"""

from typing import Any

from flax import nnx
from jaxtyping import Array

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError, unknown
from vpjax.methods.base import Method, instead
from vpjax.methods.bottleneck_module import INITS, Bottleneck
from vpjax.methods.layer_norm import PATTERNS
from vpjax.nn.context import Context

# position: {name of the adapter: the tap it acts at}
POSITIONS = {
    "pre": {"adapter": "attn.residual"},
    "post": {"adapter": "mlp.residual"},
    "intermediate": {"adapter": "mlp"},
    "parallel": {"adapter": "mlp.residual"},
    "houlsby": {"adapter_attn": "attn", "adapter": "mlp"},
}


class Placed(Method):
    """A trained bottleneck at a place of every block of a frozen backbone.

    Args:
        position: see above.
        rank: r, its width.
        scale: factor of the branch, or where a trained one starts.
        scaling: "fixed", "learned" (one number) or "channel" (one a channel).
        norm: whether a trained LayerNorm precedes it: "none" or "in"; "out": follows it.
        eps: of that norm.
        activation: a name of `vpjax.methods.bottleneck_module.ACTS`.
        dropout: rate, after the activation.
        drop_path: probability that an adapter is left out for an image, the same in every block.
        bias: whether its two layers have biases.
        init: how it starts, see `vpjax.methods.bottleneck_module`.
        train_norms: whether the norms of the backbone train too.

    Raises:
        UserError: for an unknown position, scaling, norm, activation or start, or a backbone
            without such a place.
    """

    no_decay = rf"method/layers/.*(_bias|/scaling|/norm/.*)|{PATTERNS['all']}"
    why_whole = "its bottlenecks have an activation inside or stand where no weight does"
    completes_backbone = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        position: str = "post",
        rank: int = 8,
        scale: float = 1.0,
        scaling: str = "fixed",
        norm: str = "none",
        eps: float = 1e-6,
        activation: str = "gelu",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        bias: bool = True,
        init: str = "lora",
        train_norms: bool = False,
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        if position not in POSITIONS:
            raise unknown("position", position, POSITIONS)
        if init not in INITS:
            raise unknown("init", init, INITS)
        self.places, self.from_stream = POSITIONS[position], position == "parallel"
        if missing := [site for site in self.places.values() if site not in backbone.taps]:
            raise UserError(
                f"{type(backbone).__name__} has no place {missing[0]!r} for an adapter at "
                f"position={position!r}; use {instead(backbone)}."
            )
        self.layers = nnx.Dict()
        for site in backbone.sites:
            if hasattr(backbone.layers[site.index], "mlp"):
                own = {
                    name: Bottleneck(
                        site.dim,
                        rank,
                        name,
                        scale=scale,
                        scaling=scaling,
                        norm=norm,
                        eps=eps,
                        activation=activation,
                        dropout=dropout,
                        drop_path=drop_path,
                        bias=bias,
                        init=init,
                        rngs=rngs,
                    )
                    for name in self.places
                }
                self.layers[str(site.index)] = nnx.Dict(own)
        if train_norms:
            self.trainable = rf"method/.*|{PATTERNS['all']}"

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Add a bottleneck to the output of its place."""
        for name, place in self.places.items():
            if site == place and str(ctx.layer) in self.layers:
                return y + self.layers[str(ctx.layer)][name](x if self.from_stream else y, ctx)
        return y


class Houlsby(Placed):
    """Adapters after attention and MLP, and the backbone's norms train.

    Args: those of `Placed`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        position: str = "houlsby",
        init: str = "houlsby",
        train_norms: bool = True,
        rngs: nnx.Rngs,
        **inherited,
    ):
        own = {"position": position, "init": init, "train_norms": train_norms}
        super().__init__(backbone, num_classes, rngs=rngs, **own, **inherited)


class Pfeiffer(Placed):
    """An adapter with a norm after every block, as in the code of Adapter+.

    Args: those of `Placed`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        norm: str = "in",
        init: str = "bert",
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, norm=norm, init=init, rngs=rngs, **inherited)


class AdapterPlus(Placed):
    """Adapter+: after every block, with a trained scale of every channel.

    Args: those of `Placed`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        scaling: str = "channel",
        drop_path: float = 0.1,
        init: str = "houlsby",
        rngs: nnx.Rngs,
        **inherited,
    ):
        own = {"scaling": scaling, "drop_path": drop_path, "init": init}
        super().__init__(backbone, num_classes, rngs=rngs, **own, **inherited)


class NOAH(Placed):
    """The adapter of NOAH's search space: after the MLP, with CLIP's GELU and dropout.

    Args: those of `Placed`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        position: str = "intermediate",
        activation: str = "quick_gelu",
        dropout: float = 0.1,
        init: str = "xavier",
        rngs: nnx.Rngs,
        **inherited,
    ):
        own = {"position": position, "activation": activation, "dropout": dropout, "init": init}
        super().__init__(backbone, num_classes, rngs=rngs, **own, **inherited)


class AdaptFormer(Placed):
    """AdaptFormer: beside the MLP, on the tokens after attention, not on their norm; ReLU, x 0.1.

    Chen et al. 2022, arXiv 2205.13535. Sequential there is "intermediate" here; the norms it may
    have use an epsilon of 1e-5.

    Args: those of `Placed`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        position: str = "parallel",
        rank: int = 64,
        scale: float = 0.1,
        eps: float = 1e-5,
        activation: str = "relu",
        dropout: float = 0.1,
        init: str = "kaiming",
        rngs: nnx.Rngs,
        **inherited,
    ):
        own = {"position": position, "rank": rank, "scale": scale, "eps": eps}
        own |= {"activation": activation, "dropout": dropout, "init": init}
        super().__init__(backbone, num_classes, rngs=rngs, **own, **inherited)
