"""Every key once, with its unit and default. Recipes start from here and state what they change."""

import copy

from ml_collections import ConfigDict, config_dict

from vpjax.core.errors import UserError, unknown
from vpjax.runs.config import section


def get_config() -> ConfigDict:
    """Return the defaults: VPT-deep on an ImageNet-21k ViT-B/16, on CIFAR-10."""
    config = ConfigDict()

    # What was pre-trained. Other keys of the section are options of the class.
    config.backbone = backbone("vit.ViT", weights="vit_b16_in21k")

    # What is learned on top. `name` is the place in the code: vpjax/methods/vpt.py, class VPT.
    config.method = section("methods", "vpt.VPT")

    config.data = ConfigDict()
    config.data.name = "cifar10"  # TFDS name, "inat2021", "folder:PATH" ...; see docs/data.md
    config.data.train = "train[:90%]"  # TFDS split strings
    config.data.val = "train[90%:]"  # chooses among checkpoints and stops early; "": none
    config.data.test = "test"  # read once, at the end; "": none
    config.data.dir = ""  # prepared data sets; "": TFDS_DATA_DIR or ~/tensorflow_datasets
    config.data.classes = ""  # only these: names or ids, a file of them, or a named subset
    config.data.preset = "auto"  # preprocessing; "auto": what the weights were made with
    config.data.val_augmented = False  # True: val images are augmented as those of train
    config.data.eval_batch_size = 0  # images; 0: batch_size
    config.data.batch_loss = False  # True: also report the loss averaged over batches, not images

    config.train = ConfigDict()
    config.train.batch_size = 128  # images of a step, over all devices
    config.train.accumulate = 1  # parts a batch is worked through in, to save memory
    # Images that fill no batch: "join" the next epoch's, "drop", or "keep" as a smaller batch.
    config.train.remainder = "wrap"
    config.train.reshuffle = True  # False: every epoch has the order of the first
    config.train.epochs = 100.0
    config.train.steps = config_dict.placeholder(int)  # instead of epochs
    config.train.eval_every = 1.0  # epochs
    config.train.save_every = 60.0  # seconds, at the next evaluation; 0: at every evaluation
    config.train.loss = "softmax"  # or "sigmoid": every class for itself, for several an image
    config.train.label_smoothing = 0.0  # share of the target that goes to all classes alike
    config.train.class_weights = "none"  # "inv" or "inv_sqrt" of the number of training images
    config.train.log_every = 50  # steps
    config.train.patience = 0  # evaluations without a better val accuracy before stopping; 0: never
    config.train.select = "last"  # weights that are reported: "last", or "best" by val accuracy
    config.train.test_best = False  # True: also save and test what was best on val, beside `select`
    config.train.trainable = ""  # regular expression over parameter names; "": the method's own

    config.optim = ConfigDict()
    config.optim.name = "sgd"  # "sgd", "adam" (both with L2 in the gradient), "adamw" (decoupled)
    config.optim.lr = 0.25  # peak learning rate
    config.optim.lr_base_batch_size = (
        256  # `lr` is for this many images a batch and scales with it; 0: as is
    )
    config.optim.momentum = 0.9  # sgd
    config.optim.weight_decay = 1e-4
    config.optim.no_decay = r"method/head/bias"  # names that do not decay; "": all decay
    config.optim.bias_multiplier = 1.0  # of the rate, for names with "bias" but the head's last
    # "cosine", "cosine_hardrestart", "step", "onecycle", "constant", "plateau"
    config.optim.schedule = "cosine"
    config.optim.schedule_by_epoch = (
        False  # True: the rate stays what it is at an epoch's first step
    )
    config.optim.warmup_epochs = 10.0
    # Instead of warmup_epochs: the first of these steps has rate 0, the step after them the peak.
    config.optim.warmup_steps = config_dict.placeholder(int)
    config.optim.warmup_from_zero = False  # True: the first step's rate is 0, the last's the peak
    config.optim.min_lr = 0.0  # where a cosine ends
    config.optim.cycles = 1  # cosine_hardrestart: cosines one after the other
    config.optim.step_epochs = 30.0  # step: epochs between two falls
    config.optim.step_factor = 0.1  # step: what the rate is multiplied with
    config.optim.plateau_factor = 0.1  # plateau: what the rate is multiplied with
    config.optim.plateau_patience = 10  # plateau: evaluations without a better val accuracy
    config.optim.clip_norm = 0.0  # bound of the global gradient norm; 0: none

    # What a class is called, for methods that read it: see vpjax/models/text/templates.py.
    config.text = ConfigDict()
    config.text.templates = "auto"  # or a list's name, or "a photo of {name}; a {name} outside"
    # "": templates are filled with all that is known of a class. "common", "scientific" or "both":
    # with these names alone, as `zero-shot` has it.
    config.text.name_type = ""
    config.text.tokenizer = ""  # folder or file of CLIP's; "": beside the weights

    # Whether a frozen backbone's features are computed once and kept on disk: "cached", "off", or
    # "auto": where that changes nothing but the time; see docs/features.md.
    config.features = "auto"

    config.dtype = "float32"  # of computation: "float32" or "bfloat16"; what trains is float32
    # "xla", "cudnn", "blockwise"; "auto": by a rule; "measured": timed here. The log says which.
    config.attention = "auto"
    # What the backward pass recomputes: "none", "dots", "full"; "auto": the first that fits.
    config.remat = "none"
    config.remat_segments = 0  # consecutive groups of layers it recomputes at once; 0: each layer
    config.mesh = ConfigDict({"data": -1, "model": 1})  # devices on each axis; -1: the rest
    config.mesh.fsdp = False  # True: split frozen layers over them, to save memory
    config.seed = 0
    config.match_reference_code = (
        False  # True: reproduce the published code where it differs from the paper
    )

    config.curves = True  # curves.png at the end of a run
    config.draw = True  # pictures at the end of a run: seconds each, see docs/pictures.md
    config.study = study()
    return config


