"""What is read from a CLIP's configuration, what is refused, and what is known without one."""

import json

import numpy as np
import pytest

from tests.helpers import clip as files
from vpjax.backbones.clip import CLIP
from vpjax.core.errors import UserError
from vpjax.models.text.pretrained import load_text
from vpjax.weights import clip
from vpjax.weights.clip_config import look, text_of, vision_of

VISION = {"width": 16, "layers": 2, "head_width": 4, "image_size": 12, "patch_size": 4}
TEXT = {"width": 8, "layers": 3, "heads": 2, "context_length": 9, "vocab_size": 40}
SCALARS = ("input_resolution", "context_length", "vocab_size")


def arrays():
    return {n: a for n, a in files.openai().items() if n not in SCALARS}


def folder(path, model=None, vision=(), text=(), names=None, **more):
    """Lays a model out as OpenCLIP does; `model` None: without a configuration."""
    path.mkdir(exist_ok=True)
    with open(path / "open_clip_model.safetensors", "wb") as stream:
        np.savez(stream, **(names or arrays()))
    if model is not None:
        cfg = {"embed_dim": 6, "vision_cfg": VISION | dict(vision), "text_cfg": TEXT | dict(text)}
        content = json.dumps({"model_cfg": cfg | model, **more})
        (path / "open_clip_config.json").write_text(content)
    return str(path)


def towers(path, *args, **kwargs):
    file = look(folder(path, *args, **kwargs))
    return vision_of(file).options, text_of(file).options


def test_the_activation_is_what_the_configuration_says(tmp_path):
    for model, expected in (({}, "gelu"), ({"quick_gelu": True}, "quick_gelu")):
        for options in towers(tmp_path, model):
            assert options["activation"] == expected and options["eps"] == 1e-5
    tanh = {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}}
    for options in towers(tmp_path, {}, vision=tanh, text=tanh):
        assert options["activation"] == "gelu_tanh" and options["eps"] == 1e-3


def test_heads_and_pooling_are_what_the_configuration_says(tmp_path):
    vision, text = towers(tmp_path, {}, vision={"head_width": 8}, text={"heads": 4})
    assert (vision["heads"], text["heads"]) == (2, 4)
    assert vision["pool"] == "token" and vision["final_norm"] and not vision["fc_norm"]
    vision, _ = towers(tmp_path, {}, vision={"pool_type": "avg", "final_ln_after_pool": True})
    assert vision["pool"] == "mean" and vision["fc_norm"] and not vision["final_norm"]
    vision, _ = towers(tmp_path, {}, vision={"image_size": [12, 12], "no_ln_pre": True})
    assert vision["image_size"] == (12, 12) and not vision["pre_norm"]


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"attentional_pool": True}, "vision_cfg.attentional_pool = True: not supported"),
        ({"qk_norm": True, "block_type": "custom"}, "vision_cfg.qk_norm = True, vision_cfg.block"),
        ({"scale_heads": True}, "vision_cfg.scale_heads = True"),
        ({"novelty": 3}, "vision_cfg.novelty = 3"),
        ({"pool_type": "none"}, "pool_type is 'none', so images have no single feature"),
        ({"act_kwargs": {"slope": 1}}, "vision_cfg.act_kwargs {'slope': 1} are not supported"),
        ({"norm_kwargs": {"bias": False}}, "vision_cfg.norm_kwargs .* are not supported; only eps"),
        ({"width": 32}, "belongs to another model: it says width 32, the weights .* have 16"),
        ({"layers": 3}, "belongs to another model: it says layers 3, the weights .* have 2"),
    ],
)
def test_an_image_encoder_that_does_not_exist_here_is_refused_by_name(tmp_path, vision, message):
    where = folder(tmp_path, {}, vision)
    with pytest.raises(UserError, match=message):
        clip.describe(look(where))
    with pytest.raises(UserError, match=message):
        CLIP.complete({}, where)
    load_text(where)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"hf_model_name": "roberta-base"}, "text_cfg.hf_model_name is 'roberta-base'. Only CLIP"),
        ({"hf_tokenizer_name": "bert-base-uncased"}, "text_cfg.hf_tokenizer_name is 'bert-base"),
        ({"tokenizer_kwargs": {"clean": "canonicalize"}}, "text_cfg.tokenizer_kwargs is"),
        ({"no_causal_mask": True}, "text_cfg.no_causal_mask = True: not supported"),
        ({"embed_cls": True}, "text_cfg.embed_cls = True"),
        ({"proj_type": "none"}, "text_cfg.proj_type = 'none'"),
        ({"pool_type": "last"}, "text_cfg.pool_type is 'last'"),
        ({"pool_type": "eos", "eos_id": 1}, "text_cfg.pool_type is 'eos' .eos_id 1."),
        ({"vocab_size": 41}, "it says vocab_size 41, the weights beside it have 40"),
    ],
)
def test_a_text_tower_that_does_not_exist_here_is_refused_by_name(tmp_path, text, message):
    where = folder(tmp_path, {}, text=text)
    with pytest.raises(UserError, match=message):
        load_text(where)
    assert clip.describe(look(where)).options["heads"] == 4


