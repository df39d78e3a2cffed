"""The least work of every method on a ViT: `floors_work`, applied along each method's own path.

What trains is read off the parameters' names, so one walk serves the linear probe, full and partial
tuning, biases, adapters and prompts. Prompts whose outputs nobody reads are keys and values alone,
once a batch unless dropout tells images apart; the last layer gives only what pooling reads.
"""

import functools
import math

from benchmarks.floors_peft import PeftWork
from benchmarks.floors_work import Floor, Rows, Work
from vpjax.backbones.vit import MAE, ViT
from vpjax.methods.base import Method
from vpjax.methods.combine import methods_of
from vpjax.methods.cvpt import CVPT
from vpjax.methods.da_vpt import DAVPT
from vpjax.methods.e2vpt import E2VPT
from vpjax.methods.gate_vpt import GateVPT
from vpjax.methods.mop import MoP
from vpjax.methods.sa2vp import SA2VP
from vpjax.methods.side import CONVS, SMALLEST, Side
from vpjax.methods.vpt import VPT, _Prompted
from vpjax.methods.vpt_input import Below, Pad, PrependPixel
from vpjax.models.model import Model
from vpjax.models.partition import ModelParts, merge, shapes

NEIGHBOURS = 3  # cells, the edge of what a token of SA2VP looks at in the other stream


def of(parts: ModelParts, batch: int, *, train: bool, dtype: str = "float32") -> Floor | None:
    """Return the floor of a training step, or of an inference: images to logits.

    `parts` are a model's, numbers or shapes; `batch` is the images of a step. None where no formula
    is known: for other backbones than a ViT, and methods with texts (but MoP), a metric loss, or
    several parts.
    """
    trainable, stats, frozen = shapes(tuple(parts[1:]))
    model = merge(parts.graph, trainable, stats, frozen)
    method = model.method
    known = isinstance(method, MoP) or hasattr(method, "head")
    if not known or isinstance(method, DAVPT) or len(methods_of(type(method))) > 1:
        return None
    if not isinstance(model.backbone, ViT):
        return None
    values = trainable | stats | frozen
    work = PeftWork(model.method, values, trainable if train else {}, batch, dtype)
    walk = two_streams if isinstance(model.method, SA2VP) else one_stream
    walk(work, model, train)
    frame = 2 * model.method.width if isinstance(model.method, Pad) else 0
    pixels = math.prod(edge - frame for edge in model.backbone.image_size)
    # uint8; where the patch embedding trains, its gradient reads them again.
    times = 2 if work.learns("backbone/patch_embed/kernel") else 1
    return work.floor(times * pixels * model.backbone.stem.channels)


def one_stream(work: Work, model: Model, train: bool) -> None:
    """Counts every method but SA2VP."""
    backbone, method = model.backbone, model.method
    rows, last = embed(work, model), len(backbone.layers) - 1
    for i in range(last + 1):
        rows, read = prompted(work, model, i, rows, train)
        keep = method.num_outputs(backbone) if i == last else None
        between = functools.partial(crossed, work, method, i, train)
        rows = work.block(i, rows, keep, read, own_keys(work, method, i), between)
    features = pool(work, backbone, rows)
    if isinstance(method, Side):
        features = features.if_any(side(work, backbone.image_size).needs)
    if isinstance(method, MoP):
        sub_prompts(work, method)
    else:
        head(work, features)


def embed(work: Work, model: Model) -> Rows:
    """Counts the patch embedding; returns the tokens."""
    backbone, method = model.backbone, model.method
    cells, once = math.prod(backbone.grid), 1 / work.batch
    patches = work.dense("backbone/patch_embed", Rows(cells))
    patches = patches.if_any(work.learns("method/stem/"))
    if pixels := pixels_that_learn(work, model):
        # Gradients of what all images share are added up before they pass the weights.
        shared = once * work.size("backbone/patch_embed/kernel")
        mixed = getattr(method, "fusion_type", "") == "concat"
        work.flops += 2 * pixels * (shared / once if mixed else shared)
        patches = patches._replace(needs=max(patches.needs, pixels))
    if isinstance(method, Below):
        below = Rows(cells, copies=once).if_any(work.learns("method/prompts"))
        patches = patches.if_any(work.dense("method", below).needs)
    tokens = Rows(1 + cells, patches.needs + work.learns("backbone/cls_token"))
    tokens = tokens.if_any(work.learns("backbone/pos_embed"))
    if isinstance(method, GateVPT):
        prompts = Rows(method.num_tokens, copies=once)
        tokens = insert(tokens, prompts.if_any(work.learns("method/prompts")))
    if isinstance(method, PrependPixel):
        tokens = insert(tokens, work.dense("backbone/patch_embed", pixel_patches(work, method)))
    return work.norm("backbone/pre_norm", tokens)


