"""What a module of timm is, as options of `vit.ViT`: read from its attributes, not from its name.

    python tests/zoo/timm_truth.py > tests/zoo/data/timm_architectures.json

builds every architecture of the families on torch's meta device, with timm 1.0.31. For each the
file says the options that differ from `vit.ViT`'s own, or why vpjax cannot have it, and the shapes
of its state dict as a digest.
"""

import hashlib
import json
import sys

import timm
import torch
from timm.models._registry import _model_entrypoints

MODULES = ("vision_transformer", "deit", "beit", "eva")
ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu", "GELUTanh": "gelu_tanh"}
BLOCKS = ("timm.models.vision_transformer.Block", "timm.models.beit.Block")
BLOCKS += ("timm.models.eva.EvaBlock",)
ATTENTIONS = ("timm.layers.attention.Attention", "timm.models.beit.Attention")
ATTENTIONS += ("timm.models.eva.EvaAttention", "timm.layers.attention.AttentionRope")


class Unlike(Exception):
    """A part that vpjax has no option for."""


def place(x):
    return f"{type(x).__module__}.{type(x).__name__}"


def there(norm):
    """Return whether a norm is there; it must be a LayerNorm."""
    if norm is None or isinstance(norm, torch.nn.Identity):
        return False
    if not isinstance(norm, torch.nn.LayerNorm) or norm.bias is None:
        raise Unlike(f"norm {type(norm).__name__}")
    return True


def options(model):
    """Return the options that a model stands for; raises `Unlike`."""
    blocks, embed = model.blocks, model.patch_embed
    first = blocks[0]
    if len({place(b) for b in blocks}) > 1 or place(first) not in BLOCKS:
        raise Unlike(f"block {place(first)}")
    attn, mlp = first.attn, first.mlp
    if place(attn) not in ATTENTIONS:
        raise Unlike(f"attention {place(attn)}")
    dim, heads = model.embed_dim, attn.num_heads
    out = {"patch_size": embed.patch_size[0], "dim": dim, "heads": heads, "depth": len(blocks)}
    out["image_size"] = list(embed.img_size) if embed.img_size else None
    if attn.head_dim * heads != dim if hasattr(attn, "head_dim") else False:
        raise Unlike("width of heads")
    if attn.proj.bias is None or getattr(attn, "gate", None) is not None:
        raise Unlike("output projection")
    if there(getattr(embed, "norm", None)):
        raise Unlike("norm of patches")
    out |= mlp_options(mlp) | attention_options(attn)
    out |= {"layer_scale": scaled(first), "out_norm": there(getattr(attn, "norm", None))}
    out |= {"qk_norm": there(getattr(attn, "q_norm", None))}
    out |= rope_options(model)
    reg, cls = getattr(model, "reg_token", None), model.cls_token
    dist = getattr(model, "dist_token", None)
    out |= {"class_token": cls is not None, "dist_token": dist is not None}
    out["num_registers"] = 0 if reg is None else reg.shape[1]
    out["positions"] = "none" if model.pos_embed is None else "learned"
    if model.pos_embed is not None:
        n = model.pos_embed.shape[1] - embed.num_patches
        out["prefix_positions"] = n if n != (cls is not None) + (dist is not None) else None
    out["pre_norm"] = there(getattr(model, "norm_pre", None))
    out["patch_bias"] = embed.proj.bias is not None
    out |= {"final_norm": there(model.norm), "fc_norm": there(model.fc_norm)}
    if getattr(model, "rel_pos_bias", None) is not None:
        raise Unlike("relative bias shared by layers")
    out["relative_bias"] = getattr(attn, "relative_position_bias_table", None) is not None
    eps = {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)}
    if len(eps) != 1:
        raise Unlike(f"eps {sorted(eps)}")
    out["eps"] = eps.pop()
    out["pool"] = pool(model)
    usual = {"class_token": True, "positions": "learned", "patch_bias": True, "final_norm": True}
    usual |= {"qkv_bias": True, "mlp": "mlp", "activation": "gelu", "eps": 1e-6, "pool": "token"}
    kept = (*usual, "prefix_positions")
    return {
        k: v for k, v in out.items() if (v or k in kept) and v is not None and v != usual.get(k)
    }


