"""Every way to adapt a frozen backbone, side by side: offline, half an hour on two CPU cores.

    python main.py --config configs/digits_baselines.py --workdir runs/baselines

Data and backbone are those of the first run (configs/digits.py): a small ViT that has seen the
handwritten digits 0-4 learns 5-9. The table at the end (comparison.md, .csv, .png) has a row for
each baseline, prompt, adapter and update of weights (methods on CLIP need its texts). It is a toy:
366 test images, one image is 0.3 points. Rates of linear and of vpt_* are those of the first run;
the others were chosen with one seed on the validation split of a backbone of 4 patches, and are not
the best for this one.
`--config.study.cells="('linear','sa2vp')"` trains these two alone;
`--config configs/digits_baselines.py:sa2vp` is one run of one of them.
"""

from ml_collections import ConfigDict

from configs import digits

# label: method, its options, learning rate
RUNS = {
    "linear": ("finetune.Linear", {}, 0.1),
    "mlp_3": ("finetune.Linear", {"head_hidden": 2}, 3e-3),
    "cls_token": ("finetune.ClsToken", {}, 0.05),
    "cls_reinit": ("finetune.ClsToken", {"reinit": True}, 0.05),
    "bias": ("finetune.Bias", {}, 1e-2),
    "adapter": ("adapter.Adapter", {"reduction": 8}, 1e-2),
    "partial_1": ("finetune.Partial", {"num_layers": 1}, 3e-3),
    "partial_2": ("finetune.Partial", {"num_layers": 2}, 3e-3),
    "side": ("side.Side", {}, 1e-3),
    "full": ("finetune.Full", {}, 1e-3),
    "vpt_shallow": ("vpt.VPT", {"deep": False}, 0.05),
    "vpt_deep": ("vpt.VPT", {}, 0.03),
    "vpt_first_2": ("vpt.VPT", {"num_deep_layers": 2}, 0.03),
    "vpt_last_2": ("vpt.VPT", {"num_deep_layers": 2, "reverse_deep": True}, 0.03),
    "vpt_shared": ("vpt.VPT", {"deep_shared": True}, 0.03),
    "vpt_pool_prompts": ("vpt.VPT", {"pool": "prompt"}, 0.03),
    "prompts_frozen": ("vpt.FrozenPrompts", {}, 0.1),
    "prompts_bias": ("vpt.PromptBias", {}, 1e-2),
    "prompts_cls": ("vpt.PromptCls", {}, 0.03),
    "e2vpt": ("e2vpt.E2VPT", {"num_tokens": 8, "num_kv_tokens": 5}, 0.03),
    "gate_vpt": ("gate_vpt.GateVPT", {"num_tokens": 8}, 0.05),
    "vfpt": ("vfpt.VFPT", {"num_tokens": 8}, 0.03),
    "spt": ("spt.SPT", {"num_tokens": 8}, 0.03),
    "da_vpt": ("da_vpt.DAVPT", {"num_tokens": 8, "num_proxies": 3}, 0.03),
    "cvpt": ("cvpt.CVPT", {"num_tokens": 8}, 0.03),
    "add": ("vpt_input.Add", {}, 0.03),
    "prepend_pixel": ("vpt_input.PrependPixel", {"num_tokens": 8}, 0.05),
    "pad": ("vpt_input.Pad", {"num_tokens": 2}, 0.05),
    "sa2vp": ("sa2vp.SA2VP", {}, 1e-2),
    "below": ("vpt_input.Below", {"num_tokens": 2}, 0.01),
    "lora": ("lora.LoRA", {}, 1e-2),
    "lora_all": ("lora.LoRA", {"sites": "all"}, 3e-3),
    "dora": ("dora.DoRA", {}, 1e-2),
    "vera": ("vera.VeRA", {}, 0.03),
    "ia3": ("ia3.IA3", {}, 0.05),
    "ssf": ("ssf.SSF", {}, 1e-2),
    "fact_tt": ("fact.TT", {"rank": 8}, 1e-2),
    "fact_tk": ("fact.TK", {"rank": 8}, 1e-2),
    "layer_norm": ("layer_norm.LayerNorm", {}, 1e-2),
    "adapt_former": ("bottleneck.AdaptFormer", {"rank": 8}, 1e-2),
    "adapter_plus": ("bottleneck.AdapterPlus", {}, 1e-2),
    "houlsby": ("bottleneck.Houlsby", {}, 1e-2),
    "pfeiffer": ("bottleneck.Pfeiffer", {}, 1e-2),
    "noah": ("bottleneck.NOAH", {}, 1e-2),
    "compacter": ("compacter.Compacter", {}, 1e-2),
    "convpass": ("convpass.Convpass", {}, 1e-2),
    "convpass_attn": ("convpass.ConvpassAttn", {}, 1e-2),
    "repadapter": ("repadapter.RepAdapter", {}, 1e-2),
    "vpt_and_lora": ("vpt.VPT+lora.LoRA", {"rank": 4}, 1e-2),
    "adapter_and_norms": ("adapter.Adapter+layer_norm.LayerNorm", {"reduction": 8}, 1e-2),
}


def get_config(label: str = "") -> ConfigDict:
    """Returns the recipe, or that of the one run `label` of it.

    Raises: UserError if there is no run of that label.
    """
    config = digits.get_config()
    config.study.compare = ConfigDict(
        {
            label: {"method": {"name": name, **options}, "optim": {"lr": lr}}
            for label, (name, options, lr) in RUNS.items()
        }
    )
    return digits.one_run(config, label, "configs/digits_baselines.py")
