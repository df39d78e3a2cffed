"""The peer: a plain PyTorch ViT with deep prompts, as one writes it by hand.

    layer i sees [ cls | prompts_i | patches ]; afterwards the prompts' outputs are dropped

Blocks are timm's: fused qkv, fused attention, exact GELU. The backbone is frozen by
`requires_grad_(False)`. `load` copies our numbers into it.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vpjax.backbones.vit import ViT


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, dim: int, heads: int, mlp_dim: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, dim = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # B N L d
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, dim)
        x = x + self.proj(y)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Peer(nn.Module):
    """uint8 B 3 H W -> logits B C. `like` gives the sizes."""

    def __init__(self, like: ViT, num_tokens: int, num_classes: int):
        super().__init__()
        depth, dim, mlp_dim = len(like.layers), like.dim, like.layers[0].mlp.fc1.bias.shape[0]
        self.patch_embed = nn.Conv2d(3, dim, like.patch_size, stride=like.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + like.grid[0] * like.grid[1], dim))
        self.blocks = nn.ModuleList(Block(dim, dim // like.head_dim, mlp_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.requires_grad_(False)  # what is here so far: the backbone
        self.prompts = nn.Parameter(torch.zeros(depth, num_tokens, dim))
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(images.float() / 127.5 - 1).flatten(2).transpose(1, 2)  # B (h w) D
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        count = self.prompts.shape[1]
        for prompts, block in zip(self.prompts, self.blocks, strict=True):
            inserted = prompts.to(x.dtype).expand(len(x), -1, -1)
            x = block(torch.cat([x[:, :1], inserted, x[:, 1:]], dim=1))
            x = torch.cat([x[:, :1], x[:, 1 + count :]], dim=1)
        return self.head(self.norm(x)[:, 0])


def load(peer: Peer, values: Mapping[str, np.ndarray]) -> None:
    """Fills the peer with the numbers of our model, given by our names."""
    flat = {name.removeprefix("backbone/"): value for name, value in values.items()}
    out = {
        "patch_embed.weight": flat["patch_embed/kernel"].transpose(3, 2, 0, 1),
        "patch_embed.bias": flat["patch_embed/bias"],
        "cls_token": flat["cls_token"][None],
        "pos_embed": flat["pos_embed"][None],
        "prompts": np.stack([flat[f"method/prompts/{i}"] for i in range(len(peer.blocks))]),
        "norm.weight": flat["norm/scale"],
        "norm.bias": flat["norm/bias"],
    }
    dense = [("head", ["method/head"])]
    for i in range(len(peer.blocks)):
        mine, theirs = f"layers/{i}", f"blocks.{i}"
        for norm in ("norm1", "norm2"):
            out[f"{theirs}.{norm}.weight"] = flat[f"{mine}/{norm}/scale"]
            out[f"{theirs}.{norm}.bias"] = flat[f"{mine}/{norm}/bias"]
        dense += [
            (f"{theirs}.qkv", [f"{mine}/attn/{name}" for name in ("query", "key", "value")]),
            (f"{theirs}.proj", [f"{mine}/attn/out"]),
            (f"{theirs}.fc1", [f"{mine}/mlp/fc1"]),
            (f"{theirs}.fc2", [f"{mine}/mlp/fc2"]),
        ]
    for theirs, joined in dense:
        biases = [flat[f"{name}/bias"].reshape(-1) for name in joined]
        kernels = [
            flat[f"{name}/kernel"].reshape(-1, bias.size)
            for name, bias in zip(joined, biases, strict=True)
        ]
        out[f"{theirs}.weight"] = np.concatenate(kernels, axis=1).T
        out[f"{theirs}.bias"] = np.concatenate(biases)
    peer.load_state_dict({name: torch.tensor(value) for name, value in out.items()})
