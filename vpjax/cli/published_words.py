"""What flags and keys of the published repositories are here: the table of docs/migrating.md.

A row is: the word there, what to write here, a note. VALUE stands for the value given there, where
it can stay as it is; "-" for a word that needs nothing here. After a change write the page anew:

    python -m tests.helpers.migrating_page
"""

_VPT = """
--config-file | --config vpt_fgvc:task=cub | YAML files are recipes here: prompt vpt_fgvc, \
vpt_vtab; linear linear_fgvc, linear_vtab; finetune finetune_fgvc, finetune_vtab
--train-type | tune --config vtab:method=vpt_deep,task=svhn,recipe=paper | the whole grid of the \
paper
MODEL.TRANSFER_TYPE | --config.method.name=vpt.VPT | prompt; linear finetune.Linear, end2end \
finetune.Full, tinytl-bias finetune.Bias, partial-k finetune.Partial, adapter adapter.Adapter, \
side side.Side, cls finetune.ClsToken, prompt+bias vpt.PromptBias, cls+prompt vpt.PromptCls, \
prompt-noupdate vpt.FrozenPrompts
MODEL.TYPE | --config.backbone.name=vit.ViT | vit; swin swin.Swin, ssl-vit vit.MAE or vit.MoCoV3, \
convnext convnext.ConvNeXt, resnet resnet.ResNet; the weights alone choose it too
MODEL.MODEL_ROOT | --config.backbone.weights=FILE | a file, or a name that is fetched; not a folder
MODEL.WEIGHT_PATH | --config.train.start=VALUE | a run of ours, or a file of prompts
MODEL.SAVE_CKPT | - | the last and the best checkpoint are kept; there only logits were
MODEL.MLP_NUM | --config.method.head_hidden=VALUE |
MODEL.LINEAR.MLP_SIZES | - | has no effect there
MODEL.LINEAR.DROPOUT | - | has no effect there
MODEL.PROMPT.NUM_TOKENS | --config.method.num_tokens=VALUE |
MODEL.PROMPT.LOCATION | --config.method.name=vpt.VPT | prepend; add vpt_input.Add, add-1 the same \
with method.single=True, pad vpt_input.Pad, below vpt_input.Below, prepend-pixel \
vpt_input.PrependPixel
MODEL.PROMPT.INITIATION | --config.method.init=VALUE | not reachable there without a change of code
MODEL.PROMPT.CLSEMB_FOLDER | --config.method.init_path=FILE | class-embeddings writes the file
MODEL.PROMPT.CLSEMB_PATH | --config.method.init_path=VALUE | class-embeddings writes the file
MODEL.PROMPT.PROJECT | --config.method.projection_dim=VALUE | -1 is None
MODEL.PROMPT.DEEP | --config.method.deep=VALUE | False is the default there, True here
MODEL.PROMPT.NUM_DEEP_LAYERS | --config.method.num_deep_layers=VALUE |
MODEL.PROMPT.REVERSE_DEEP | --config.method.reverse_deep=VALUE | there it first overwrites \
patches; match_reference_code=True repeats that
MODEL.PROMPT.DEEP_SHARED | --config.method.deep_shared=VALUE |
MODEL.PROMPT.FORWARD_DEEP_NOEXPAND | --config.method.expand=False | True there is False here
MODEL.PROMPT.VIT_POOL_TYPE | --config.method.pool=image | img_pool; original, prompt_pool is \
prompt, imgprompt_pool is both
MODEL.PROMPT.DROPOUT | --config.method.dropout=VALUE |
MODEL.PROMPT.SAVE_FOR_EACH_EPOCH | --config.train.save_every=0 | the last and the best are kept; \
a file written there begins a run: train.start
MODEL.PROMPT.FLASH_ATTN | --config.attention=auto | cudnn, blockwise ...; unusable as published
MODEL.PROMPT.FLASH_ATTN_TORCH20 | --config.attention=auto | cudnn on NVIDIA in bfloat16; xla is off
MODEL.PROMPT.GRAD_CKPT | --config.remat=full | none is False; there it leaves the prompts out
MODEL.PROMPT.GRAD_CKPT_NUM_SEG | --config.remat_segments=VALUE | there 1 saves nothing
MODEL.ADAPTER.REDUCATION_FACTOR | --config.method.reduction=VALUE | with method.name=adapter.Adapter
MODEL.ADAPTER.STYLE | - | there is one, Pfeiffer
SOLVER.LOSS | --config.train.loss=VALUE |
SOLVER.LOSS_ALPHA | - | has no effect there
SOLVER.OPTIMIZER | --config.optim.name=VALUE | adamw there ignores its weight decay, and is sgd \
with 0; match_reference_code=True repeats that
SOLVER.MOMENTUM | --config.optim.momentum=VALUE |
SOLVER.WEIGHT_DECAY | --config.optim.weight_decay=VALUE |
SOLVER.WEIGHT_DECAY_BIAS | - | has no effect there; optim.no_decay names what does not decay
SOLVER.PATIENCE | --config.train.patience=VALUE |
SOLVER.SCHEDULER | --config.optim.schedule=VALUE |
SOLVER.BASE_LR | --config.optim.lr=VALUE | train.py takes it as it is: add \
optim.lr_base_batch_size=0; its tuning scripts scale it by batch / 256, as recipes here
SOLVER.BIAS_MULTIPLIER | --config.optim.bias_multiplier=VALUE |
SOLVER.WARMUP_EPOCH | --config.optim.warmup_epochs=VALUE |
SOLVER.TOTAL_EPOCH | --config.train.epochs=VALUE |
SOLVER.LOG_EVERY_N | --config.train.log_every=VALUE |
SOLVER.DBG_TRAINABLE | - | what trains is in every log.txt and result.json
DATA.NAME | --config vpt_fgvc:task=VALUE | CUB, nabirds, OxfordFlowers, StanfordDogs, \
StanfordCars cars; vtab-svhn and the rest: vpt_vtab:task=svhn
DATA.DATAPATH | --config.data.dir=VALUE | VPT's JSON lists: vpt_fgvc:task=cub,data=fgvc
DATA.FEATURE | --config vpt_fgvc:backbone=VALUE | its names are known, and so are all \
weights by name, file or hub
DATA.PERCENTAGE | --config.data.train=train[:10%] | 0.1; the first images
DATA.NUMBER_CLASSES | - | comes from the data
DATA.MULTILABEL | --config.train.loss=sigmoid |
DATA.CLASS_WEIGHTS_TYPE | --config.train.class_weights=VALUE | there all weights come out as 1
DATA.CROPSIZE | --config.backbone.image_size=VALUE |
DATA.NO_TEST | --config.data.test= | an empty name: no test split
DATA.BATCH_SIZE | --config.train.batch_size=VALUE |
DATA.NUM_WORKERS | - | chosen by the machine
DATA.PIN_MEMORY | - |
DBG | - |
OUTPUT_DIR | --workdir VALUE |
RUN_N_TIMES | tune --config.study.seeds=42,44,82,100,800 | the seeds of its final runs
CUDNN_BENCHMARK | - |
NUM_GPUS | - | all devices are used; mesh.data says how many
NUM_SHARDS | --num_processes VALUE |
SEED | --config.seed=VALUE |
"""

