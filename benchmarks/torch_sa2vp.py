"""The peer of SA2VP: its formulas in plain PyTorch, on a frozen ViT (arXiv 2312.10376).

    image   x -> layer -> + s f -> layer -> + s f -> ...       f = adapter(cross attention + own)
    prompt  p -> layer -> + s f -> layer -> ...

As published, the cross attention applies the layer's own projections anew, and prompts run through
the backbone once an image. Neighbours are chosen by a mask, which is faster than loops over tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_vit import Attention, ViT


class Prompts(nn.Module):
    """A map of narrow prompts, and their way up to the width of the backbone."""

    def __init__(self, tokens: int, width: int, dim: int):
        super().__init__()
        self.map = nn.Parameter(torch.zeros(tokens, width))
        self.up = nn.Linear(width, dim)

    def forward(self, batch: int) -> torch.Tensor:
        return self.up(self.map).expand(batch, -1, -1)


class Weighted(nn.Module):
    """A map of prompts, and a weight of each channel."""

    def __init__(self, tokens: int, width: int, dim: int):
        super().__init__()
        self.prompt = Prompts(tokens, width, dim)
        self.weight = nn.Parameter(torch.zeros(dim))


class Adapter(nn.Module):
    """norm, down, gelu, up."""

    def __init__(self, dim: int, width: int, rate: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(dim, width), nn.Linear(width, dim)
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.dropout(F.gelu(self.fc1(self.norm(x))), self.rate, self.training)
        return F.dropout(self.fc2(h), self.rate, self.training)


class SA2VP(ViT):
    """Two streams through one backbone; in training both give logits.

    Every `period` layers the prompts receive, else the image.
    """

    def __init__(
        self,
        like: Any,
        classes: int,
        width: int,
        rate: float,
        own_rate: float,
        period: int = 4,
        scale: float = 0.1,
        shares: tuple[float, float] = (0.8, 0.2),
    ):
        super().__init__(like, classes, rate)
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        self.scale, self.shares, self.own_rate, self.period = scale, shares, own_rate, period
        (tokens, dim), depth = self.pos_embed.shape, len(self.layers)
        self.prompt = Prompts(tokens, width, dim)
        self.deep = nn.ModuleDict(
            {str(i): Weighted(tokens, width, dim) for i in range(period, depth, period)}
        )
        self.adapters = nn.ModuleList(Adapter(dim, width, own_rate) for _ in range(depth))
        self.register_buffer("seen", neighbours(*like.grid), persistent=False)

    def meet(self, i: int, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return what `own` receives at layer i: it reads `other` around each token's place."""
        layer = self.layers[i]
        attn: Attention = layer.attn
        query, _, _ = attn.split(layer.norm1(own))
        _, key, value = attn.split(layer.norm1(other))
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=self.seen)
        y = F.dropout(attn.out(y.transpose(1, 2).flatten(2)), self.own_rate, self.training)
        return self.adapters[i](y + own)

    def forward(self, images: torch.Tensor) -> Any:
        x = self.embed(images)
        p = F.dropout(self.prompt(len(x)) + self.pos_embed, self.rate, self.training)
        for i, layer in enumerate(self.layers):
            if i % self.period:
                received = self.meet(i, x, p)
                x, p = layer(x) + self.scale * received, layer(p)
                continue
            received = self.meet(i, p, x)
            x, p = layer(x), layer(p) + self.scale * received
            if str(i) in self.deep:
                fresh = self.deep[str(i)]
                p = p + layer(fresh.prompt(len(x))) * fresh.weight
        logits = self.head(self.norm(x[:, 0]))
        return (logits, self.head(self.norm(p[:, 0]))) if self.training else logits

    def loss(self, out: tuple[torch.Tensor, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        image, prompt = (F.cross_entropy(logits, labels) for logits in out)
        return self.shares[0] * image + self.shares[1] * prompt


def neighbours(h: int, w: int) -> torch.Tensor:
    """Return who (row) sees whom: a cell its 3 x 3 surroundings, the class token everything."""
    rows, columns = torch.arange(h * w) // w, torch.arange(h * w) % w
    near = ((rows[:, None] - rows).abs() <= 1) & ((columns[:, None] - columns).abs() <= 1)
    seen = torch.zeros(1 + h * w, 1 + h * w, dtype=torch.bool)
    seen[0], seen[1:, 1:] = True, near
    return seen
