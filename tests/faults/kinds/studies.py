"""Notes of studies, of runs that go on, and of adapters that others have trained."""

import types
from pathlib import Path

import numpy as np

from tests.faults.kinds.checkpoints import saved
from tests.faults.table import Case, kind
from tests.helpers import results
from tests.weights import test_peft_adapter as peft
from vpjax.core import files
from vpjax.core.errors import UserError
from vpjax.core.files import write_json
from vpjax.runs import config as configs
from vpjax.runs import fit, provenance, recorded, workdir
from vpjax.studies import few_shot, prune, tune
from vpjax.weights import peft_adapter


@kind("new.json of a study of shots")
def new(folder: Path) -> Case:
    write_json(folder / few_shot.NEW, {"accuracy": 61.25})
    read = lambda: few_shot.harmonic_mean(50.0, (few_shot.read_new(folder) or {}).get("accuracy"))  # noqa: E731
    return Case(folder / few_shot.NEW, read)


@kind("pruning.json")
def pruned(folder: Path) -> Case:
    """What `prune` does with it, up to the configs that are to be trained."""
    candidates = [
        {"name": "0_prompts_1_pieces", "pruned_tokens": [], "pruned_pieces": [3]},
        {"name": "1_prompts_0_pieces", "pruned_tokens": [2], "pruned_pieces": []},
    ]
    file = folder / "pruning.json"
    write_json(file, {"tokens": [0.5], "pieces": [[0.5]], "val": 80.0, "candidates": candidates})
    config = results.config_of("fgvc", "cub")

    def read():
        found = prune.read_pruning(file)
        prune.selection(config, found["candidates"])
        return f"{found['val']:.2f}"

    return Case(file, read)


@kind("start.json")
def begun(folder: Path) -> Case:
    write_json(folder / fit.BEGUN, {"start": {"run": "/runs/a", "step": 20, "left_out": []}})
    return Case(folder / fit.BEGUN, lambda: {} | fit.read_begun(folder))


@kind("note on extensions, at the end of a run")
def extended(folder: Path) -> Case:
    write_json(folder / workdir.EXTENDED, [{"from_step": 20, "changed": {"train.steps": [2, 4]}}])
    read = lambda: [note.get("from_step") for note in workdir.extensions(folder)]  # noqa: E731
    return Case(folder / workdir.EXTENDED, read)


@kind("config.json, rebuilt from a checkpoint")
def rebuilt(folder: Path) -> Case:
    run = results.start(folder / "run", results.config_of("fgvc", "cub"))
    place = saved(run / "checkpoints", 4)

    def read():
        (run / "config.json").unlink(missing_ok=True)
        found = recorded.rebuilt(run)
        return found and sorted(found)

    return Case(place / "4" / "meta" / "metadata", read, named=("config.json", "metadata", "run"))


@kind("plan of a study")
def plan(folder: Path) -> Case:
    file = folder / "plan.json"
    configs.save(results.config_of("fgvc", "cub"), file)
    config = configs.load(file)
    found = types.SimpleNamespace(
        folder=folder,
        config=config,
        choice_path=folder / "choice.json",
        selection=[],
        choice=None,
    )
    return Case(file, lambda: tune.claim_folder(found), named=(file.name, str(folder)))


@kind("who holds the lock of a run")
def owner(folder: Path) -> Case:
    (folder / ".owner").write_text("4711")

    def read():
        with files.locked(folder / ".lock", wait=False):
            try:
                with files.lock_folder(folder):
                    raise AssertionError("two runs in one folder")
            except UserError as error:
                assert "in use by another run" in str(error)

    return Case(folder / ".owner", read)


def _adapter(damage: str):
    def made(folder: Path) -> Case:
        _, arrays = peft.adapter(folder, "lora_fused_qkv", bias="none")
        name, options = peft.KINDS["lora_fused_qkv"][1]
        lengths = peft.lengths_of(arrays)

        def read():
            found = peft_adapter.read(folder, name, options, lengths)[1]
            return sorted(found), sum(float(np.abs(a).sum()) for a in found.values()) and None

        return Case(folder / damage, read, named=(damage, str(folder)))

    return made


kind("adapter_config.json")(_adapter("adapter_config.json"))
kind("adapter_model.safetensors")(_adapter("adapter_model.safetensors"))


def _git(damage: str):
    def made(folder: Path) -> Case:
        (folder / "main.py").write_text("")
        (folder / ".git").mkdir()
        (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
        (folder / ".git" / "packed-refs").write_text(f"# pack\n{'ab' * 20} refs/heads/main\n")
        return Case(folder / ".git" / damage, lambda: len(provenance.commit(folder)))

    return made


kind("commit of a checkout, HEAD")(_git("HEAD"))
kind("commit of a checkout, packed-refs")(_git("packed-refs"))
