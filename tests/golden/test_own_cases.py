"""Own cases of training runs and whole models, whose expectations are computed independently.

Each takes parameters or images of a recorded case, other values in `meta`, and recomputes what the
original would have recorded: optimizers and MoP by numpy, a ViT in the original's layout by a few
lines of jax. What ignores a key of such a case fails it.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import clip, sa2vp_model, vit_b4_model
from tests.golden.record import Record, under
from tests.golden.runner import handler, read, run
from vpjax.models.partition import merge, partition
from vpjax.nn.context import Context

DATA = Path(__file__).parent / "data"


def recorded(name):
    """Return meta, arrays and folder of a recorded case, to be changed."""
    path = DATA / f"{name}.npz"
    return *read(path if path.is_file() else path.with_suffix(".json")), path.parent


def verdict(meta, arrays, folder):
    """Run a changed case; return whether it passed and the line about it."""
    try:
        return run(handler(meta, arrays), meta, arrays, folder)
    except Exception as error:  # as `check` has it
        return False, repr(error)


class Adam:
    """Adam's direction by its formulas, float64."""

    def __init__(self, params):
        self.m, self.v = ({n: np.zeros(p.shape) for n, p in params.items()} for _ in range(2))
        self.t = 0

    def __call__(self, grads):
        self.t += 1
        out = {}
        for n, g in grads.items():
            self.m[n] = 0.9 * self.m[n] + 0.1 * g
            self.v[n] = 0.999 * self.v[n] + 0.001 * g * g
            m, v = self.m[n] / (1 - 0.9**self.t), self.v[n] / (1 - 0.999**self.t)
            out[n] = m / (np.sqrt(v) + 1e-8)
        return out


