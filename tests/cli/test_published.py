"""Flags and keys of the published repositories: answers and docs/migrating.md can be used."""

import re
import shlex

import pytest

import vpjax.cli as cli
from tests.helpers import migrating_page
from tests.helpers.runs import HOME
from vpjax.cli import flags, overrides, published, recipes
from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.runs import config as configs
from vpjax.runs import defaults, effect

PARSERS = cli.parsers()
FLAGS = {flag for parser in PARSERS.values() for flag in parser.flags}
ROWS = [(name, row) for name, rows in published.tables().items() for row in rows.values()]
PAGE = migrating_page.PAGE.read_text()
COMMANDS = re.findall(r"(?:`|^)python main\.py ([^`\n]*)", PAGE, re.MULTILINE)
# Commands of the published code that have a name of ours.
COMMANDS = [c for c in COMMANDS if "--full" not in c]
README = (HOME / "README.md").read_text()
SOURCE = "".join(path.read_text() for path in (HOME / "vpjax").rglob("*.py"))


def every_key() -> set[str]:
    """Returns every config key, those of all methods and backbones among them."""
    keys = set(configs.flat(defaults.get_config()))
    for package in ("methods", "backbones"):
        for name in registry.available(package):
            found = registry.options(registry.lookup(package, name))
            keys |= {f"{package[:-1]}.{option}" for option in found}
    return keys


KEYS = every_key()


def check_words(text: str) -> None:
    """Raises an AssertionError for a flag, key, class or recipe that does not exist."""
    for key in re.findall(r"--config\.([\w.]+)", text):
        assert key in KEYS, key
    for flag in re.findall(r"(?<![\w-])--\w[\w-]*(?![\w.-])", text):
        assert flag in FLAGS, flag
    for key in re.findall(
        r"(?<![\w/.])((?:method|backbone|data|train|optim|text|mesh)\.(?!py)[a-z_]+)", text
    ):
        assert key in KEYS, key
    for name in re.findall(r"(?<![\w.])([a-z_]\w+\.[A-Z]\w+)", text):
        package = "methods" if name in registry.available("methods") else "backbones"
        registry.lookup(package, name)
    for recipe in re.findall(
        r"--config (\w+)|(?<!=)((?:vpt|linear|finetune|sa2vp|mop)_\w+)(?![.\w])", text
    ):
        recipes.find(recipe[0] or recipe[1])


@pytest.mark.parametrize(("repository", "row"), ROWS, ids=[f"{n}-{r.word}" for n, r in ROWS])
def test_every_answer_exists(repository, row):
    check_words(row.ours)
    own = published.tables()[repository]
    check_words(" ".join(w for w in row.note.split() if w.strip('";:,') not in own))
    assert row.ours or row.note or row.word in ("DBG", "CUDNN_BENCHMARK", "DATA.PIN_MEMORY")
    for recipe in re.findall(
        r"\b((?:[a-z0-9]+_[a-z0-9_]+|msvp|vtab):[\w=,]+)", f"{row.ours} {row.note}"
    ):
        if "VALUE" not in recipe:
            recipes.load(recipe)
        else:
            name, key = re.match(r"(\w+):(\w+)=", recipe).groups()
            try:
                recipes.load(f"{name}:{key}=nonsense")
            except UserError as e:
                assert "choice of the recipe" not in str(e)


def test_the_page_shows_the_table():
    assert migrating_page.written() == PAGE, "run python -m tests.helpers.migrating_page"


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_of_the_page(command):
    words = shlex.split(command)
    name = "train" if words[0].startswith("-") else words.pop(0)
    if not words:  # named, not shown
        assert name in PARSERS
        return
    arguments = flags.parse(name, words, PARSERS)
    if "config" in arguments:
        config = recipes.load(arguments.config)
        # Whether weights can be fetched is another matter.
        changes = [pair for pair in arguments.overrides if pair[0] != "backbone.weights"]
        overrides.apply(config, changes)
        effect.check(config, [key for key, _ in changes], name)