_VIT_B4 = """
--full | --config vpt_cifar:strategy=F | any value is true there, even False: "--full False" \
tunes everything. Prompts are strategy=P, both (not reachable there) strategy=PF
--epoch | --config.train.epochs=VALUE | 10 is the default there, 5 here and in its README
--batch_size | --config.train.batch_size=VALUE |
--lr | --config.optim.lr=VALUE |
--step_size | - | has no effect there
--root | --config.data.dir=VALUE |
--log_dir | --workdir VALUE | has no effect there
--name | --workdir VALUE | has no effect there
--rank | - | has no effect there
"""

_SA2VP = """
--my_mode | --config sa2vp_vtab:mode=VALUE | trainval_test trains on train and val together, \
chooses nothing, reports test; train_val chooses on val. testall evaluates images that it trained \
on, and its last checkpoint is then tested: that is trainval_test
--data_set | --config sa2vp_vtab:task=VALUE | VTAB-1k; CUB, BIRD, FLOWER, DOG, CAR: \
sa2vp_fgvc:task=cub; names that end in _DAM: sa2vp_hta:task=cifar10
--data_path | --config.data.dir=VALUE | the text files: data.name=vtab1k:FOLDER
--nb_classes | - | comes from the data
--update_freq | --config.train.accumulate=VALUE | there the batch grows with it: multiply \
train.batch_size too
--batch_size | --config.train.batch_size=VALUE | a process's there, all devices' here
--epochs | --config.train.epochs=VALUE |
--warmup_epochs | --config.optim.warmup_epochs=VALUE |
--warmup_lr | - | has no effect there
--lr | --config.optim.lr=VALUE |
--min_lr | --config.optim.min_lr=VALUE |
--weight_decay | --config.optim.weight_decay=VALUE |
--layer_decay | - | has no effect there
--clip_grad | --config.optim.clip_norm=VALUE |
--opt | --config.optim.name=VALUE |
--drop_path | --config.backbone.drop_path=VALUE | has no effect there: 0.2 for Swin, 0 for ViT
--model | --config sa2vp_vtab:backbone=vit | has no effect there; or swin
--finetune | --config.backbone.weights=VALUE |
--mixup | --config.train.mixup=VALUE | has no effect there
--cutmix | --config.train.cutmix=VALUE | has no effect there
--smoothing | --config.train.label_smoothing=VALUE | has no effect there
--color_jitter | --config.data.augment=rand_augment=9/2 | has no effect there
--use_cls | - | has no effect there
--seed | --config.seed=VALUE | has no effect there: 42 always
--output_dir | --workdir VALUE |
--log_dir | --workdir VALUE | metrics.jsonl and pictures lie in the run's folder
--eval | eval --workdir DIR | a command
--resume | --workdir VALUE | the same command again goes on; a checkpoint-*.pth of theirs begins \
a run: train.start
--auto_resume | - | the same command again goes on, at the right epoch; there it forgot the epoch
--dist_eval | - | evaluation uses all devices
--num_workers | - | chosen by the machine
--device | - | JAX_PLATFORMS=cpu in the environment
"""