def mlp_options(mlp):
    kind = type(mlp).__name__
    if kind == "SwiGLU":
        norm = there(mlp.norm)
        return {"mlp": "swiglu_norm" if norm else "swiglu", "mlp_dim": mlp.fc1_x.out_features}
    if kind == "GluMlp":
        if there(mlp.norm) or type(mlp.act).__name__ != "SiLU" or mlp.gate_last:
            raise Unlike("gated MLP")
        return {"mlp": "swiglu", "mlp_dim": mlp.fc1.out_features // 2}
    if kind != "Mlp" or there(mlp.norm) or mlp.fc1.bias is None:
        raise Unlike(f"mlp {kind}")
    act = type(mlp.act).__name__
    if act not in ACTIVATIONS:
        raise Unlike(f"activation {act}")
    return {"mlp_dim": mlp.fc1.out_features, "activation": ACTIVATIONS[act]}


def attention_options(attn):
    if getattr(attn, "num_kv_heads", None) not in (None, attn.num_heads):
        raise Unlike("grouped queries")
    if attn.qkv is not None and attn.qkv.bias is not None:
        return {"qkv_bias": True}
    if getattr(attn, "q_bias", None) is not None:
        return {"qkv_bias": "qv"}
    if getattr(attn, "q_proj", None) is not None:
        biases = [getattr(attn, f"{n}_proj").bias is not None for n in "qkv"]
        if biases in ([True, False, True], [True] * 3, [False] * 3):
            return {"qkv_bias": {1: "qv"}.get(sum(biases) - 1, all(biases))}
        raise Unlike("biases")
    return {"qkv_bias": False}


def scaled(block):
    for one, two in (("ls1", "ls2"), ("gamma_1", "gamma_2")):
        if hasattr(block, one):
            kinds = [getattr(block, n) for n in (one, two)]
            found = [k is not None and not isinstance(k, torch.nn.Identity) for k in kinds]
            if len(set(found)) > 1:
                raise Unlike("layer scale of one branch")
            return found[0]
    return False


def rope_options(model):
    rope = getattr(model, "rope", None)
    if rope is None:
        return {}
    kind = type(rope).__name__
    if getattr(rope, "grid_indexing", "ij") != "ij" or getattr(rope, "grid_offset", 0):
        raise Unlike("rotary positions by columns, or with an offset")
    if kind == "RotaryEmbeddingCat" and not model.blocks[0].attn.rotate_half:
        out = {"rope": "eva", "rope_theta": rope.temperature, "in_pixels": rope.in_pixels}
        if out.pop("in_pixels"):
            raise Unlike("rotary positions in pixels")
        out["rope_grid"] = rope.ref_feat_shape and list(rope.ref_feat_shape)
        usual = 10000.0
    elif kind == "RotaryEmbeddingDinoV3" and rope.rotate_half:
        if rope.normalize_coords != "separate":
            raise Unlike("rotary positions of another scale")
        out, usual = {"rope": "dinov3", "rope_theta": rope.temperature}, 100.0
    else:
        raise Unlike(f"rotary positions {kind}")
    return {k: v for k, v in out.items() if v and (k, v) != ("rope_theta", usual)}


def pool(model):
    kind = model.global_pool
    if getattr(model, "dist_token", None) is not None:
        return "prefix_mean"
    if getattr(model, "pool_include_prefix", False):
        if kind == "avg":
            return "mean_all"
        raise Unlike("pooling of prefix tokens")
    if kind == "map":
        found = model.attn_pool
        same = found.num_heads == model.blocks[0].attn.num_heads and there(found.norm)
        same = same and type(found.mlp.act) is type(model.blocks[0].mlp.act)
        if not same or place(found) != "timm.layers.attention_pool.AttentionPoolLatent":
            raise Unlike("attention pooling")
        if not isinstance(found.q_norm, torch.nn.Identity):
            raise Unlike("norms in attention pooling")
        return "map"
    if kind not in ("token", "avg"):
        raise Unlike(f"global_pool {kind!r}")
    return {"token": "token", "avg": "mean"}[kind]


def shapes_digest(model):
    shapes = sorted((n, list(v.shape)) for n, v in model.state_dict().items())
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:12]


def main():
    out = {}
    for name, entry in sorted(_model_entrypoints.items()):
        if entry.__module__.rpartition(".")[2] not in MODULES:
            continue
        with torch.device("meta"):
            model = timm.create_model(name)
        try:
            out[name] = options(model)
        except Unlike as e:
            out[name] = str(e)
        except AttributeError as e:
            out[name] = f"AttributeError {e}"
        print(name, out[name], file=sys.stderr)
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in out.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