def pixels_that_learn(work: Work, model: Model) -> int:
    """Return how many patches hold pixels that depend on what trains."""
    (rows, columns), method = model.backbone.grid, model.method
    if work.learns("method/global_prompt"):
        return rows * columns
    if not (isinstance(method, Pad) and work.learns("method/rows")):
        return 0
    (height, width), n = model.backbone.stem.window, method.width
    size = model.backbone.image_size
    inner = lambda edge, whole: (whole - n) // edge - -(-n // edge)  # noqa: E731
    return rows * columns - inner(height, size[0]) * inner(width, size[1])


def pixel_patches(work: Work, method: PrependPixel) -> Rows:
    """Return prompts that are images of patches."""
    count = method.prompts.shape[1] // work.shapes["backbone/patch_embed/kernel"][1]
    return Rows(count, copies=1 / work.batch).if_any(work.learns("method/prompts"))


def insert(tokens: Rows, prompts: Rows) -> Rows:
    """Return tokens and prompts: all pass a layer image by image."""
    count, needs = tokens.count + prompts.count, tokens.needs + prompts.needs
    return tokens._replace(count=count, needs=needs)


def prompted(work: Work, model: Model, i: int, rows: Rows, train: bool) -> tuple[Rows, Rows | None]:
    """Return the tokens that enter layer `i`, and the prompts it only looks at."""
    method = model.method
    if not isinstance(method, _Prompted) or i not in method.at:
        return rows, None
    learns = work.learns("method/prompts/") or work.learns("method/projections/")
    if not isinstance(method, VPT):  # added, token by token
        return rows.if_any(learns), None
    copies = 1 if train and method.dropout else 1 / work.batch
    prompts = Rows(method.num_tokens, copies=1 / work.batch).if_any(learns)
    if method.width:
        prompts = work.dense(f"method/projections/{method.dims[i]}", prompts)
    if method.overwrites and i == method.at[0]:
        rows = rows.first(rows.count - method.num_tokens)
    if i == method.inserted_at:
        return insert(rows, prompts), None
    return rows, prompts._replace(copies=copies)


def own_keys(work: Work, method: Method, i: int) -> Rows | None:
    """Return the keys and values that E2VPT puts before those of layer `i`."""
    if not isinstance(method, E2VPT) or str(i) not in method.keys:
        return None
    count = work.shapes[f"method/keys/{i}"][0]
    return Rows(count).if_any(work.learns(f"method/keys/{i}"))


def crossed(work: Work, method: Method, i: int, train: bool, rows: Rows) -> Rows:
    """Counts CVPT's reading of prompts between attention and MLP; returns the tokens."""
    if not isinstance(method, CVPT):
        return rows
    name = f"backbone/layers/{i}/attn"
    copies = 1 if train and method.dropout else 1 / work.batch
    prompts = Rows(work.shapes[f"method/prompts/{i}"][0], copies=copies)
    keys = prompts.if_any(work.learns(f"method/prompts/{i}"))
    for part in ("key", "value"):
        work.dense(f"{name}/{part}", keys)
    q = work.dense(f"{name}/query", rows)
    mixed = work.attention(q, keys, work.shapes[f"{name}/query/kernel"][0])
    if mixed.needs:
        work.keep(2 * work.shapes[f"{name}/query/kernel"][0] * q.count)
    return rows.if_any(work.dense(f"{name}/out", mixed).needs)


def pool(work: Work, backbone: ViT, rows: Rows) -> Rows:
    """Counts what follows the last layer; returns the feature."""
    name = "backbone/fc_norm" if isinstance(backbone, MAE) else "backbone/norm"
    feature = work.norm(name, Rows(1).if_any(rows.needs))
    for name in ("pre_logits", "projection"):
        if f"backbone/{name}/kernel" in work.shapes:
            feature = work.dense(f"backbone/{name}", feature)
    return feature


def head(work: Work, feature: Rows) -> None:
    """Counts the head and its hidden layers."""
    i = 0
    while f"method/head/hidden/{i}/kernel" in work.shapes:
        feature, i = work.dense(f"method/head/hidden/{i}", feature), i + 1
    work.dense("method/head", feature)