def cross_entropy(logits, labels):
    """Return the cross entropy of each row."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))
    return -jnp.take_along_axis(log_p, jnp.asarray(labels)[:, None], 1)[:, 0]


# SA2VP: accumulation, clipping, decay, learning rates

RUN = {
    "mode": "train loop of an own case",
    "batch": 2,
    "epochs": 2,
    "steps_per_epoch": 2,
    "update_freq": 2,
    "clip_grad": 1.8,  # between the norms of the steps: Adam would not see a common factor
    "warmup_epochs": 1,
    "lr": 0.03,
    "min_lr": 0.002,
    "weight_decay": 0.3,
    "drop_path": 0.0,
    "val_batches": [2, 1],
    "tolerance": {"loss": 5e-5, "final_abs": 1e-4},
}


def sa2vp_run(meta, start):
    """Return the arrays that the published loop would record, `start` being all parameters."""
    model = sa2vp_model.build(Record(meta), 0.0)
    parts = partition(model)
    ours = lambda theirs: {  # noqa: E731
        k: v for n, a in theirs.items() for k, v in sa2vp_model.translate(model, n, a).items()
    }
    own = {n: a for n, a in start.items() if not sa2vp_model.copied(f"param/{n}")}
    learnt = {n: a for n, a in own.items() if ours({n: a}).keys() <= parts.trainable.keys()}
    learnt = {n: a for n, a in learnt.items() if ours({n: a})}
    frozen = {k: jnp.asarray(v) for k, v in ours(own).items() if k in parts.frozen}
    rng, size = np.random.default_rng(0), meta["image_size"]
    draw = lambda *shape: rng.uniform(-1, 1, (*shape, 3, size, size)).astype(np.float32)  # noqa: E731
    count, batch = meta["steps_per_epoch"] * meta["update_freq"], meta["batch"]
    images, labels = draw(count, batch), rng.integers(0, meta["classes"], (count, batch))
    tests = sum(meta["val_batches"])
    val_images, val_labels = draw(tests), rng.integers(0, meta["classes"], tests)
    weights = meta["branch_weights"]

    def forward(theirs, images, labels):
        whole = merge(parts.graph, ours(theirs), parts.stats, frozen)
        out = whole(images.transpose(0, 2, 3, 1), Context(key=jax.random.key(0)))
        loss = weights[0] * cross_entropy(out["logits"], labels)
        loss += weights[1] * cross_entropy(out["logits_prompt"], labels)
        return loss.mean(), out["logits"]

    slope = jax.jit(jax.value_and_grad(forward, has_aux=True))
    params = {n: np.asarray(v, np.float64) for n, v in learnt.items()}
    single = lambda: {n: jnp.asarray(v, jnp.float32) for n, v in params.items()}  # noqa: E731
    total = meta["epochs"] * meta["steps_per_epoch"]
    warm = meta["warmup_epochs"] * meta["steps_per_epoch"]
    low, high = meta["min_lr"], meta["lr"]
    falling = np.cos(np.pi * np.arange(total - warm) / (total - warm))
    rates = np.concatenate([np.linspace(0, high, warm), low + (high - low) / 2 * (1 + falling)])
    group = {
        n: "no_decay" if v.ndim == 1 or n.endswith(".bias") else "decay" for n, v in params.items()
    }
    adam, found = Adam(params), {n: [] for n in ("loss", "grad_norm", "eval_loss", "eval_acc1")}
    found |= {"epoch_train_loss": [], "epoch_train_class_acc": []}
    for step in range(total):
        grads, freq, right = dict.fromkeys(params, 0.0), meta["update_freq"], []
        for i in range(freq):
            at = (step % meta["steps_per_epoch"]) * freq + i
            (loss, logits), more = slope(single(), images[at], labels[at])
            grads = {n: grads[n] + np.asarray(g, np.float64) / freq for n, g in more.items()}
            found["loss"].append(loss)
            right.append(np.mean(np.asarray(logits).argmax(-1) == labels[at]))
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        found["grad_norm"].append(norm)
        bound = meta["clip_grad"]
        if bound is not None:
            grads = {n: g * min(1.0, bound / norm) for n, g in grads.items()}
        for n, direction in adam(grads).items():
            decay = meta["weight_decay"] if group[n] == "decay" else 0.0
            params[n] = params[n] - rates[step] * (direction + decay * params[n])
        found["epoch_train_class_acc"].append(np.mean(right))
        if (step + 1) % meta["steps_per_epoch"] == 0:
            results, first = [], 0
            for size in meta["val_batches"]:
                rows = slice(first, first + size)
                (loss, logits), _ = slope(single(), val_images[rows], val_labels[rows])
                hits = (np.asarray(logits).argmax(-1) == val_labels[rows]).sum()
                results, first = [*results, (float(loss), hits)], first + size
            found["eval_loss"].append(np.mean([loss for loss, _ in results]))
            found["eval_acc1"].append(100 * sum(hits for _, hits in results) / tests)
    by_epoch = lambda x: np.reshape(x, (meta["epochs"], -1)).mean(1)  # noqa: E731
    found["epoch_train_loss"] = by_epoch(found["loss"])
    found["epoch_train_class_acc"] = by_epoch(found["epoch_train_class_acc"])
    found |= {"lr_schedule": rates, "lr_used": rates}
    arrays = {f"param/{n}": v for n, v in start.items()}
    arrays |= {"in/image": images, "in/label": labels}
    arrays |= {"in/val_image": val_images, "in/val_label": val_labels}
    arrays |= {f"out/{n}": np.asarray(v) for n, v in found.items()}
    arrays |= {f"final/{n}": v.astype(np.float32) for n, v in params.items()}
    return meta | {"weight_decay_group": group}, arrays


@pytest.mark.slow
def test_accumulation_clipping_decay_and_rates_of_sa2vp():
    meta, arrays, folder = recorded("sa2vp/swin_dropmask")
    gone = ("drop_path_rates", "n_masks", "tolerance", "mode")
    meta = {k: v for k, v in meta.items() if k not in gone} | RUN
    meta, arrays = sa2vp_run(meta, under(arrays, "param/"))
    good, text = verdict(meta, arrays, folder)
    assert good, text
    clipped = arrays["out/grad_norm"] > RUN["clip_grad"]
    assert clipped.any() and not clipped.all()
    everything = dict.fromkeys(meta["weight_decay_group"], "decay")
    others = {"clip_grad": None, "weight_decay": 0.0, "weight_decay_group": everything}
    for key, value in others.items():
        assert not verdict(meta | {key: value}, arrays, folder)[0], key
    # Without accumulation the same batches are other steps.
    assert not verdict(meta | {"update_freq": 1, "steps_per_epoch": 4}, arrays, folder)[0]


# MoP: annealing off, the learning rate, the temperatures


def mop_run(meta, arrays, features, val_features):
    """Return the arrays that the published loop would record, by numpy."""
    train, model = meta["conf"]["train"], meta["conf"]["model"]
    steps, warm, lr = meta["n_steps"], train["warmup_steps"], train["lr"]
    high, low = model["em_tau_start"], model["em_tau_end"]
    low = low if model.get("use_tau_annealing", True) else high
    lam, temp, reg = train["lambda_mixture"], train["temp_cls"], model["offset_reg_weight"]
    text = arrays["param/base_text_features"].astype(np.float64)
    labels, val_labels = arrays["in/train_labels"], arrays["in/val_labels"]
    rate = lambda s: (  # noqa: E731
        lr * s / warm
        if s < warm
        else lr * (1 + np.cos(np.pi * (s - warm) / max(1, steps - warm))) / 2
    )
    tau_of = lambda s: low + (high - low) * (1 - min(1, s / steps))  # noqa: E731

    def prompts(o):
        v = text[:, None] + o
        length = np.linalg.norm(v, axis=-1, keepdims=True)
        return v / length, length

    def terms(o, f, y, tau):
        p, length = prompts(o)
        s = 50 * np.einsum("bd,ckd->bck", f, p)
        own, rows = s[np.arange(len(y)), y], np.arange(len(y))
        gamma = np.exp((own - own.max(1, keepdims=True)) / tau)
        gamma /= gamma.sum(1, keepdims=True)
        best, index = s.max(2) / temp, s.argmax(2)
        q = np.exp(best - best.max(1, keepdims=True))
        q /= q.sum(1, keepdims=True)
        parts = {
            "loss_mixture": -(gamma * own).sum(1).mean(),
            "loss_cls": -np.log(q[rows, y]).mean(),
            "loss_reg": reg * (o**2).mean(),
        }
        total = lam * parts["loss_mixture"] + (1 - lam) * parts["loss_cls"] + parts["loss_reg"]
        slope = np.zeros(s.shape)
        slope[rows, y] -= lam * 50 / len(y) * gamma
        delta = q - np.eye(len(text))[y]
        at = np.arange(len(text))
        for b in rows:
            slope[b, at, index[b]] += (1 - lam) * 50 / (temp * len(y)) * delta[b]
        g = np.einsum("bck,bd->ckd", slope, f)
        g = (g - p * (p * g).sum(-1, keepdims=True)) / length
        return parts | {"loss": total}, g + 2 * reg * o / o.size

    def accuracy(o):
        s = np.einsum("bd,ckd->bck", val_features, prompts(o)[0]).max(2)
        return (s.argmax(1) == val_labels).mean()

    def go(o, adam, indices, first):
        found = {n: [] for n in ("lr", "tau", "loss", "loss_mixture", "loss_cls", "loss_reg")}
        found |= {"offsets": [o], "acc": [], "moments": []}
        for s, row in enumerate(indices, start=first):
            row = row[row >= 0]
            parts, g = terms(o, features[row], labels[row], tau_of(s))
            o = o - rate(s) * adam({"o": g})["o"]
            found["offsets"].append(o)
            found["moments"].append((adam.m["o"].copy(), adam.v["o"].copy()))
            for name, value in (parts | {"lr": rate(s), "tau": tau_of(s)}).items():
                found[name].append(value)
            if (s + 1) % meta["steps_per_epoch"] == 0:
                found["acc"].append(accuracy(o))
        return found

    o = arrays["param/prompt_offsets_init"].astype(np.float64)
    adam, indices = Adam({"o": o}), arrays["in/batch_indices"]
    found = go(o, adam, indices, 0)
    best, top = [], -1.0
    for epoch, value in enumerate(found["acc"], start=1):
        if value > top:
            best, top = [*best, epoch], value
    at = best[0] * meta["steps_per_epoch"]  # resumed from the first, so that epochs are left
    assert best[0] < train["epochs"]
    resumed = {n: np.array(v[at:]) for n, v in found.items() if n not in ("offsets", "moments")}
    first, square = found["moments"][at - 1]
    single = lambda x: np.asarray(x, np.float32)  # noqa: E731
    out = {n: np.array(found[n]) for n in ("lr", "tau", "loss", "loss_mixture", "loss_cls")}
    out |= {"loss_reg": np.array(found["loss_reg"]), "val_acc": np.array(found["acc"])}
    out |= {f"offsets_after_step{i}": single(found["offsets"][i]) for i in (1, 2)}
    out |= {"offsets_mid": single(found["offsets"][meta["mid_index"]])}
    out |= {"offsets_final": single(o := found["offsets"][-1]), "resume_offsets_final": single(o)}
    out |= {"ckpt_offsets": single(found["offsets"][at])}
    out |= {"ckpt_adam_exp_avg": single(first), "ckpt_adam_exp_avg_sq": single(square)}
    out |= {f"resume_{n}": resumed[n] for n in ("lr", "tau", "loss")}
    out["resume_val_acc"] = np.array(found["acc"][best[0] :])
    arrays = {n: v for n, v in arrays.items() if not n.startswith(("out/", "in/resume"))}
    arrays |= {f"out/{n}": v for n, v in out.items()} | {"in/resume_batch_indices": indices[at:]}
    meta = meta | {
        "checkpoints": [f"best_epoch{epoch}.pt" for epoch in best],
        "resumed_from": f"best_epoch{best[0]}.pt",
        "best_epoch": best[0],
        "best_step": at,
        "adam_step": float(at),
        "best_tau": tau_of(at - 1),
        "best_val": found["acc"][best[0] - 1],
    }
    return meta, arrays


def clip_features(meta, arrays, folder, name):
    """Return image features of length 1, float64."""
    with clip.model(folder, meta["clip"]) as where:
        vision = clip.load_vision(where)
    with jax.default_matmul_precision("highest"):
        f = np.asarray(jax.jit(lambda x: clip.whole(vision, x))(clip.pixels(arrays[name])))
    return f / np.linalg.norm(f.astype(np.float64), axis=-1, keepdims=True)


@pytest.mark.slow
def test_annealing_and_numbers_of_a_run_of_mop():
    meta, arrays, folder = recorded("mop_clip/mop_train")
    images = [clip_features(meta, arrays, folder, f"in/{n}_images") for n in ("train", "val")]
    conf = meta["conf"]
    other = {"em_tau_start": 1.0, "em_tau_end": 0.05, "offset_reg_weight": 0.001}
    changes = (
        ({}, {}),  # the recorded run, so that the formulas above are right
        ({"use_tau_annealing": False}, {}),
        ({"em_tau_start": 4.0, "em_tau_end": 0.5}, {"lr": 0.01, "lambda_mixture": 0.3}),
        ({"offset_reg_weight": 3.0}, {"temp_cls": 0.2, "warmup_steps": 8}),
    )
    for model, train in changes:
        changed = json.loads(json.dumps(meta))
        changed["conf"]["model"] = conf["model"] | other | model
        changed["conf"]["train"] = conf["train"] | train
        expected = mop_run(changed, arrays, *images)
        good, text = verdict(*expected, folder)
        assert good, (model, train, text)
        if model:
            assert not verdict(meta | {"conf": changed["conf"]}, arrays, folder)[0]


# ViT-B/4: digests of gradients in the original's order


def original_vit(params, images, heads, prefix):
    """Return logits and features of the original's ViT, parameters in its names and layouts."""
    get = lambda name: params[f"{prefix}{name}"]  # noqa: E731

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * get(f"{name}.weight") + get(f"{name}.bias")

    linear = lambda x, name: x @ get(f"{name}.weight").T + get(f"{name}.bias")  # noqa: E731
    kernel = get("patch_embed.proj.weight")
    size = kernel.shape[-1]
    b, c, h, w = images.shape
    x = images.reshape(b, c, h // size, size, w // size, size)
    x = jnp.einsum("bchiwj,dcij->bhwd", x, kernel).reshape(b, -1, len(kernel))
    x = x + get("patch_embed.proj.bias")
    x = jnp.concatenate([jnp.repeat(get("cls_token"), b, 0), x], 1) + get("pos_embed")
    prompts = params.get(vit_b4_model.PROMPTS)
    i = 0
    while f"{prefix}blocks.{i}.norm1.weight" in params:
        if prompts is not None:
            rest = x[:, 1:] if i == 0 else x[:, 1 + prompts.shape[1] :]
            own = jnp.broadcast_to(prompts[i], (b, *prompts[i].shape))
            x = jnp.concatenate([x[:, :1], own, rest], 1)
        y = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        q, k, v = y.reshape(b, y.shape[1], 3, heads, -1).transpose(2, 0, 3, 1, 4)
        p = jax.nn.softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
        y = (p @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + linear(y, f"blocks.{i}.attn.proj")
        y = jax.nn.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"), False)
        x = x + linear(y, f"blocks.{i}.mlp.fc2")
        i += 1
    features = norm(x, "norm")[:, 0]
    return linear(features, "head"), features


def full_size(method):
    """Return meta and arrays of a tiny case of the kind whose parameters follow the recipe."""
    prompts = 0 if method == "F" else 2
    config = {"img": 8, "patch": 4, "hidden": 12, "layers": 2, "heads": 3, "mlp": 10}
    config["prompts"] = prompts
    meta = {"kind": "full_size", "method": method, "seed": 3, "num_classes": 4, "config": config}
    meta |= {"mode": "eval", "params": "by recipe (README): not stored", "layer_norm_eps": 1e-6}
    meta["tolerance"] = {"out_rtol": 1e-3, "out_atol": 2e-3, "gradnorm_rtol": 1e-2}
    d, mlp, prefix = 12, 10, "model." if prompts else ""
    shapes = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, 5, d),
        "patch_embed.proj.weight": (d, 3, 4, 4),
    }
    linears = {"patch_embed.proj": (d,), "head": (4, d)}
    shapes |= {"norm.weight": (d,), "norm.bias": (d,)}
    for i in range(2):
        block = {
            "attn.qkv": (3 * d, d),
            "attn.proj": (d, d),
            "mlp.fc1": (mlp, d),
            "mlp.fc2": (d, mlp),
        }
        linears |= {f"blocks.{i}.{n}": s for n, s in block.items()}
        shapes |= {f"blocks.{i}.norm{j}.{n}": (d,) for j in (1, 2) for n in ("weight", "bias")}
    for name, shape in linears.items():
        shapes.setdefault(f"{name}.weight", shape)
        shapes[f"{name}.bias"] = shape[:1]
    shapes = {f"{prefix}{n}": s for n, s in shapes.items()}
    if prompts:
        shapes[vit_b4_model.PROMPTS] = (2, prompts, d)
    rng, params = np.random.default_rng(3), {}
    for name in sorted(shapes):
        z = rng.standard_normal(shapes[name])
        if name.endswith(("cls_token", "pos_embed", "prompt_embeddings")):
            z = 0.2 * z
        elif z.ndim == 1:
            z = 1 + 0.1 * z if name.endswith(".weight") else 0.1 * z
        else:
            z = z / np.sqrt(np.prod(z.shape[1:]))
        params[name] = z.astype(np.float32)
    images = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    labels = np.array([1, 3])

    def loss_fn(params):
        logits, features = original_vit(params, images, 3, prefix)
        return cross_entropy(logits, labels).mean(), (logits, features)

    with jax.default_matmul_precision("highest"):
        (loss, (logits, features)), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
            params
        )
    arrays = {"in/x": images, "in/label": labels, "loss": loss}
    arrays |= {"out/logits": logits, "out/features": features}
    arrays |= {f"param_head/{n}": v.ravel()[:4] for n, v in params.items()}
    learnt = [n for n in params if method != "P" or "blocks" not in n]
    for n in learnt:
        slope = np.asarray(grads[n])
        arrays |= {f"gradnorm/{n}": np.linalg.norm(slope), f"grad_head/{n}": slope.ravel()[:16]}
    meta["n_parameters"] = sum(v.size for v in params.values())
    meta["n_trainable"] = sum(params[n].size for n in learnt)
    return meta, {n: np.asarray(v) for n, v in arrays.items()}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["P", "F", "P+F"])