_MSVP = """
--dataset | --config msvp:data=VALUE | fashion is fashion_mnist; ablate too
--data_dir | --config.data.dir=VALUE |
--num_workers | - | chosen by the machine
--model | --config msvp:model=VALUE |
--use_prompt | --config msvp:prompts=yes | the default here; without the flag: prompts=no
--fusion_type | --config msvp:fusion=VALUE |
--prompt_scales | --config msvp:scales=VALUE |
--batch_size | --config.train.batch_size=VALUE |
--epochs | --config.train.epochs=VALUE |
--lr | --config.optim.lr=VALUE | with schedule=onecycle optim.lr is the peak, there 10 times the \
rate
--max_lr | --config.optim.lr=VALUE | with schedule=onecycle, which there never advanced
--weight_decay | --config.optim.weight_decay=VALUE |
--optimizer | --config.optim.name=VALUE |
--momentum | --config.optim.momentum=VALUE | with optim.name=sgd
--scheduler | --config msvp:schedule=VALUE |
--dropout | --config.backbone.dropout=VALUE | of model=vit alone
--save_dir | --workdir VALUE |
--log_dir | --workdir VALUE |
--save_best_only | - | cannot be switched off there; the last and the best are kept
--device | - | JAX_PLATFORMS=cpu in the environment
--multi_gpu | - | all devices are used
--seed | --config.seed=VALUE |
--print_freq | - | has no effect there; train.log_every
--early_stop | --config.train.patience=10 |
--patience | --config.train.patience=VALUE |
--save_path | ablate --config ablate_fusion --workdir DIR | tables and pictures lie in the folder
--skip_training | ablate --config ablate_fusion --workdir DIR | finished runs are not trained again
"""

_MOP = """
--config | --config mop_inat | YAML files are recipes here: version=2018, subset=wrasse are choices
--resume | --workdir DIR | the same command again goes on; a best_epoch*.pt of theirs begins a \
run: train.start
--checkpoint | --config.train.start=VALUE | of train; eval --workdir DIR evaluates a run, \
--checkpoint is last, best or a step
--data_root | --config.data.dir=VALUE | convert-inat --root DIR
--version | --config mop_inat:version=VALUE | convert-inat --version
--dataset | --config mop_inat | of zero-shot: any recipe
--batch_size | --config.data.eval_batch_size=VALUE |
--category_ids | --config.data.classes=2843,2844 | commas between them
--name_type | --config.text.name_type=VALUE |
--clip_model | --config.backbone.weights=VALUE |
--split | --config.data.test=VALUE | of zero-shot; plot has --split
--class_idx | plot --class_idx VALUE |
--class_name | plot --class_name VALUE |
--top_n | plot --top_n VALUE |
--out_dir | plot --workdir DIR | pictures go to the run's folder
dataset.root | --config.data.dir=VALUE |
dataset.version | --config mop_inat:version=VALUE |
dataset.category_ids | --config.data.classes=2843,2844 | commas between them
dataset.type | --config.data.name=inat2021 |
dataset.num_workers | - | chosen by the machine
dataset.prefetch_factor | - | chosen by the machine
model.clip_model | --config.backbone.weights=VALUE |
model.K | --config.method.num_prompts=VALUE |
model.em_tau_start | --config.method.tau_start=VALUE |
model.em_tau_end | --config.method.tau_end=VALUE |
model.em_tau | plot --tau VALUE |
model.use_tau_annealing | --config.method.anneal=VALUE |
model.use_semantic_init | --config.method.init=semantic | false: zero
model.use_hard_assignment | --config.method.assignment=hard | false: soft
model.offset_reg_weight | --config.method.offset_reg_weight=VALUE |
train.lambda_mixture | --config.method.lambda_mixture=VALUE |
train.temp_cls | --config.method.temp_cls=VALUE |
train.batch_size | --config.train.batch_size=VALUE |
train.lr | --config.optim.lr=VALUE |
train.epochs | --config.train.epochs=VALUE |
train.warmup_steps | --config.optim.warmup_steps=VALUE |
"""

# By repository.
TABLES = {"VPT": _VPT, "ViT-B/4": _VIT_B4, "SA2VP": _SA2VP, "MS-VP": _MSVP, "MoP-CLIP": _MOP}