def test_the_largest_id_may_be_called_the_end(tmp_path):
    _, text = towers(tmp_path, {}, text={"pool_type": "eos", "eos_id": 39})
    assert text["heads"] == 2


def test_damaged_configurations_are_refused(tmp_path):
    where = folder(tmp_path, {})
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(UserError, match="open_clip_config.json is damaged"):
        look(where)
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 6}}')
    with pytest.raises(UserError, match="describes no model: expected OpenCLIP's model_cfg"):
        clip.describe(look(where))


def test_other_image_encoders_are_refused_for_what_they_are(tmp_path):
    resnet = {"visual.attnpool.positional_embedding": np.ones((5, 8)), "logit_scale": np.ones(())}
    with pytest.raises(UserError, match="a CLIP whose image encoder is a ResNet"):
        clip.describe(look(folder(tmp_path, {}, names=resnet)))
    mobile = {"image_encoder.model.conv_exp.reparam_conv.weight": np.ones((2, 2))}
    with pytest.raises(UserError, match="a MobileCLIP, whose image encoder is no ViT"):
        clip.describe(look(folder(tmp_path, names=mobile)))
    trunk = {"visual.trunk.stem.0.weight": np.ones((2, 2))}
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(UserError, match="nothing says which. Put the model's open_clip_config"):
        clip.describe(look(folder(tmp_path, names=trunk)))
    vision = {"timm_model_name": "fastvit_mci2", "timm_proj": None, "timm_pool": "avg"}
    with pytest.raises(UserError, match="timm's fastvit_mci2, a MobileCLIP .* is not supported"):
        clip.describe(look(folder(tmp_path, {}, vision, names=trunk)))


# What is known without a configuration


def test_without_a_configuration_heads_and_activation_stay_open(tmp_path):
    found = clip.describe(look(folder(tmp_path)))
    assert found.open == ("heads", "activation") and found.preset is None
    assert found.options["dim"] == 16 and "activation" not in found.options
    wide = arrays() | {"visual.positional_embedding": np.ones((7, 16))}
    assert clip.describe(look(folder(tmp_path, names=wide))).open[2] == "image_size"


def test_files_of_openai_are_known_by_what_is_in_them(tmp_path):
    wide = _visual(64)
    scalars = {n: np.int64(9) for n in SCALARS}
    found = clip.describe(look(folder(tmp_path, names=wide | scalars)))
    assert found.kind == "a CLIP of OpenAI, known by the scalars of OpenAI's archives"
    assert found.open == () and found.preset.name == "clip"
    assert (found.options["heads"], found.options["activation"]) == (1, "quick_gelu")
    assert clip.describe(look(folder(tmp_path, names=wide))).open == ("heads", "activation")


def test_files_of_openai_are_known_by_their_name_if_their_sizes_are_its(tmp_path):
    for width, known in ((768, True), (64, False)):
        with open(tmp_path / "ViT-B-16.npz", "wb") as stream:
            np.savez(stream, **_visual(width, 12, 16, 197))
        found = clip.describe(look(str(tmp_path / "ViT-B-16.npz")))
        assert (not found.open) == known
        assert ("known by its file name" in found.kind) == known


def _visual(width, layers=1, patch=4, tokens=10):
    """An image encoder of one number, by OpenAI's names."""
    draw = lambda *s: np.broadcast_to(np.float16(0), s)  # noqa: E731
    block = {"attn.in_proj_weight": (3 * width, 1), "mlp.c_fc.weight": (8, width)}
    out = {
        f"visual.transformer.resblocks.{i}.{n}": draw(*s)
        for i in range(layers)
        for n, s in block.items()
    }
    out |= {"visual.class_embedding": draw(width), "visual.ln_pre.weight": draw(width)}
    out |= {"visual.conv1.weight": draw(width, 3, patch, patch), "visual.proj": draw(width, 5)}
    return out | {"visual.positional_embedding": draw(tokens, width)}


@pytest.mark.parametrize("before", ["module.", "_orig_mod.module.", ""])
def test_what_stands_before_every_name_is_found(tmp_path, before):
    for inside in ("", "text."):
        outside = ("visual.", "logit_scale")
        names = {n if n.startswith(outside) else inside + n: a for n, a in arrays().items()}
        names = {f"{before}{n}": a for n, a in names.items()}
        where = folder(tmp_path, {}, names=names)
        file = look(where)
        assert file.stripped == before and vision_of(file).options["heads"] == 4
        assert load_text(where).tower.dim == 6
        text = {n: a for n, a in names.items() if "visual." not in n}
        assert look(folder(tmp_path, {}, names=text)).stripped == before
