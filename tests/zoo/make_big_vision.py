"""Make recorded cases in Google's names: big_vision's SigLIP and vision_transformer's ViT.

    python -m tests.zoo.make_big_vision

Needs torch and timm, whose reader of such files is independent of ours. SigLIP is that of the case
"transformers_siglip"; its layers are stacked, as big_vision writes them.
"""

import numpy as np
import timm
import torch
from safetensors.numpy import load_file
from timm.models.vision_transformer import VisionTransformer, _load_weights

from tests.zoo.make_transformers import DATA, EDGE, MLP, SMALL, pixels, randomise, save

HEADS, DEPTH = SMALL["num_attention_heads"], SMALL["num_hidden_layers"]
QKV = ("query", "key", "value")
ATTENTION, MLP_BLOCK = "MultiHeadDotProductAttention_0", "MlpBlock_0"


def big_vision(arrays: dict[str, np.ndarray], depth: int, heads: int) -> dict[str, np.ndarray]:
    """Return the arrays of a SigLIP's image tower by big_vision's names."""
    out = {
        "embedding/kernel": arrays["embeddings.patch_embedding.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": arrays["embeddings.patch_embedding.bias"],
        "pos_embedding": arrays["embeddings.position_embedding.weight"][None],
        "MAPHead_0/probe": arrays["head.probe"],
    }
    out |= norm("Transformer/encoder_norm", arrays, "post_layernorm")
    for name, kind in (("in_proj_weight", "weight"), ("in_proj_bias", "bias")):
        parts = np.split(arrays[f"head.attention.{name}"], 3)
        arrays |= {f"head.{n}.{kind}": v for n, v in zip(QKV, parts, strict=True)}
    arrays |= {f"head.out.{k}": arrays[f"head.attention.out_proj.{k}"] for k in ("weight", "bias")}
    places = {n: f"head.{n}" for n in (*QKV, "out")}
    out |= attention(f"MAPHead_0/{ATTENTION}", arrays, places, heads)
    out |= norm("MAPHead_0/LayerNorm_0", arrays, "head.layernorm")
    out |= mlp(f"MAPHead_0/{MLP_BLOCK}", arrays, "head.mlp")
    layers = [layer(arrays, f"encoder.layers.{i}", heads) for i in range(depth)]
    stacked = {n: np.stack([each[n] for each in layers]) for n in layers[0]}
    return out | {f"Transformer/encoderblock/{n}": v for n, v in stacked.items()}


def layer(arrays: dict[str, np.ndarray], place: str, heads: int) -> dict[str, np.ndarray]:
    """Return the arrays of one layer."""
    places = {n: f"{place}.self_attn.{n[0]}_proj" for n in QKV}
    places["out"] = f"{place}.self_attn.out_proj"
    out = attention(ATTENTION, arrays, places, heads)
    out |= norm("LayerNorm_0", arrays, f"{place}.layer_norm1")
    return (
        out
        | norm("LayerNorm_1", arrays, f"{place}.layer_norm2")
        | mlp(MLP_BLOCK, arrays, f"{place}.mlp")
    )


def norm(ours: str, arrays: dict[str, np.ndarray], theirs: str) -> dict[str, np.ndarray]:
    """Return the arrays of a LayerNorm."""
    return {f"{ours}/scale": arrays[f"{theirs}.weight"], f"{ours}/bias": arrays[f"{theirs}.bias"]}


def dense(ours: str, arrays: dict[str, np.ndarray], theirs: str) -> dict[str, np.ndarray]:
    """Return the arrays of a linear layer."""
    return {
        f"{ours}/kernel": arrays[f"{theirs}.weight"].T,
        f"{ours}/bias": arrays[f"{theirs}.bias"],
    }


def mlp(ours: str, arrays: dict[str, np.ndarray], theirs: str) -> dict[str, np.ndarray]:
    """Return the arrays of an MLP."""
    first = dense(f"{ours}/Dense_0", arrays, f"{theirs}.fc1")
    return first | dense(f"{ours}/Dense_1", arrays, f"{theirs}.fc2")


def attention(
    ours: str, arrays: dict[str, np.ndarray], places: dict[str, str], heads: int
) -> dict[str, np.ndarray]:
    """Return the arrays of an attention, with an axis of heads."""
    out = {}
    for name, theirs in places.items():
        out |= dense(f"{ours}/{name}", arrays, theirs)
        for n in [f"{ours}/{name}/{kind}" for kind in ("kernel", "bias")]:
            if name != "out":
                out[n] = out[n].reshape(*out[n].shape[:-1], heads, -1)
            elif n.endswith("kernel"):
                out[n] = out[n].reshape(heads, -1, out[n].shape[-1])
    return out


def vision_transformer(arrays: dict[str, np.ndarray], heads: int) -> dict[str, np.ndarray]:
    """Return the arrays of timm's ViT by vision_transformer's names."""
    out = {
        "embedding/kernel": arrays["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": arrays["patch_embed.proj.bias"],
        "cls": arrays["cls_token"],
        "Transformer/posembed_input/pos_embedding": arrays["pos_embed"],
    }
    out |= norm("Transformer/encoder_norm", arrays, "norm")
    if "head.weight" in arrays:
        out |= dense("head", arrays, "head")
    for i in range(sum(n.endswith("norm1.weight") for n in arrays)):
        ours, theirs = f"Transformer/encoderblock_{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            parts = np.split(arrays[f"{theirs}.attn.qkv.{kind}"], 3)
            arrays |= {f"{theirs}.{n}.{kind}": v for n, v in zip(QKV, parts, strict=True)}
        places = {n: f"{theirs}.{n}" for n in QKV} | {"out": f"{theirs}.attn.proj"}
        out |= attention(f"{ours}/MultiHeadDotProductAttention_1", arrays, places, heads)
        out |= norm(f"{ours}/LayerNorm_0", arrays, f"{theirs}.norm1")
        out |= norm(f"{ours}/LayerNorm_2", arrays, f"{theirs}.norm2")
        out |= mlp(f"{ours}/MlpBlock_3", arrays, f"{theirs}.mlp")
    return out


@torch.no_grad()
def make_vit() -> None:
    """Write the folder of vision_transformer's ViT."""
    folder, options = DATA / "google_vit", {"img_size": EDGE, "patch_size": SMALL["patch_size"]}
    options |= {"embed_dim": SMALL["hidden_size"], "depth": DEPTH, "num_heads": HEADS}
    model = VisionTransformer(mlp_ratio=2, num_classes=3, **options).eval()
    randomise(model, seed=4)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {n: v.numpy() for n, v in model.state_dict().items()}
    np.savez_compressed(folder / "model.npz", **vision_transformer(arrays, HEADS))
    again = VisionTransformer(mlp_ratio=2, num_classes=3, **options).eval()
    _load_weights(again, str(folder / "model.npz"))
    images = pixels((EDGE, EDGE), 1)
    tokens = again.forward_features(torch.from_numpy(images).permute(0, 3, 1, 2))
    found = {"features": again.forward_head(tokens, pre_logits=True)}
    save(folder, {"images": images, "logits": again.head(found["features"])} | found, torch, timm)


@torch.no_grad()
def make_siglip() -> None:
    """Write the folder of big_vision's SigLIP."""
    folder, mark = DATA / "big_vision_siglip", "vision_model."
    found = load_file(DATA / "transformers_siglip" / "model.safetensors").items()
    arrays = {n.removeprefix(mark): v.astype(np.float32) for n, v in found if n.startswith(mark)}
    folder.mkdir(parents=True, exist_ok=True)
    theirs = {f"params/img/{n}": v for n, v in big_vision(arrays, DEPTH, HEADS).items()}
    np.savez_compressed(folder / "model.npz", **theirs)
    model = VisionTransformer(
        img_size=EDGE,
        patch_size=SMALL["patch_size"],
        embed_dim=SMALL["hidden_size"],
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=MLP["intermediate_size"] / SMALL["hidden_size"],
        class_token=False,
        global_pool="map",
        act_layer="gelu_tanh",
        num_classes=0,
    ).eval()
    _load_weights(model, str(folder / "model.npz"))
    images = pixels((EDGE, EDGE), 1)
    features = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    save(folder, {"images": images, "features": features}, torch, timm)


if __name__ == "__main__":
    make_siglip()
    make_vit()
