"""The peers on a ViT, as one writes them by hand: prompts, a linear probe, all of it.

    deep     layer i sees [ cls | prompts_i | patches ]; afterwards the prompts' outputs are dropped
    shallow  prompts are inserted once, and live on

Blocks are timm's: fused qkv, fused attention, exact GELU.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Multi-head self-attention; `rate` drops probabilities and results."""

    def __init__(self, dim: int, heads: int, rate: float):
        super().__init__()
        self.heads, self.rate = heads, rate
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """B L D -> queries, keys and values, B N L d."""
        batch, length, dim = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, dim // self.heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rate = self.rate if self.training else 0.0
        y = F.scaled_dot_product_attention(*self.split(x), dropout_p=rate)
        return F.dropout(self.out(y.transpose(1, 2).flatten(2)), self.rate, self.training)


class Mlp(nn.Module):
    """fc2(gelu(fc1(x)))."""

    def __init__(self, dim: int, hidden: int, rate: float):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.dropout(F.gelu(self.fc1(x)), self.rate, self.training)
        return F.dropout(self.fc2(h), self.rate, self.training)


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, dim: int, heads: int, hidden: int, rate: float, drop: float, eps: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, drop)
        self.mlp = Mlp(dim, hidden, rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Normalised B 3 H W -> logits B C. `like`, one of ours, gives the sizes; all of it trains.

    `rate` and `drop` are those of dropout outside and inside attention.
    """

    def __init__(self, like: Any, classes: int, rate: float = 0.0, drop: float = 0.0):
        super().__init__()
        dim, first, self.rate = like.dim, like.layers[0], rate
        hidden, heads = first.mlp.fc1.bias.shape[0], first.attn.query.bias.shape[0]
        self.patch_embed = nn.Conv2d(3, dim, like.patch_size, stride=like.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1 + like.grid[0] * like.grid[1], dim))
        eps = first.norm1.eps
        self.layers = nn.ModuleList(Block(dim, heads, hidden, rate, drop, eps) for _ in like.layers)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.head = nn.Linear(dim, classes)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """B 3 H W -> class token and patches, B L D."""
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return F.dropout(x, self.rate, self.training)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        x = self.embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x[:, 0])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))

    def loss(self, out: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(out, labels)


class Frozen(ViT):
    """A ViT whose head alone trains; the rest keeps nothing for a backward pass."""

    def __init__(self, like: Any, classes: int):
        super().__init__(like, classes)
        self.requires_grad_(False)
        self.head.requires_grad_(True)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return super().features(images)


class Prompted(ViT):
    """A frozen ViT with prompts, deep or shallow."""

    def __init__(self, like: Any, classes: int, tokens: int, deep: bool):
        super().__init__(like, classes)
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        prompts = [nn.Parameter(torch.zeros(tokens, like.dim)) for _ in like.layers]
        self.prompts = nn.ParameterList(prompts if deep else prompts[:1])
        self.tokens = tokens

    def features(self, images: torch.Tensor) -> torch.Tensor:
        x = self.embed(images)
        for i, layer in enumerate(self.layers):
            if i == 0 or len(self.prompts) > 1:
                patches = x[:, 1:] if i == 0 else x[:, 1 + self.tokens :]
                prompts = self.prompts[i].to(x.dtype).expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], prompts, patches], dim=1)
            x = layer(x)
        return self.norm(x[:, 0])
