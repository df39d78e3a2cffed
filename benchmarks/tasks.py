"""What ours and PyTorch race at: a backbone, a method, the recipe's optimiser and dropout."""

from typing import Any, NamedTuple

CLASSES = 100
RATES = ("dropout", "attention_dropout")  # options that make a training step random


class Task(NamedTuple):
    """Names and options are those of a config."""

    name: str
    title: str  # of a picture
    backbone: str
    body: dict[str, Any]  # options of the backbone, "image_size" (pixels) among them
    method: str
    given: dict[str, Any]  # options of the method
    optimiser: str = "sgd"  # sgd, adam or adamw, see OPTIMISERS
    batch: int = 0  # images a step; 0: by the device

    @property
    def image_size(self) -> int:
        return self.body["image_size"]


def vit(name: str, title: str, method: str, optimiser: str = "sgd", **given: Any) -> Task:
    """Return a task of ViT-B/16 at 224 pixels; its dropout acts where the method lets it."""
    body = {"variant": "B/16", "image_size": 224, "dropout": 0.1}
    return Task(name, title, "vit.ViT", body, method, given, optimiser)


def small(name: str, title: str, backbone: str, **body: Any) -> tuple[Task, Task]:
    """Return a small network from scratch, without and with MS-VP's prompt."""
    body = {"image_size": 32, **body}
    plain = Task(name, title, backbone, body, "finetune.Full", {}, "adam")
    prompted = plain._replace(name=f"{name}_prompt", title=f"{title} + prompt", method="msvp.MSVP")
    return plain, prompted


GROUPS = {
    "vpt": (
        vit("vpt_deep_50", "VPT-deep 50", "vpt.VPT", num_tokens=50),
        vit("vpt_deep_100", "VPT-deep 100", "vpt.VPT", num_tokens=100),
        vit("vpt_deep_10", "VPT-deep 10", "vpt.VPT", num_tokens=10),
        vit("vpt_shallow_50", "VPT-shallow 50", "vpt.VPT", num_tokens=50, deep=False),
    ),
    "tuning": (
        vit("full", "full tuning", "finetune.Full"),
        vit("linear", "linear probe", "finetune.Linear"),
    ),
    "sa2vp": (vit("sa2vp", "SA2VP", "sa2vp.SA2VP", "adamw", inter_dim=16, dropout=0.1),),
    "small": (
        *small("cnn", "CNN", "cnn.CNN", dropout=(0.5, 0.3)),
        *small("resnet18", "ResNet-18", "resnet.ResNet", variant="18", stem="cifar"),
        *small(
            "vit_tiny",
            "ViT-Tiny",
            "small_vit.SmallViT",
            variant="Ti/4",
            dropout=0.1,
            attention_dropout=0.1,
        ),
    ),
}
TASKS = {task.name: task for group in GROUPS.values() for task in group}
# Images a step: of ViT-B/16 at 224 pixels, of small networks at 32.
BATCHES = {"cpu": (8, 64), "gpu": (128, 1024)}


def sized(task: Task, platform: str) -> Task:
    """Return the task with a batch that suits the device, unless it has one."""
    large, little = BATCHES["cpu" if platform == "cpu" else "gpu"]
    if platform != "cpu" and task.method == "sa2vp.SA2VP":
        large //= 2  # two streams, which eager PyTorch keeps in float32
    return task._replace(batch=task.batch or (large if task.image_size > 64 else little))


def quiet(task: Task) -> Task:
    """Return the task without dropout, so that both sides compute the same numbers."""

    def silent(options: dict[str, Any]) -> dict[str, Any]:
        none = {k: (0.0, 0.0) if isinstance(v, tuple) else 0.0 for k, v in options.items()}
        return options | {k: none[k] for k in RATES if k in none}

    return task._replace(body=silent(task.body), given=silent(task.given))


def tiny(task: Task) -> Task:
    """Return the task with a network of next to no size, two images: for tests and rehearsals."""
    body: dict[str, Any] = {"image_size": 32}
    given = {k: min(v, 3) if k in ("num_tokens", "inter_dim") else v for k, v in task.given.items()}
    if task.backbone == "cnn.CNN":
        body["width"] = 4
    elif task.backbone == "resnet.ResNet":
        body |= {"widths": (4, 8), "depths": (1, 1)}
    else:
        body |= {"dim": 16, "mlp_dim": 32, "heads": 2, "depth": 2}
    if task.method == "sa2vp.SA2VP":  # every kind of layer
        body["depth"], given["period"] = 3, 2
    return task._replace(body=task.body | body, given=given, batch=2)
