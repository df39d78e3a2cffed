"""What the runner of recorded cases honours and refuses, each on a case of its own.

A case is a recorded one with another value in `meta`, and expectations computed here by numpy from
the published formulas. Whole models and training runs are in test_own_cases.py.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import vpt_cifar
from tests.golden import mop_training, sa2vp, training, vit_b4, vit_b4_model
from tests.golden.comparison import GRADIENT, Comparison, gradient, judge, numbers, scaled, summed
from tests.golden.record import NotUnderstood, Record, under
from tests.golden.runner import check, handler, read, run
from vpjax.backbones.vit import ViT
from vpjax.methods.mop import MoP

DATA = Path(__file__).parent / "data"


def recorded(name):
    """Return meta and arrays of a recorded case, to be changed."""
    path = DATA / f"{name}.npz"
    return *read(path if path.is_file() else path.with_suffix(".json")), path.parent


def verdict(meta, arrays, folder):
    """Run a changed case; return whether it passed and the line about it."""
    return run(handler(meta, arrays), meta, arrays, folder)


# Records


def test_a_record_knows_which_keys_were_read():
    meta = Record({"lr": 1, "note": "x", "seed": 3, "inner": {"a": 1, "b": 2}, "list": [{"c": 1}]})
    assert meta["lr"] == 1
    assert meta.get("absent", 5) == 5
    assert meta["inner"]["a"] == 1
    assert sorted(meta.unread()) == ["inner/b", "list", "seed"]
    meta.ignore("seed", "never there")
    assert [one["c"] for one in meta["list"]] == [1]
    assert meta.unread() == ["inner/b"]
    assert meta.whole("inner") == {"a": 1, "b": 2}
    assert meta.unread() == []


def test_asking_whether_a_key_exists_does_not_read_it():
    meta = Record({"lr": 1})
    assert "lr" in meta and "lr" in set(meta)
    assert meta.unread() == ["lr"]


def test_an_expected_value_must_be_there():
    meta = Record({"conf": {"mode": "eval"}})
    meta["conf"].expect("mode", "eval", "train")
    meta["conf"].expect("absent", 1)
    with pytest.raises(NotUnderstood, match="conf/mode is 'eval'; only 'train' is known"):
        meta["conf"].expect("mode", "train")


def test_a_missing_key_is_named():
    with pytest.raises(NotUnderstood, match="no conf/lr"):
        Record({"conf": {}})["conf"]["lr"]


def test_names_under_a_prefix_are_read():
    arrays = Record({"in/x": 1, "out/a": 2, "out/b": 3})
    assert under(arrays, "out/") == {"a": 2, "b": 3}
    assert arrays.unread() == ["in/x"]


# Keys that nobody knows, and values that the library does not reproduce

CHEAP = {
    "vpt/solver_sgd": ("nesterov", "tolerance/exact"),
    "vpt/data_vtab": ("interpolation", "tolerance/levels"),
    "vpt/data_fgvc_eval": ("jitter",),
    "msvp/schedules": ("warmup_epochs", "tolerance/lr"),
    "msvp/metrics": ("top_k", "early_stopping/window"),
    "msvp/prompt_panels": ("colours",),
    "sa2vp/posembed_resize": ("order",),
    "vit_b4/b_adapt": ("antialias", "tolerance/grad"),
    "mop_clip/metrics": ("shots",),
}


@pytest.mark.parametrize("name", CHEAP)
def test_a_key_that_is_not_known_is_refused_by_name(name):
    meta, arrays, folder = recorded(name)
    for path in CHEAP[name]:
        section, _, key = path.rpartition("/")
        (meta[section] if section else meta)[key] = 1
    with pytest.raises(NotUnderstood) as error:
        verdict(meta, arrays, folder)
    assert [f"key {path!r} of meta" in str(error.value) for path in CHEAP[name]] == [True] * len(
        CHEAP[name]
    )


def test_a_misspelt_key_gets_the_nearest_known_one():
    meta, arrays, folder = recorded("msvp/schedules")
    with pytest.raises(NotUnderstood, match="key 'step_epoch' of meta; did you mean 'step_epochs'"):
        verdict(meta | {"step_epoch": 3}, arrays, folder)


def test_documentation_changes_nothing():
    meta, arrays, folder = recorded("vpt/solver_sgd")
    more = {"note": "n", "notes": ["m"], "tier": "slow", "ran": "there", "groups": 99, "case": "x"}
    assert verdict(meta | more, arrays, folder)[0]


def test_a_result_that_is_not_compared_is_refused():
    meta, arrays, folder = recorded("vpt/solver_sgd")
    arrays["after/99/head.last_layer.weight"] = arrays["after/1/head.last_layer.weight"]
    with pytest.raises(NotUnderstood, match="recorded but not compared: after/99/head"):
        verdict(meta, arrays, folder)


EXPECTED = {
    "vpt/data_vtab": {"resize": "bicubic", "layout": "HWC"},
    "vpt/data_fgvc_eval": {"filter": "nearest", "size_rule": "round", "crop_offset": "0"},
    "msvp/metrics": {"early_stopping": {"patience": 4, "mode": "min", "min_delta": 0.0}},
    "mop_clip/mop_text": {"order": "template-major", "tolerance": "exact"},
    "vit_b4/b_adapt": {"kind": "adopt"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_value_that_the_library_does_not_reproduce_is_refused(name):
    meta, arrays, folder = recorded(name)
    for key, value in EXPECTED[name].items():
        with pytest.raises(NotUnderstood):
            verdict(meta | {key: value}, arrays, folder)


def test_kinds_of_other_collections_are_refused():
    metas = (
        {"kind": "audio_method", "method": "prefix", "options": {"rank": 4}, "case": "prefix_2"},
        {"kind": "cache_model", "method": "another_cache", "options": {"lr": 0.001}},
        {"method": "unheard_of"},
        {},
    )
    for meta in metas:
        with pytest.raises(NotUnderstood, match="kind of case"):
            handler(meta | {"tolerance": {}}, ["in/image", "out/logits"])


def test_a_folder_with_an_unknown_key_fails(tmp_path):
    meta, arrays, _ = recorded("vpt/solver_sgd")
    np.savez(tmp_path / "solver.npz", meta=json.dumps(meta | {"nestrov": True}), **arrays)
    assert check(tmp_path / "solver.npz") == (False, "not understood: key 'nestrov' of meta")


# Tolerances


def test_an_absolute_tolerance_grows_with_the_largest_number():
    large = np.array([300.0, 0.0, -1.0])
    off = large + [0.0, 5e-3, 0.0]
    assert judge([scaled("x", off, large, 2e-5)])[0]
    assert not judge([Comparison("x", off, large, 2e-5)])[0]
    assert not judge([scaled("x", off, large, 1e-5)])[0]
    small = large / 1e6
    assert judge([scaled("x", small + 1.9e-5, small, 2e-5)])[0]
    assert not judge([scaled("x", small + 2.1e-5, small, 2e-5)])[0]


def test_a_gradient_is_held_to_a_share_of_its_largest_number():
    recorded = np.array([1e-3, 0.0])
    assert judge([gradient("g", recorded + [0, 0.9e-6], recorded, 1e-3)])[0]
    assert not judge([gradient("g", recorded + [0, 1.1e-6], recorded, 1e-3)])[0]
    assert judge([gradient("g", recorded + [0, 1.1e-6], recorded, 1e-3, of=[2e-3])])[0]


def test_a_sum_is_held_to_its_largest_term():
    assert judge([summed("l", 0.0105, 0.01, [-80.0, 80.01, 0.01], 1e-5)])[0]
    assert not judge([summed("l", 0.011, 0.01, [-80.0, 80.01, 0.01], 1e-5)])[0]


def test_a_shape_that_differs_and_a_number_that_is_none_fail():
    assert not judge([Comparison("x", np.ones(2), np.ones(3), 9.0)])[0]
    assert not judge([Comparison("x", np.nan, 1.0, 9.0), Comparison("y", 1.0, 1.0, 0.0)])[0]
    assert not judge([])[0]


def test_tolerances_in_words_are_read():
    words = "per tensor: max abs error <= 2e-3 * max abs reference + 1e-6 (and more)"
    assert numbers(GRADIENT, words) == (2e-3, 1e-6)
    with pytest.raises(NotUnderstood, match="tolerance 'close enough'"):
        numbers(GRADIENT, "close enough")


# The optimizer of a case


def sgd(meta, arrays):
    """Return parameters after every step by the formula of SGD with momentum and L2."""
    rates = []
    for epoch in range(meta["total_epoch"]):
        warm, length = meta["warmup_epoch"], meta["total_epoch"]
        share = epoch / warm if epoch < warm else None
        if share is None:
            share = 0.5 * (1 + np.cos(np.pi * (epoch - warm) / max(1, length - warm)))
        rates.append(meta["base_lr"] * share)
    params = {n: arrays[f"init/{n}"].astype(np.float64) for n in meta["trainable"]}
    momentum, out = {n: np.zeros_like(v) for n, v in params.items()}, {}
    for step in range(len(rates) * meta["steps_per_epoch"]):
        lr = rates[step // meta["steps_per_epoch"]]
        for n in params:
            last = n == "head.last_layer.bias"
            grad = arrays[f"grad/{step}/{n}"] + (not last) * meta["weight_decay"] * params[n]
            momentum[n] = meta["momentum"] * momentum[n] + grad
            own = meta["bias_multiplier"] if "bias" in n and not last else 1
            params[n] = params[n] - lr * own * momentum[n]
            out[f"after/{step + 1}/{n}"] = params[n].astype(np.float32)
    return out | {"lr_first_group_by_epoch": np.array(rates)}


LAST = "after/12/enc.norm1.bias"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"base_lr": 1.0},
        {"weight_decay": 0.2},
        {"momentum": 0.5},
        {"bias_multiplier": 3.0},
        {"warmup_epoch": 0},
        {"steps_per_epoch": 1, "total_epoch": 12},
    ],
    ids=str,
)
def test_every_number_of_an_optimizer_is_taken_from_the_case(change):
    meta, arrays, folder = recorded("vpt/solver_sgd")
    changed = meta | change
    expected = sgd(changed, arrays)
    good, text = verdict(changed, arrays | expected, folder)
    assert good, text
    if change:
        assert not np.allclose(expected[LAST], arrays[LAST], rtol=1e-3)


# Schedules, and the cycle that never turned


def schedules(meta):
    """Return the arrays of a case of schedules by the published formulas."""
    lr, top, per_epoch = meta["lr"], meta["max_lr"], meta["steps_per_epoch"]
    between = lambda a, b, p: b + (a - b) / 2 * (1 + np.cos(np.pi * p))  # noqa: E731
    epochs = np.arange(meta["epochs"] + 1)
    cosine = lr * (1 + np.cos(np.pi * epochs / meta["epochs"])) / 2
    steps = lr * 0.1 ** (np.arange(meta["step_epochs"] + 1) // 30)
    total = meta["epochs"] * per_epoch
    t, turn = np.arange(total), 0.3 * total - 1
    rising, falling = t / turn, (t - turn) / (total - 1 - turn)
    cycle = lambda a, b, c: np.where(t <= turn, between(a, b, rising), between(b, c, falling))  # noqa: E731
    out = {
        "cosine_lr_used_per_epoch": cosine[:-1],
        "cosine_lr_final": cosine[-1],
        "step_lr_used_per_epoch": steps[:-1],
        "step_lr_final": steps[-1],
        "onecycle_as_shipped_lr": 10 * lr / 25,
        "onecycle_as_shipped_beta1": 0.95,
    }
    for kind in ("adam", "sgd"):
        out[f"onecycle_{kind}_lr_per_step"] = cycle(top / 25, top, top / 25e4)
        out[f"onecycle_{kind}_momentum_per_step"] = cycle(0.95, 0.85, 0.95)
    return {f"out64/{n}": np.asarray(v) for n, v in out.items()}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"lr": 0.004},
        {"max_lr": 0.3},
        {"lr": 0.02, "max_lr": 0.05, "epochs": 4, "steps_per_epoch": 9, "step_epochs": 31},
    ],
    ids=str,
)
def test_schedules_follow_the_case(change):
    meta, arrays, folder = recorded("msvp/schedules")
    changed = meta | change
    good, text = verdict(changed, schedules(changed), folder)
    assert good, text
    differs = [not np.array_equal(v, arrays[n]) for n, v in schedules(changed).items()]
    assert any(differs)


def test_the_cycle_as_shipped_comes_from_the_learning_rate_not_from_the_peak():
    meta, _, folder = recorded("msvp/schedules")
    changed = meta | {"lr": 0.002, "max_lr": 0.5}
    wrong = {"out64/onecycle_as_shipped_lr": np.array(0.5 / 25)}
    good, text = verdict(changed, schedules(changed) | wrong, folder)
    assert not good and "as shipped" in text


# Training: numbers of the case, accumulation, clipping


def test_the_recorded_run_of_vit_b4_has_the_numbers_of_the_recipe():
    meta, _, _ = recorded("vit_b4/a_loop_P")
    ours, recipe = vit_b4.settings(Record(meta)), vpt_cifar.get_config().optim
    keys = ("name", "lr", "weight_decay", "min_lr", "no_decay", "schedule", "schedule_by_epoch")
    for key in keys:
        assert getattr(ours, key) == getattr(recipe, key)


def test_settings_are_those_of_the_case():
    meta = {"lr": 0.7, "weight_decay": 0.3, "eta_min": 0.01}
    ours = vit_b4.settings(Record(meta))
    assert (ours.lr, ours.weight_decay, ours.min_lr) == (0.7, 0.3, 0.01)
    meta = {"lr": 0.7, "min_lr": 0.1, "weight_decay": 0.3, "clip_grad": 2.0, "warmup_epochs": 3}
    ours = sa2vp.settings(Record(meta))
    found = ours.lr, ours.min_lr, ours.weight_decay, ours.clip_norm, ours.warmup_epochs
    assert found == (0.7, 0.1, 0.3, 2.0, 3.0)
    assert sa2vp.settings(Record(meta | {"clip_grad": None})).clip_norm == 0


def test_batches_of_an_accumulated_step_are_its_parts():
    batches = np.arange(12).reshape(3, 4)  # three batches of four images
    joined = np.asarray(training.interleaved(batches))
    # As `vpjax.train.step` takes a batch apart.
    np.testing.assert_array_equal(joined.reshape(-1, 3).T, batches)


# Annealing


def test_annealing_can_be_switched_off_and_defaults_are_the_published_ones():
    conf = {"model": {"em_tau_start": 2.0, "em_tau_end": 0.5}, "train": {"temp_cls": 0.1}}
    options = lambda conf: mop_training.method_options(Record(conf))  # noqa: E731
    assert options(conf)["anneal"] and options(conf)["temp_cls"] == 0.1
    small = {"dim": 4, "mlp_dim": 4, "heads": 1, "depth": 1}
    backbone = nnx.eval_shape(lambda: ViT("Ti/4", 8, **small, rngs=nnx.Rngs(0)))
    for section in conf:
        still = conf | {section: conf[section] | {"use_tau_annealing": False}}
        for given, tau in ((conf, 0.65), (still, 2.0)):
            method = MoP(backbone, 2, num_prompts=1, rngs=nnx.Rngs(0), **options(given))
            np.testing.assert_allclose(method.tau(0.9), tau, rtol=1e-6)
    assert options({"model": {}, "train": {}})["tau_end"] == 0.3
    hard = {"model": {"use_hard_assignment": True}, "train": {"offset_reg_weight": 0.5}}
    assert options(hard)["assignment"] == "hard" and options(hard)["offset_reg_weight"] == 0.5


# Kernels with three axes


def test_kernels_of_attention_are_flattened_as_the_original_has_them():
    meta, arrays, _ = recorded("vit_b4/b_PF")
    model, parts = vit_b4_model.build(Record(meta))
    seen = set()
    for name, value in under(arrays, "grad/").items():
        found = vit_b4_model.translate(name, value, model)
        flat = np.concatenate([vit_b4_model.original(n, v) for n, v in found.items()])
        np.testing.assert_array_equal(flat, value.ravel(), err_msg=name)
        seen |= {v.ndim for n, v in found.items() if n.endswith("kernel")}
    assert seen == {2, 3, 4}
    kernel = jnp.arange(24.0).reshape(2, 3, 4)  # D N d
    ours = vit_b4_model.original("backbone/layers/0/attn/query/kernel", kernel)
    np.testing.assert_array_equal(ours.reshape(12, 2), np.asarray(kernel).reshape(2, 12).T)
    ours = vit_b4_model.original("backbone/layers/0/attn/out/kernel", kernel)  # N d D
    np.testing.assert_array_equal(ours.reshape(4, 6), np.asarray(kernel).reshape(6, 4).T)
