"""PyTorch's side of a race, with what PyTorch has to be fast.

    eager      as written
    compiled   torch.compile; on a CPU inference with frozen weights too, which are then packed

Both have fused attention and optimisers, inference mode, channels_last where it is faster, and as
many threads as there are cores. bfloat16 is autocast, with float32 weights.
"""

import os
from typing import Any

import torch
from torch import nn

from benchmarks.ours import DECAY, MOMENTUM, RATE, Data, make_model
from benchmarks.race import Side
from benchmarks.tasks import CLASSES, Task
from benchmarks.torch_sa2vp import SA2VP
from benchmarks.torch_small import CNN, Pixels, ResNet
from benchmarks.torch_vit import Frozen, Prompted, ViT
from benchmarks.torch_weights import load

OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, RATE, momentum=MOMENTUM, fused=True),
    "adam": lambda p: torch.optim.Adam(p, RATE, weight_decay=DECAY, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, RATE, weight_decay=DECAY, fused=True),
}


class Input(nn.Module):
    """uint8 B 3 H W -> what a network gives for normalised images."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images.float() / 127.5 - 1)


def make_peer(task: Task, data: Data) -> nn.Module:
    """Return the peer with our numbers, on the device."""
    peer = network(task)
    load(peer, data.weights)
    return peer.to(device())


def network(task: Task) -> nn.Module:
    """Return the task's network and method, not yet with our numbers."""
    like = make_model(task, "float32", "xla")[0].backbone
    rate = task.body.get("dropout", 0.0)
    if task.method == "vpt.VPT":
        return Prompted(like, CLASSES, task.given["num_tokens"], task.given.get("deep", True))
    if task.method == "finetune.Linear":
        return Frozen(like, CLASSES)
    if task.method == "sa2vp.SA2VP":
        rates = (rate, task.given["dropout"])
        return SA2VP(like, CLASSES, task.given["inter_dim"], *rates, task.given.get("period", 4))
    if task.backbone == "cnn.CNN":
        whole: Any = CNN(like, CLASSES, rate)
    elif task.backbone == "resnet.ResNet":
        whole = ResNet(like, CLASSES)
    else:
        whole = ViT(like, CLASSES, rate, task.body.get("attention_dropout", 0.0))
    return Pixels(whole) if task.method == "msvp.MSVP" else whole


def peer_side(
    task: Task, data: Data, peer: nn.Module, kind: str, dtype: str, *, train: bool
) -> Side:
    """Return the peer's step, `kind` eager or compiled. Compiling happens in its first call."""
    images = torch.tensor(data.images).permute(0, 3, 1, 2)
    images = images.to(device(), memory_format=layout(task, train))
    peer.to(memory_format=layout(task, train))
    labels = torch.tensor(data.labels, dtype=torch.int64, device=device())
    # Of each side its own: one that were compiled twice would be compiled once for both modes.
    call = Input(peer).train(train)
    if kind == "compiled":
        call = torch.compile(call, **compiling(task, train))
    graphs = kind == "compiled" and device() == "cuda"
    mark = torch.compiler.cudagraph_mark_step_begin if graphs else lambda: None
    cast = torch.autocast(device(), torch.bfloat16, enabled=dtype == "bfloat16")

    def infer():
        mark()
        with torch.inference_mode(), cast:
            return wait(call(images))

    if not train:
        return Side(kind, infer)
    learned = [p for p in peer.parameters() if p.requires_grad]
    optimiser = OPTIMISERS[task.optimiser](learned)

    def step():
        mark()
        optimiser.zero_grad()
        with cast:
            loss = peer.loss(call(images), labels)
        loss.backward()
        optimiser.step()
        return wait(loss.detach())

    return Side(kind, step)


def compiling(task: Task, train: bool) -> dict[str, Any]:
    """Return arguments of torch.compile that suit the task."""
    if device() == "cpu":
        return {} if train else {"options": {"freezing": True}}
    # Small networks wait for the launches of their kernels, which a graph of them saves.
    return {"mode": "reduce-overhead"} if task.image_size <= 64 else {}


def layout(task: Task, train: bool) -> torch.memory_format:
    """Return how feature maps lie in memory: what was faster, measured on a CPU."""
    if "vit" in task.backbone or (device() == "cpu" and "resnet" in task.backbone and not train):
        return torch.contiguous_format
    return torch.channels_last


def device() -> str:
    """Return where PyTorch computes."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def prepare() -> None:
    """Sets what holds for all of PyTorch in this process."""
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, on both sides
    torch.backends.cudnn.benchmark = True  # the fastest convolution is measured, as XLA does
    if hasattr(os, "sched_getaffinity"):  # by default those of the machine, not of the process
        torch.set_num_threads(min(torch.get_num_threads(), len(os.sched_getaffinity(0))))


def wait(result: Any) -> Any:
    """Return `result` when the device has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result
