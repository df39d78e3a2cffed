"""Every benchmark of this machine, one after the other, then the tables and goals of the page.

    python -m benchmarks.all                     # CPU: 45 minutes on 2 cores; GPU: 8 at most
    python -m benchmarks.all --only "peer|floors"
    python -m benchmarks.all --only none         # nothing is run: tables again from what is there
    python -m benchmarks.all --quick             # a rehearsal, tiny, that writes nothing lasting

Parts are those of `benchmarks.parts`, each in a fresh process. One that fails is told and the rest
goes on; so is one that needs a package which is not here. When the time is up, what runs is stopped
and what is left is left out: `--minutes` says when. The exit status is 1 if a part did not come
through; a goal that is missed does not change it.

A part writes PART_DEVICE.json and .md into `--folder`. Tables and goals are made of all records of
the device that are there, earlier ones too; they go into `docs/performance.md` and to the screen.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import goals, page, peer_report
from benchmarks.parts import PARTS, Part

HOME = Path(__file__).resolve().parents[1]
RESULTS, PAGE = HOME / "benchmarks" / "results", HOME / "docs" / "performance.md"
MINUTES = {"cpu": 60.0, "gpu": 8.0}
PROBE = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind, sep='|')"


def main(argv: Sequence[str]) -> int:
    """Runs the parts, prints and writes what came of them; returns the exit status."""
    given = parser().parse_args(argv)
    device = find_device()
    platform = device.partition(" ")[0]
    end = time.monotonic() + 60 * (given.minutes or MINUTES[platform])
    kind = "quick" if given.quick else platform
    parts = [part for part in PARTS if re.search(given.only, part.name) and kind in part.options]
    with tempfile.TemporaryDirectory() as rehearsal:
        folder = Path(rehearsal) if given.quick else given.folder
        failed = run(parts, kind, folder, device, end)
        publish(folder, device, Path(rehearsal) / "page.md" if given.quick else given.page)
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    out = argparse.ArgumentParser(prog="benchmarks.all", description=__doc__.split("\n")[0])
    add = out.add_argument
    add("--only", default="", help=f"regular expression; parts: {', '.join(p.name for p in PARTS)}")
    add("--quick", action="store_true", help="a rehearsal of every part, in a few minutes")
    add("--minutes", type=float, default=0, help="when to stop; 0: 60 on a CPU, 8 on a GPU")
    add("--folder", type=Path, default=RESULTS, help="where results go and are found")
    add("--page", type=Path, default=PAGE, help="page whose tables are filled")
    return out


def find_device() -> str:
    """Return "cpu", or "gpu" and its kind. JAX is asked in a process of its own.

    A process that has asked holds memory of a GPU, and the parts need it.
    """
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd=HOME)
    if done.returncode:
        raise SystemExit(f"JAX finds no device: {last_line(done.stderr)}")
    platform, kind = done.stdout.strip().splitlines()[-1].split("|")
    return "cpu" if platform == "cpu" else f"gpu {kind}"


def slug(device: str) -> str:
    """Return the device as part of a file's name: "cpu", "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", device.removeprefix("gpu ").lower()).strip("-")


def path_of(folder: Path, name: str, device: str) -> Path:
    """Return where the record of a part is."""
    return folder / f"{name}_{slug(device)}.json"


def run(parts: Sequence[Part], kind: str, folder: Path, device: str, end: float) -> list[str]:
    """Runs parts until the time is up, says how far it is; returns what did not come through."""
    failed, begin, expected = [], time.monotonic(), 0.0
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(parts):
        left = sum(p.minutes[kind] for p in parts[i:])
        # Once parts are done, what they took says how fast this machine is.
        pace = (time.monotonic() - begin) / 60 / expected if expected else 1.0
        print(f"\n[{i + 1}/{len(parts)}] {part.name}; {pace * left:.1f} min left", flush=True)
        start = time.monotonic()
        missing = [name for name in part.needs if importlib.util.find_spec(name) is None]
        if missing:
            print(f"{part.name}: skipped, as {', '.join(missing)} is not installed", flush=True)
            continue
        why = call(part, kind, path_of(folder, part.name, device), end)
        expected += part.minutes[kind]
        took = f"{time.monotonic() - start:.0f} s"
        print(f"{part.name}: {f'FAILED after {took}: {why}' if why else took}", flush=True)
        failed += [f"{part.name}: {why}"] if why else []
    if failed:
        print("\nDid not come through:\n" + "\n".join(f"  {line}" for line in failed), flush=True)
    return failed


def call(part: Part, kind: str, out: Path, end: float) -> str:
    """Runs a part in a process of its own, its output shown; returns why it failed, or ""."""
    seconds = end - time.monotonic()
    if seconds <= 0:
        return "left out, the time is up"
    command = [sys.executable, "-m", part.module, *part.options[kind], "--out", str(out)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    late, last = threading.Event(), ""
    # A session of its own, so that processes a part starts end with it.
    with subprocess.Popen(command, cwd=HOME, start_new_session=True, **pipes) as child:

        def stop() -> None:
            late.set()
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, stop)
        timer.start()
        for line in child.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
        status = child.wait()
        timer.cancel()
    if late.is_set():
        return "stopped, the time is up"
    return f"exit status {status}: {last}" if status else ""


def last_line(text: str) -> str:
    """Return what an error ends with."""
    return (text.strip().splitlines() or ["no message"])[-1]


def collect(folder: Path, device: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the device's records by part, and the Markdown beside each, without its heading."""
    paths = {part.name: path_of(folder, part.name, device) for part in PARTS}
    paths = {name: path for name, path in paths.items() if path.exists()}
    texts = {}
    for name, path in paths.items():
        lines = path.with_suffix(".md").read_text(encoding="utf-8").splitlines()
        texts[name] = "\n".join(line for line in lines if not line.startswith("# ")).strip()
    return {name: json.loads(path.read_text()) for name, path in paths.items()}, texts


def publish(folder: Path, device: str, target: Path) -> None:
    """Prints goals and races, and fills the page."""
    results, texts = collect(folder, device)
    contents = tables(results, texts, device)
    for name in ("peer", "goals"):
        if name in contents:
            print(f"\n{contents[name]}", flush=True)
    if "peer" in contents and target.exists():
        picture = target.with_name(f"{target.stem}-{slug(device)}.png")
        try:
            peer_report.plot(goals.rows(results), picture)
            contents["plot"] = f"![Times as fast as PyTorch]({picture.name})"
        except ImportError:
            print("no picture without matplotlib", flush=True)
    end = "" if device == "cpu" else "-gpu"
    missing = page.fill(target, {f"{name}{end}": text for name, text in contents.items()})
    if missing and target.exists():
        print(f"{target.name} has no markers for: {', '.join(missing)}", flush=True)


def tables(results: dict[str, Any], texts: dict[str, str], device: str) -> dict[str, str]:
    """Return what goes between the markers of the page, by name."""
    out = {"goals": goals.report(results, device)}
    rows = goals.rows(results)
    if rows:
        first = next(record for record in results.values() if "left_out" in record)
        versions = ", ".join(f"{name} {v}" for name, v in first["versions"].items())
        where = f"{first['date']}, {first['device']}, {versions}"
        out["peer"] = f"{where}\n\n{peer_report.report(rows)}"
    for part in PARTS:
        if part.table and part.name in texts:
            before = f"{out[part.table]}\n\n" if part.table in out else ""
            out[part.table] = before + texts[part.name]
    return out


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
