"""Every config key, its default and unit. Recipes start from here and state what they change."""

import copy
import re

from ml_collections import ConfigDict, config_dict

from vpjax.core.errors import UserError, unknown
from vpjax.runs.config import section


def get_config() -> ConfigDict:
    """Return the defaults: VPT-deep on an ImageNet-21k ViT-B/16, on CIFAR-10."""
    config = ConfigDict()

    # The pretrained part. Further keys of the section are options of the class.
    config.backbone = backbone("vit.ViT", weights="vit_b16_in21k")

    # What trains on top. "vpt.VPT" is the class VPT in vpjax/methods/vpt.py.
    config.method = section("methods", "vpt.VPT")

    config.data = ConfigDict()
    config.data.name = "cifar10"  # TFDS name, "inat2021", "folder:PATH" ...; see docs/data.md
    config.data.train = "train[:90%]"  # TFDS split strings
    config.data.val = "train[90%:]"  # chooses checkpoints and stops early; "": none
    config.data.test = "test"  # evaluated once, at the end; "": none
    # Share of train's images that each of val and test gets, class by class, where the data lack
    # them; they are listed in the run's splits.csv. 0: only splits that exist.
    config.data.holdout = 0.0
    config.data.holdout_seed = 0  # of this choice; the same for all seeds of a study
    config.data.dir = ""  # of prepared data sets; "": TFDS_DATA_DIR or ~/tensorflow_datasets
    # Use only these: names or ids, a file of them, a named subset, or "base" or "new", the first or
    # second half of the classes.
    config.data.classes = ""
    # Images of each class in train, drawn by a seed; val gets as many, but at most 4. 0: all.
    config.data.shots = 0
    config.data.shots_seed = config_dict.placeholder(int)  # of this choice; None: that of the run
    config.data.background = "white"  # of transparent images: a colour; "none": it is dropped
    config.data.max_pixels = 178_956_970  # height x width of the largest image that is read
    config.data.bits = 0  # of values in files of more than 8 bits; 0: by each image's range
    config.data.verify = True  # False: broken files are found when they are reached
    # Preprocessing: a name, or fields as in bicubic,crop=0.9,mean=0.5,std=0.5, see
    # docs/preprocessing.md; "auto": what the weights were trained with.
    config.data.preset = "auto"
    # Further random operations of training images, such as random_resized_crop=0.35/1,flip or
    # rand_augment=9/2, see docs/preprocessing.md; "": those of the preset.
    config.data.augment = ""
    config.data.val_augmented = False  # True: val images are augmented as those of train
    config.data.eval_batch_size = 0  # images; 0: train.batch_size
    config.data.batch_loss = False  # True: also report the loss averaged over batches, not images

    config.train = ConfigDict()
    config.train.batch_size = 128  # images of a step, over all devices
    config.train.accumulate = (
        1  # parts that a batch is split into, one after the other: less memory
    )
    # The images of an epoch that fill no batch: "wrap" into a batch with the next epoch's, "drop",
    # or "keep" as a smaller batch.
    config.train.remainder = "wrap"
    config.train.reshuffle = True  # False: every epoch has the order of the first
    # How many images of one class follow each other: 2 makes batches of pairs, for losses that
    # compare images. Each image is still seen once an epoch; what fills no group comes last, so
    # train.remainder="drop" or "keep" lets every epoch begin with a whole group.
    config.train.images_per_class = 1
    config.train.epochs = 100.0  # passes over the training images
    config.train.steps = config_dict.placeholder(int)  # instead of epochs
    config.train.eval_every = 1.0  # epochs
    config.train.save_every = 60.0  # seconds, at the next evaluation; 0: at every evaluation
    config.train.loss = "softmax"  # or "sigmoid", for images with several classes each
    config.train.label_smoothing = 0.0  # share of the target that is spread over all classes
    # Alphas of mixup and cutmix, such as 0.2 and 1; 0: none. With both, each has half of the steps.
    config.train.mixup = 0.0
    config.train.cutmix = 0.0
    config.train.class_weights = "none"  # "inv" or "inv_sqrt" of the number of training images
    config.train.log_every = 50  # steps
    config.train.patience = 0  # evaluations without improvement on val before stopping; 0: never
    config.train.select = "last"  # the checkpoint that is reported: "last", or "best" on val
    config.train.test_best = False  # True: also save and test the checkpoint that is best on val
    # Folder of a run of the same method and backbone, whose learnt parameters this one begins with;
    # RUN#best or RUN#500 chooses a checkpoint. A head for other classes begins anew. Or a file of
    # the published code of VPT, SA2VP, MS-VP or MoP, see docs/migrating.md; or the folder of an
    # adapter that peft has trained on timm's ViT (LoRA, DoRA, IA3, VeRA).
    config.train.start = ""
    config.train.trainable = ""  # regular expression over parameter names; "": the method's own

    config.optim = ConfigDict()
    config.optim.name = "sgd"  # "sgd", "adam" (both with L2 in the gradient), "adamw" (decoupled)
    config.optim.lr = 0.25  # peak learning rate
    config.optim.lr_base_batch_size = 256  # batch size that `lr` is for; it scales. 0: `lr` as is
    config.optim.momentum = 0.9  # sgd
    config.optim.eps = 1e-8  # adam, adamw: added to the root of the second moment
    config.optim.weight_decay = 1e-4  # L2, or decoupled, see `name`
    config.optim.no_decay = r"method/head/bias"  # parameters that do not decay; "": all decay
    config.optim.bias_multiplier = (
        1.0  # of the rate of biases, except that of the head's last layer
    )
    config.optim.head_multiplier = 1.0  # of the rate of the head, which begins anew
    # Of the rate, from each layer of a backbone that trains to the layer below it.
    config.optim.layer_decay = 1.0
    # "cosine", "cosine_timm", "cosine_hardrestart", "step", "onecycle", "constant", "plateau"
    config.optim.schedule = "cosine"
    config.optim.schedule_by_epoch = False  # True: all steps of an epoch have the rate of its first
    config.optim.warmup_epochs = 10.0  # of linear warm-up
    # Instead of warmup_epochs: step 0 has rate 0, this step the peak.
    config.optim.warmup_steps = config_dict.placeholder(int)
    config.optim.warmup_from_zero = False  # True: the first step's rate is 0, the last's the peak
    config.optim.warmup_lr = 0.0  # constant rate of the warm-up, instead of a rise; 0: it rises
    config.optim.min_lr = 0.0  # at the end of a cosine
    config.optim.cosine_over_run = False  # True: a cosine is as long as the run, warm-up included
    config.optim.cycles = 1  # cosine_hardrestart: half cosines one after the other
    config.optim.step_epochs = 30.0  # step: epochs between two reductions
    config.optim.step_factor = 0.1  # step: what the rate is multiplied with
    config.optim.plateau_factor = 0.1  # plateau: what the rate is multiplied with
    config.optim.plateau_patience = 10  # plateau: evaluations without improvement on val
    config.optim.clip_norm = 0.0  # upper bound of the global gradient norm; 0: none
    # A Gaussian average of the parameters after each epoch, which the run ends with: the epoch that
    # counts most (0: no average) and the width in epochs, see vpjax/train/averaging.py.
    config.optim.average_mean = 0.0
    config.optim.average_std = 1.0

    # Names of classes, for methods that read them: see vpjax/models/text/templates.py.
    config.text = ConfigDict()
    # Or a list's name, "coop", or "a photo of {name}; a {name} outside".
    config.text.templates = "auto"
    # "": templates are filled with all names of a class. "common", "scientific" or "both": with
    # these names only, as the command zero-shot does it.
    config.text.name_type = ""
    # File of the classes' names, where the data has ids only: in the order of the labels, or
    # "class, name" a line, or JSON; see docs/data.md. "": those of the data.
    config.text.class_names = ""
    config.text.tokenizer = ""  # folder or file of CLIP's tokenizer; "": beside the weights

    # Whether features of a frozen backbone are computed once and kept on disk: "cached", "off", or
    # "auto", where that changes nothing but the time; see docs/features.md.
    config.features = "auto"

    config.dtype = "float32"  # of computation: "float32" or "bfloat16"; what trains is float32
    # "xla", "cudnn" or "blockwise"; "auto": by a rule; "measured": the fastest on this device.
    config.attention = "auto"
    # What the backward pass recomputes: "none", "dots" or "full"; "auto": the first that fits.
    config.remat = "none"
    config.remat_segments = 0  # groups of layers that are recomputed together; 0: each by itself
    config.mesh = ConfigDict({"data": -1, "model": 1})  # devices on each axis; -1: all others
    config.mesh.fsdp = False  # True: split frozen layers over the devices, to save memory
    config.seed = 0  # of the order of images and of all randomness
    config.match_reference_code = (
        False  # True: repeat published code where it differs from its paper
    )

    # Where numbers go beside the run's files: "tensorboard", "wandb", "mlflow"; docs/loggers.md.
    config.loggers = ()
    config.curves = True  # curves.png at the end of a run
    config.draw = True  # pictures at the end of a run: seconds each, see docs/pictures.md
    config.study = study()
    return config


