"""Vision Transformers of transformers: what a model_type is called, and its defaults.

The library leaves out of config.json, in some versions, what equals the default of the class.
Defaults are those of transformers 5.24, as far as the encoder reads them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

BICUBIC, ANTIALIASED = "bicubic_no_antialias", "bicubic"
COMMON = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
POOLER = {"qkv_bias": True, "pooler_act": "tanh"}
BEIT = COMMON | {
    "use_absolute_position_embeddings": False,
    "use_relative_position_bias": False,
    "use_shared_relative_position_bias": False,
    "use_mean_pooling": True,
}
DINOV2 = {k: v for k, v in COMMON.items() if k != "intermediate_size"} | {
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "mlp_ratio": 4,
    "use_swiglu_ffn": False,
}
DINOV3 = COMMON | {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_attention_heads": 6,
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "use_gated_mlp": False,
    "num_register_tokens": 0,
}
SIGLIP = COMMON | {
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
SIGLIP2 = {k: v for k, v in SIGLIP.items() if k != "image_size"} | {"num_patches": 256}


@dataclasses.dataclass(frozen=True)
class Family:
    """What transformers calls a model_type.

    Attributes:
        model: the name of its bare model.
        style: which names its arrays have.
        defaults: of its configuration, as far as the encoder reads it.
        resample: how it resizes positions.
    """

    model: str
    style: str
    defaults: Mapping[str, Any]
    resample: str = BICUBIC


FAMILIES = {
    "vit": Family("ViTModel", "vit", COMMON | POOLER),
    "deit": Family("DeiTModel", "vit", COMMON | POOLER),
    "vit_mae": Family("ViTMAEModel", "vit", COMMON | {"qkv_bias": True}),
    "vit_msn": Family("ViTMSNModel", "vit", COMMON | {"qkv_bias": True, "layer_norm_eps": 1e-6}),
    "ijepa": Family("IJepaModel", "vit", COMMON | POOLER),
    # The tables of relative positions, which are resized linearly, are all its positions.
    "beit": Family("BeitModel", "vit", BEIT, "bilinear"),
    "data2vec-vision": Family("Data2VecVisionModel", "vit", BEIT, "bilinear"),
    "dinov2": Family("Dinov2Model", "dinov2", DINOV2 | {"patch_size": 14}),
    "dinov2_with_registers": Family(
        "Dinov2WithRegistersModel", "dinov2", DINOV2 | {"num_register_tokens": 4}, ANTIALIASED
    ),
    "dinov3_vit": Family("DINOv3ViTModel", "dinov3", DINOV3),
    "siglip": Family("SiglipModel", "siglip", SIGLIP),
    "siglip_vision_model": Family("SiglipVisionModel", "siglip", SIGLIP),
    "siglip2": Family("Siglip2Model", "naflex", SIGLIP2, "bilinear_antialias"),
    "siglip2_vision_model": Family("Siglip2VisionModel", "naflex", SIGLIP2, "bilinear_antialias"),
}
# Where no config.json says it, the most plain model_type of a style.
PLAIN = {"vit": "vit", "dinov2": "dinov2", "dinov3": "dinov3_vit", "siglip": "siglip_vision_model"}
PLAIN |= {"naflex": "siglip2_vision_model"}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
# Of training, initial values, outputs or heads, never of the features.
NO_EFFECT = frozenset(
    ("model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "name_or_path")
    + ("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "return_dict")
    + ("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob", "dropout")
    + ("drop_path_rate", "layerscale_value", "layer_scale_init_value", "initializer_range")
    + ("initializer_factor", "encoder_stride", "pooler_output_size", "use_mask_token", "vocab_size")
    + ("out_features", "out_indices", "stage_names", "apply_layernorm", "reshape_hidden_states")
    + ("decoder_hidden_size", "decoder_intermediate_size", "decoder_num_attention_heads")
    + ("decoder_num_hidden_layers", "mask_ratio", "norm_pix_loss", "pool_scales")
    + ("use_auxiliary_head", "auxiliary_loss_weight", "auxiliary_channels", "auxiliary_num_convs")
    + ("auxiliary_concat_input", "semantic_loss_ignore_index", "add_fpn", "segmentation_indices")
    + ("pos_embed_jitter", "pos_embed_rescale", "pos_embed_shift", "text_config", "projection_dim")
    + ("attn_implementation", "gradient_checkpointing", "use_cache", "tie_word_embeddings")
    + ("chunk_size_feed_forward", "max_length", "min_length", "num_beams", "num_beam_groups")
    + ("num_return_sequences", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty")
    + ("length_penalty", "diversity_penalty", "tokenizer_class", "is_encoder_decoder")
)