def study() -> ConfigDict:
    """Return the section of commands that train several runs; one run makes no use of it."""
    study = ConfigDict()
    study.name = ""  # `ablate`: which study it is, see `vpjax.studies.ablate.STUDIES`
    study.label = ""  # name of the method in tables; "": the folder's
    study.seeds = (0,)  # each run, or each final run of `tune`, once with every seed
    # `compare`, `ablate`: {label: {section: {key: value}}}, one run a label and seed.
    study.compare = ConfigDict()
    study.cells = ()  # which labels of study.compare, in this order; (): all, by name
    study.colours = ConfigDict()  # of labels in comparison_curves.png, {label: "#0077BB"}
    study.suite = ConfigDict()  # `tune`: several tasks, one after the other, {label: changes}
    study.expected = ConfigDict()  # what was published: {"value", "tolerance", "source"}
    # `tune`: what is tried on val before the test split is read; see docs/protocol.md.
    study.tune = ConfigDict()
    study.tune.grid = ConfigDict()  # {section: {key: values}}; every combination is a trial
    study.tune.also = ConfigDict()  # what goes with a value: {section: {key: {"value": changes}}}
    study.tune.train = ""  # split that the final runs train on; "": data.train and data.val
    study.tune.metric = ""  # of val, that chooses: any metric of a result; "": accuracy, or map
    study.tune.split = "trials"  # what several processes share out; "devices": each trial has all
    return study


def single_run(config: ConfigDict) -> ConfigDict:
    """Return a copy that says nothing of other runs; what the run is called in tables stays."""
    out = copy.deepcopy(config)  # empty entries keep their types, for the command line
    kept = {key: out.study[key] for key in ("label", "expected")}
    out.study = study()
    out.study.update(kept)
    return out


def backbone(
    name: str, weights: str = "", head: str = "new", resample: str = "align_corners", **options
) -> ConfigDict:
    """Return the backbone's section.

    `weights` is a path, URL or known name ("": random); `head="load"` takes the file's head too.
    `resample` carries them to another grid ("align_corners"), and to other patches ("bicubic",
    "bilinear"); see `vpjax.weights.resample`.
    """
    out = section("backbones", name, **options)
    out.weights = weights
    out.head = head
    out.resample = resample
    return out


def choices(label: str, **defaults: str) -> dict[str, str]:
    """Read what follows a recipe's name: "task=svhn,mode=train_val", or "svhn" for the first key.

    Raises: UserError for a key that is not among the defaults.
    """
    found = dict(defaults)
    for part in filter(None, label.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = next(iter(defaults)), part
        if key not in defaults:
            raise unknown("choice of the recipe", key, defaults)
        if not value:
            raise UserError(f"the recipe's choice {part!r} has no value")
        found[key] = value
    return found
