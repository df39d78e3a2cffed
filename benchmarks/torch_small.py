"""The peers of MS-VP: small networks from scratch, behind learnt pixels (arXiv 2512.03663)."""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_vit import ViT

EDGES = {"global_prompt": 1, "mid_prompt": 4, "local_prompt": 8}  # pixels


class Network(nn.Module):
    """B 3 H W -> logits B C."""

    def loss(self, out: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(out, labels)


class Convolution(nn.Module):
    """3 x 3, norm, relu; halved by max pooling if asked."""

    def __init__(self, channels: int, dim: int, pools: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, 3, padding=1)
        self.norm = nn.BatchNorm2d(dim)
        self.pools = pools

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return F.max_pool2d(x, 2) if self.pools else x


class CNN(Network):
    """Eight convolutions, a dense layer; `rates` of dropout before and after it."""

    def __init__(self, like: Any, classes: int, rates: tuple[float, float]):
        super().__init__()
        width, self.rates = like.stem.dim, rates
        self.patch_embed = nn.Conv2d(3, width, 3, padding=1)
        self.patch_norm = nn.BatchNorm2d(width)
        layers: list[nn.Module] = [Convolution(width, width, True)]
        for i in range(1, 4):
            before, dim = width * 2 ** (i - 1), width * 2**i
            layers += [Convolution(before, dim, False), Convolution(dim, dim, i < 3)]
        self.layers = nn.ModuleList([*layers, nn.Linear(8 * width, 4 * width)])
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.patch_norm(self.patch_embed(images)))
        for layer in self.layers[:-1]:
            x = layer(x)
        x = F.dropout(x.mean((2, 3)), self.rates[0], self.training)
        x = F.dropout(F.relu(self.layers[-1](x)), self.rates[1], self.training)
        return self.head(x)


class Shortcut(nn.Module):
    """1 x 1 with the stride, norm."""

    def __init__(self, channels: int, dim: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, 1, stride, bias=False)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Basic(nn.Module):
    """x = relu(shortcut(x) + branch(x))."""

    def __init__(self, channels: int, dim: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, dim, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(dim)
        changes = stride > 1 or channels != dim
        self.downsample = Shortcut(channels, dim, stride) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(Network):
    """He et al. 2016, basic blocks, with the stem for small images: 3 x 3 at full resolution."""

    def __init__(self, like: Any, classes: int):
        super().__init__()
        first, stages = like.stem.dim, [site.stage for site in like.sites]
        entering = [site.dim for site in like.sites] + [like.dim]
        self.patch_embed = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.patch_norm = nn.BatchNorm2d(first)
        strides = [1] + [1 + b - a for a, b in itertools.pairwise(stages)]  # 2 into a new stage
        pairs = zip(entering, entering[1:], strides, strict=False)
        self.layers = nn.ModuleList(Basic(a, b, stride) for a, b, stride in pairs)
        self.head = nn.Linear(like.dim, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.patch_norm(self.patch_embed(images)))
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean((2, 3)))


class Pixels(nn.Module):
    """Learnt images of 1, 4 and 8 pixels, enlarged; their mean is added to what `network` sees."""

    def __init__(self, network: Network | ViT):
        super().__init__()
        self.network = network
        for name, edge in EDGES.items():
            setattr(self, name, nn.Parameter(torch.zeros(1, 3, edge, edge)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size = images.shape[2:]
        enlarged = [
            F.interpolate(getattr(self, name), size, mode="bilinear", align_corners=False)
            for name in EDGES
        ]
        return self.network(images + sum(enlarged) / len(enlarged))

    def loss(self, out: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.network.loss(out, labels)