def test_digests_of_gradients_follow_the_original_order(method):
    meta, arrays = full_size(method)
    good, text = verdict(meta, arrays, DATA / "vit_b4")
    assert good, text
    if method != "P":  # heads before inputs, as the axes of our kernels reversed would have it
        prefix = "" if method == "F" else "model."
        name = f"grad_head/{prefix}blocks.0.attn.qkv.weight"
        assert not verdict(meta, arrays | {name: arrays[name][::-1]}, DATA / "vit_b4")[0]


# Every key matters

KINDS = (
    ("vpt/solver_sgd_biasmult", ()),
    ("vpt/metrics", ()),
    ("vpt/data_vtab", ()),
    ("vpt/data_fgvc_eval", ()),
    ("msvp/schedules", ()),
    ("msvp/metrics", ("tolerance",)),  # all numbers are exact
    ("msvp/prompt_panels", ()),
    ("sa2vp/posembed_resize", ("tolerance",)),
    ("vit_b4/b_adapt", ()),
    ("mop_clip/mop_text", ()),
    ("mop_clip/metrics", ()),
)


def others(value):
    """Return a value that a key does not have: tolerances become nothing, numbers larger."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 3 * value + 0.01
    if isinstance(value, str):
        return f"{value} or not"
    if isinstance(value, list):
        return value[:-1] if len(value) > 1 else [*value, *value]
    return 1.5  # of None


def paths(meta, before=()):
    """Yield the paths of all values that are no mappings, and of a tolerance as a whole."""
    for key, value in meta.items():
        if isinstance(value, dict) and key != "tolerance":
            yield from paths(value, (*before, key))
        else:
            yield (*before, key)


def with_other(meta, path):
    """Return meta with another value at a path."""
    changed = json.loads(json.dumps(meta))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    key = path[-1]
    if key == "tolerance":  # none at all, or none that is understood
        inner[key] = nothing(inner[key])
    else:
        inner[key] = others(inner[key])
    return changed


def nothing(stated):
    """Return a tolerance of 0 in the same form; words that say nothing in the place of words."""
    if isinstance(stated, dict):
        return {key: nothing(value) for key, value in stated.items()}
    return 0.0 if isinstance(stated, float) else "as close as it gets"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "idle"), KINDS, ids=[name for name, _ in KINDS])
def test_every_key_that_is_no_documentation_matters(name, idle):
    meta, arrays, folder = recorded(name)
    record = Record(meta)
    for _ in handler(meta, arrays)(record, Record(arrays), folder):
        pass
    free = {*record.ignored(), *idle}
    tested = [path for path in paths(meta) if "/".join(path) not in free]
    assert tested
    passed = [path for path in tested if verdict(with_other(meta, path), arrays, folder)[0]]
    assert passed == []