def side(work: Work, image_size: tuple[int, int]) -> Rows:
    """Counts AlexNet's convolutions; returns the feature."""
    size = [max(SMALLEST, edge) for edge in image_size]
    needs = False  # what enters the first convolution is the image
    for i, (edge, stride, padding, pooled, _) in enumerate(CONVS):
        # What a window has of the image, not of the zeros around it.
        inside = math.prod(taps(n, edge, stride, padding) / edge for n in size)
        needs = work.dense(f"method/convs/{i}", Rows(inside).if_any(needs)).needs
        size = [(n + 2 * padding - edge) // stride + 1 for n in size]
        work.keep(math.prod(size) * work.shapes[f"method/convs/{i}/kernel"][-1] * bool(needs))
        if pooled:
            size = [(n - 3) // 2 + 1 for n in size]
    return work.dense("method/projection", Rows(1).if_any(needs))


def taps(size: int, edge: int, stride: int, padding: int) -> int:
    """Return how often windows `edge` wide meet one of `size` cells, along one axis."""
    starts = range(-padding, size + padding - edge + 1, stride)
    return sum(min(start + edge, size) - max(start, 0) for start in starts)


def sub_prompts(work: Work, method: MoP) -> None:
    """Counts similarities to all sub-prompts, and gradients of each class's nearest."""
    rows, count, dim = work.shapes["method/offsets"]
    learns = work.learns("method/offsets")
    nearest, own = rows * dim, count * dim * (1 + count * bool(method.diversity_weight))
    work.flops += 2 * (rows * count * dim + learns * (nearest + 2 * own))
    work.reads["method/offsets"] = 1 + learns


def two_streams(work: Work, model: Model, train: bool) -> None:
    """Counts SA2VP: a stream of prompts beside the image's, and what each receives."""
    backbone, method = model.backbone, model.method
    tokens, once, last = 1 + math.prod(backbone.grid), 1 / work.batch, len(backbone.layers) - 1
    random = train and any(rate(backbone, layer) for layer in backbone.layers)
    image = embed(work, model)
    prompt = prompt_map(work, "method/prompt", tokens)
    if random:
        prompt = prompt._replace(copies=1)
    for i in range(last + 1):
        keep = method.num_outputs(backbone) if i == last else None
        to_prompt = i in method.to_prompt
        # Logits do not read the prompts' last tokens; the loss does.
        unread = i == last and not train
        before = image, prompt
        image = work.block(i, image, keep)
        prompt = work.block(i, prompt, 0 if unread else keep)
        if unread and to_prompt:
            continue
        own, other = before[::-1] if to_prompt else before
        received = receive(work, i, own.first(keep), other, backbone.grid)
        if f"method/deep/{i}/weight" in work.shapes:
            deep = prompt_map(work, f"method/deep/{i}/prompt", tokens)
            copies = 1 if random and not method.shared_dropout else once
            work.block(i, deep._replace(copies=copies), keep)
        if to_prompt:
            prompt = prompt._replace(copies=1).if_any(received.needs)
        else:
            image = image.if_any(received.needs)
    feature = pool(work, backbone, image)
    head(work, feature)
    if train:
        head(work, pool(work, backbone, prompt))


def rate(backbone: ViT, layer) -> float:
    """Return whether chance tells images apart in a frozen layer."""
    return backbone.dropout or layer.mlp.dropout or layer.drop_path


def prompt_map(work: Work, name: str, tokens: int) -> Rows:
    """Counts the way of a map of prompts up to the width of the tokens."""
    return work.dense(f"{name}/up", Rows(tokens, copies=1 / work.batch).if_any(work.learns(name)))


def receive(work: Work, i: int, own: Rows, other: Rows, grid: tuple[int, int]) -> Rows:
    """Counts attention to the neighbours in the other stream, and the bottleneck behind it."""
    name = f"backbone/layers/{i}"
    q, k = work.norm(f"{name}/norm1", own), work.norm(f"{name}/norm1", other)
    around = math.prod(NEIGHBOURS * edge - NEIGHBOURS + 1 for edge in grid)  # fewer at the border
    pairs = other.count + (around if own.count > 1 else 0)  # the class token looks at all
    width = work.shapes[f"{name}/attn/query/kernel"][0]
    backward = 1 + bool(q.needs) + 2 * bool(k.needs) if q.needs or k.needs else 0
    work.flops += 2 * width * pairs * (2 + backward)
    read = work.dense(f"{name}/attn/out", Rows(own.count).if_any(q.needs or k.needs))
    own = own._replace(copies=1).if_any(read.needs)
    own = work.norm(f"method/adapters/{i}/norm", own)
    hidden = work.dense(f"method/adapters/{i}/fc1", own)
    if hidden.needs:
        work.keep(own.count * sum(work.shapes[f"method/adapters/{i}/fc1/kernel"]))
    return work.dense(f"method/adapters/{i}/fc2", hidden)
