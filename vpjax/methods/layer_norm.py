"""LayerNorm tuning: the scales and biases of the backbone's norms train, and the head.

Basu et al. 2023, arXiv 2304.01008; Kim et al. 2021, arXiv 2106.03111. Scales start near 1: leave
them out of weight decay.
"""

from flax import nnx

from vpjax.backbones.base import Backbone
from vpjax.core import params
from vpjax.core.errors import UserError, unknown
from vpjax.methods.finetune import _Plain
from vpjax.nn.layers import LayerNorm as Norm

# Of blocks: norm, norm1, norm2. Norms of queries, keys or tokens before the first block stay.
PATTERNS = {
    "blocks": r"backbone/layers/\d+/norm\d?/(scale|bias)",
    "final": r"backbone/(norm|fc_norm)/(scale|bias)",
}
PATTERNS["all"] = "|".join(PATTERNS.values())


class LayerNorm(_Plain):
    """Norms of a frozen backbone train.

    Args:
        norms: "all", "blocks", or "final", the last norm.

    Raises:
        UserError: if `norms` is unknown, or the backbone has none of them.
    """

    no_decay = PATTERNS["all"]

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        norms: str = "all",
        rngs: nnx.Rngs,
        **inherited,
    ):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        if norms not in PATTERNS:
            raise unknown("norms", norms, PATTERNS)
        layer_norms = (path for path, m in nnx.iter_modules(backbone) if isinstance(m, Norm))
        names = ["/".join(map(str, ("backbone", *path, "scale"))) for path in layer_norms]
        try:
            params.matching(PATTERNS[norms], names, "norms")
        except UserError as e:
            raise UserError(
                f"{type(backbone).__name__} has no LayerNorms that norms={norms!r} could train; "
                "use finetune.Bias."
            ) from e
        self.trainable = rf"method/.*|{PATTERNS[norms]}"
