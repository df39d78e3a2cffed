"""Every command: its help, its flags, the flags it does not have, and what it does."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.data.fake import fake_tfds
from tests.helpers.runs import HOME, command, main, result
from vpjax import cli
from vpjax.cli import flags
from vpjax.core.errors import UserError

PARSERS = cli.parsers()
OWNERS = {}
for _name, _parser in PARSERS.items():
    for _flag in _parser.flags:
        OWNERS.setdefault(_flag, []).append(_name)
QUICK = ("--config.train.steps=3", "--config.draw=False", "--config.curves=False")


@pytest.mark.parametrize("start", ["vpjax", "python main.py"])
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_fits_a_screen_and_ends_in_an_example(name, start, monkeypatch):
    monkeypatch.setattr(flags, "program", lambda: start)
    done = command(name, "--help")
    assert done.returncode == 0 and not done.stderr_text
    lines = done.stdout_text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: {start} {name}") and lines[0].endswith("[flags]")
    assert lines[2] == flags.sentence(cli.COMMANDS[name]) and lines[2].endswith(".")
    assert lines[-2] == "example:"
    example = lines[-1].strip().removeprefix(f"{start} ").split()
    assert example[0] == name
    arguments = flags.parse(name, example[1:], PARSERS)  # which is a command that can be given
    assert (getattr(arguments, "config", None) is None) == ("--config" not in PARSERS[name].flags)


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_lists_the_commands(word):
    done = command(word)
    assert done.returncode == 0
    lines = done.stdout_text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    for name, module in cli.COMMANDS.items():
        assert f"  {name:16}  {flags.sentence(module)}" in lines


def test_help_comes_at_once():
    code = "import sys; from vpjax.cli import main; main(['--help']); main(['train', '--help'])"
    code += "; print(*sorted(sys.modules), sep='\\n')"
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOME)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 2  # 0.1 s where nothing else runs
    assert not {"jax", "numpy", "ml_collections", "matplotlib"} & set(done.stdout.splitlines())


def test_whoever_reads_may_stop():
    code = "import sys; from vpjax.cli import main; sys.exit(main(['--help']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=HOME
    )
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert not process.stderr.read()
    process.stderr.close()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_flags_of_other_commands(name):
    foreign = OWNERS.keys() - set(PARSERS[name].flags)
    assert len(foreign) > 10
    for flag in foreign:
        word = "--config.seed" if flag == "--config.KEY" else flag
        with pytest.raises(UserError) as error:
            flags.parse(name, [f"{word}=1"], PARSERS)
        owners = ", ".join(OWNERS[flag])
        assert f"{word} is a flag of {owners}, not of {name}" in str(error.value)
        assert f"vpjax {name} --help" in str(error.value)


def test_which_flags_belong_to_which_command():
    assert OWNERS["--top_k"] == ["predict", "demo"] and OWNERS["--dry_run"] == ["tune"]
    for flag in ("--distributed", "--coordinator", "--num_processes", "--process_id"):
        assert OWNERS[flag] == ["train", "eval", "compare", "tune"]
    recipe = ["train", "compare", "ablate", "tune", "prune", "check-data", "zero-shot"]
    recipe += ["class-embeddings"]
    assert OWNERS["--config"] == recipe


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian'. Did you mean 'train'?"),
        (["check_data"], "Did you mean 'check-data'?"),
        (["train", "--top_k", "3"], "--top_k is a flag of predict, demo, not of train"),
        (["--top_k=3"], "--top_k is a flag of predict, demo, not of train"),
        (["export", "x", "--workdir=x", "--config.seed=1"], "reads the config of the run in"),
        (["eval", "--workdir=x", "--config", "digits"], "reads the config of the run in --workdir"),
        (["eval", "--wrkdir=x"], "unknown flag of eval '--wrkdir'. Did you mean '--workdir'?"),
        (["eval"], "the following arguments are required: --workdir. See vpjax eval --help"),
        (["tune"], "required: --config"),
        (["train", "extra"], "extra is no folder or list of files here, and no data set of TFDS"),
        (["train", "-workdir=x"], "unexpected argument '-workdir=x'"),
        (["train", "--workdir"], "argument --workdir: expected one argument"),
        (["plot", "--workdir=x", "--image=first"], "argument --image: invalid int value: 'first'"),
        (["plot", "--workdir=x", "--patch=3"], "'3' is not row,column, such as 3,5"),
        (["convert", "a"], "required: TARGET"),
        (["convert-inat", "--version=2020"], "invalid choice: '2020'"),
        (["compare", "--config=digits:linear"], "digits:linear is one run"),
        (["ablate", "--config=digits"], "config.study.name"),
        (["prune", "--config=digits"], "prune is for e2vpt.E2VPT"),
        (["plot", "--workdir=nowhere"], "nowhere is no run of vpjax"),
        (["report", "--workdir=nowhere"], "nowhere"),
    ],
)
def test_mistakes(words, message):
    done = command(*words)
    assert done.returncode == 2
    assert done.stderr_text.startswith("error: ") and message in done.stderr_text
    assert "Traceback" not in done.stderr_text


def test_a_bug_shows_itself(monkeypatch):
    def broken(arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(cli.COMMANDS["convert"], "run", broken)
    with pytest.raises(ZeroDivisionError):
        command("convert", "a", "b")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two labels, trained by `compare`."""
    folder = tmp_path_factory.mktemp("compared")
    cells = ("--config.study.cells=linear,vpt_deep", "--config.study.seeds=0")
    done = command("compare", "--config=digits", f"--workdir={folder}", *cells, *QUICK)
    assert done.returncode == 0, done.stderr_text
    assert "| linear " in done.stdout_text and "comparison.md" in done.stdout_text
    assert f"evaluate  vpjax eval --workdir {folder}" in done.stdout_text
    assert "This is a toy" in done.stdout_text
    assert done.stdout_text.endswith(f"page      {folder / 'report.html'}\n")
    return folder / "vpt_deep" / "seed0"