def study() -> ConfigDict:
    """Return the section `study`, for commands that train several runs; a single run ignores it."""
    study = ConfigDict()
    study.name = ""  # `ablate`: the kind of study, a name in `vpjax.studies.ablate.STUDIES`
    study.label = ""  # name of the method in tables; "": the folder's
    study.seeds = (0,)  # each run, or each final run of `tune`, once with every seed
    # `compare`, `ablate`: {label: {section: {key: value}}}, one run for each label and seed.
    study.compare = ConfigDict()
    study.cells = ()  # which labels of study.compare, in this order; (): all, by name
    study.colours = ConfigDict()  # of labels in comparison_curves.png, {label: "#0077BB"}
    # `tune`: several tasks, one after the other, {label: changes}; `ablate`: data sets, in studies
    # of few shots.
    study.suite = ConfigDict()
    study.shots = (1, 2, 4, 8, 16)  # `ablate`, study few_shot: images of each class
    study.expected = ConfigDict()  # what was published: {"value", "tolerance", "source"}
    # `tune`: what is tried on val before the test split is read; see docs/protocol.md.
    study.tune = ConfigDict()
    study.tune.grid = ConfigDict()  # {section: {key: values}}; every combination is a trial
    study.tune.also = (
        ConfigDict()
    )  # changes that go with a value: {section: {key: {"value": changes}}}
    study.tune.train = ""  # split that the final runs train on; "": data.train and data.val
    study.tune.metric = ""  # on val, chooses the trial: any metric of a result; "": the primary one
    study.tune.split = "trials"  # several processes share the trials; "devices": all work on each
    study.prune = ConfigDict()  # of the command `prune`
    study.prune.percents = (10, 20, 30, 40, 50, 60, 70, 80, 90)  # of prompts, and of their pieces
    study.prune.min_tokens = 1  # prompts that stay at least
    study.prune.min_pieces = 4  # pieces of a prompt that stay at least
    return study