def test_files_of_the_page_are_written():
    files = set()
    for _, table in re.findall(r"\| (file there.*?)\n(.*?)\n\n", PAGE, re.DOTALL):
        for line in table.splitlines()[1:]:
            files |= set(re.findall(r"`([\w/]+(?:\.\w+)?)`", line.split("|")[2]))
    files -= {"predict", "train.start"}
    assert {"result.json", "checkpoints/best", "comparison_curves.png"} <= files
    for file in files:
        stem = file.rpartition("/")[2].replace("ablation_fusion", "ablation_{study}")
        assert f'{stem}"' in SOURCE or f"`{stem}`" in README or f"`{file}`" in README, file


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("--epoch 50", ["ViT-B/4", "--epoch 50: --config.train.epochs=50"]),
        ("--full False", ["strategy=F", 'even False: "--full False" tunes everything']),
        ("--epochs=3 --use_prompt", ["of MS-VP;", "--config msvp:prompts=yes"]),
        ("--epochs=3", ["SA2VP or MS-VP", "--epochs 3: --config.train.epochs=3"]),
        ("--my_mode testall", ["of SA2VP", "evaluates images that it trained on"]),
        ("--my_mode trainval_test", ["--config sa2vp_vtab:mode=trainval_test"]),
        ("--update_freq 4", ["--config.train.accumulate=4"]),
        ("--data_set SVHN_S", ["sa2vp_vtab:task=SVHN_S"]),
        ("--prompt_scales full --fusion_type gated", ["scales=full", "fusion=gated"]),
        ("--root /data", ["--config.data.dir=/data"]),
        ("tune --train-type prompt", ["tune --config vtab:method=vpt_deep"]),
        ("eval --workdir x --checkpoint best_epoch3.pt", ["--config.train.start=best_epoch3.pt"]),
        ("--config configs/default.yaml", ["MoP-CLIP", "--config mop_inat"]),
        ("zero-shot --config digits --split val", ["flag of plot", "--config.data.test"]),
        ("--config-file configs/prompt/cub.yaml", ["of VPT", "vpt_fgvc:task=cub"]),
        ("MODEL.PROMPT.NUM_TOKENS 50", ["--config.method.num_tokens=50"]),
        ("DATA.NAME vtab-svhn SOLVER.BASE_LR 0.5", ["vpt_vtab:task=svhn", "optim.lr=0.5"]),
        ("SEED 42 MODEL.PROMPT.DEEP True", ["--config.seed=42", "--config.method.deep=True"]),
        ("--config digits:vpt_deep --lr 0.1", ["--config.optim.lr=0.1"]),
        ("--dataset mnist --model cnn --epoch=4", ["--config msvp:data=mnist", "train.epochs=4"]),
    ],
)
def test_answers(command, found, capsys):
    assert cli.main(shlex.split(command)) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "Traceback" not in message
    for text in found:
        assert text in message


def test_keys_of_files_are_answered():
    config = recipes.load("digits:vpt_deep")
    with pytest.raises(UserError, match=r"config.model.K.*MoP-CLIP(?s:.*)method.num_prompts"):
        overrides.apply(config, [("model.K", "8")])
    with pytest.raises(UserError, match="(?s)of VPT.*method.deep"):
        overrides.apply(config, [("MODEL.PROMPT.DEEP", "True")])
    with pytest.raises(UserError, match="unknown key of config 'modle'"):
        overrides.apply(config, [("modle.K", "8")])


@pytest.mark.parametrize("words", [["SEED"], ["predict", "SEED", "--top_k", "2"]])
def test_words_of_ours_keep_their_meaning(words, capsys):
    if words[0] == "predict":
        assert flags.parse("predict", ["--workdir", "x", "SEED"], PARSERS)
        return
    assert published.answer(["--workdir", "x.pt", "--", "SEED"], FLAGS) is None
    assert published.answer(["--checkpoint", "best"], FLAGS) is None