def test_compare_is_what_train_does_with_several_runs(run):
    folder = run.parents[1]
    cells = ("--config.study.cells=linear,vpt_deep", "--config.study.seeds=0")
    done = command("--config=digits", f"--workdir={folder}", *cells, *QUICK)
    assert done.returncode == 0, done.stderr_text
    assert done.stdout_text.count("finished before") == 2


@pytest.mark.parametrize("by", [(), ("--group_by", "preset,weights")])
def test_report(run, by):
    folder = run.parents[1]
    done = command(
        "report", f"--workdir={folder / 'out'}", "--runs", str(run), f"{folder}/linear", *by
    )
    assert done.returncode == 0, done.stderr_text
    assert (folder / "out" / "report.html").exists()
    with open(folder / "out" / "report.csv") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"linear", "vpt_deep"}


def test_plot(run):
    done = command("plot", f"--workdir={run}", "--picture=confusion", "--image=3")
    assert done.returncode == 2 and "--image has no effect" in done.stderr_text
    done = command("plot", f"--workdir={run}", "--picture=confusion")
    assert done.returncode == 0, done.stderr_text
    assert np.asarray(Image.open(run / "confusion.png").convert("L")).std() > 10


def test_export_refuses_a_run_whose_backbone_has_not_changed(run, tmp_path):
    done = command("export", f"--workdir={run}", str(tmp_path / "mine.npz"))
    assert done.returncode == 2 and not (tmp_path / "mine.npz").exists()
    assert "vpt.VPT trained prompts, the head" in done.stderr_text
    assert "The backbone is still digits_vit" in done.stderr_text


def test_export_and_convert(tmp_path):
    trained = tmp_path / "trained"
    done = command("--config=digits:full", f"--workdir={trained}", *QUICK)
    assert done.returncode == 0, done.stderr_text
    done = command("export", f"--workdir={trained}", str(tmp_path / "mine.npz"))
    assert done.returncode == 0, done.stderr_text
    with np.load(tmp_path / "mine.npz") as file:
        assert file["embedding/kernel"].shape == (2, 2, 3, 48)
    target = tmp_path / "mine.safetensors"
    done = command("convert", str(tmp_path / "mine.npz"), str(target))
    assert done.returncode == 0, done.stderr_text
    assert "sha256" in done.stdout_text and target.exists()
    again = command("convert", str(tmp_path / "mine.npz"), str(target))
    assert again.returncode == 2 and "Give --force" in again.stderr_text
    words = (f"--config.backbone.weights={target}", f"--workdir={tmp_path / 'run'}")
    done = command("--config=digits:linear", *words, "--config.data.preset=digits", *QUICK)
    assert done.returncode == 0, done.stderr_text
    assert result(tmp_path / "run")["weights"]["where"] == str(target)


def test_class_embeddings(tmp_path):
    done = command("class-embeddings", "--config=digits:vpt_deep", f"--workdir={tmp_path}")
    assert (
        done.returncode == 2 and "num_tokens is 8, but there are only 5 classes" in done.stderr_text
    )
    words = ("--config.method.num_tokens=5", f"--workdir={tmp_path}")
    done = command("class-embeddings", "--config=digits:vpt_deep", *words)
    assert done.returncode == 0, done.stderr_text
    assert np.load(tmp_path / "class_embeddings.npy").shape == (5, 5, 48)


def test_check_data(tmp_path):
    done = command("check-data", "--config=digits:linear", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr_text
    assert "no fault" in done.stdout_text
    same = ("--config.data.val=train[:10%]", f"--workdir={tmp_path}")
    done = command("check-data", "--config=digits:linear", *same)
    assert done.returncode == 2
    assert "share" in done.stdout_text
    assert json.loads((tmp_path / "data_check.json").read_text())["faults"]


def test_prepare_data(tmp_path):
    folder = fake_tfds(tmp_path, "cifar10", {"train": 4, "test": 2})  # which is there already
    done = command("prepare-data", "cifar10", f"--data_dir={tmp_path}")
    assert done.returncode == 0, done.stderr_text
    assert done.stdout_text == f"{folder}\n"
    done = command("prepare-data", "cifra10", f"--data_dir={tmp_path}")
    assert done.returncode == 2 and "Did you mean 'cifar10'" in done.stderr_text


def test_ones_own_method_is_found_in_the_working_folder(tmp_path):
    (tmp_path / "ours.py").write_text("from vpjax.methods.finetune import Linear as Mine\n")
    code = "import sys; from vpjax.cli import main; sys.path.remove(''); sys.exit(main())"
    words = ["--config=digits:linear", "--config.method.name=ours.Mine", *QUICK, "--workdir=run"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(HOME), "VPJAX_CACHE": str(tmp_path), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["method"] == "ours.Mine"
    assert "evaluate  vpjax eval --workdir run" in done.stdout


@pytest.mark.slow
def test_python_main_py_says_how_to_go_on(tmp_path):
    done = main("--config=digits:linear", *QUICK, f"--workdir={tmp_path}")
    assert f"evaluate  python main.py eval --workdir {tmp_path}" in done.stdout_text
    assert main("trian").returncode == 2