def single_run(config: ConfigDict) -> ConfigDict:
    """Return a copy of a config with an empty section `study`, but for label and expected value."""
    out = copy.deepcopy(config)  # empty entries keep their types, for the command line
    kept = {key: out.study[key] for key in ("label", "expected")}
    out.study = study()
    out.study.update(kept)
    return out


def backbone(
    name: str, weights: str = "", head: str = "new", resample: str = "auto", **options
) -> ConfigDict:
    """Return the section `backbone` of a config.

    Args:
        name: of the class, such as "vit.ViT".
        weights: a path, an address, or a name of the catalogue or the hub; "": random.
        head: "new", or "load" to take the file's classification head too.
        resample: how weights are resized to another grid ("align_corners"), or to another grid and
            patch size ("bicubic", "bilinear"); "auto": as the library of the weights does it; see
            `vpjax.weights.resample`.
        options: of the class.

    Raises:
        UserError: if the class or an option does not exist.
    """
    out = section("backbones", name, **options)
    out.weights = weights
    out.head = head
    out.resample = resample
    return out


def choices(label: str, **defaults: str) -> dict[str, str]:
    """Read the choices behind a recipe's name: "task=svhn,mode=train_val".

    Args:
        label: the choices; one without a key is for the first key.
        defaults: {key: value}, every choice that the recipe has.

    Returns:
        {key: value} for every key of `defaults`.

    Raises:
        UserError: for a key that the recipe has not, or one without a value.
    """
    found = dict(defaults)
    for part in re.findall(r"(?:[^,(]|\([^)]*\)?)+", label):  # a name may have commas in brackets
        key, equals, value = part.partition("=")
        if not equals or "(" in key:
            key, value = next(iter(defaults)), part
        if key not in defaults:
            raise unknown("choice of the recipe", key, defaults)
        if not value:
            raise UserError(
                f"the recipe's choice {part!r} has no value; expected KEY=VALUE, such as "
                f"{key}={defaults[key]}"
            )
        found[key] = value
    return found
