"""Prepares TFDS data sets: `python main.py prepare-data cifar10 --data_dir DIR`.

TFDS downloads the archives, checks them and writes array_record files; without TensorFlow through
the stand-in of `standin.py`. Archives that lie in the manual folder under their registered names,
such as cifar-10-binary.tar.gz, are used instead of a download, so this works offline too.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.util
import os
import re
import sys
from pathlib import Path

from vpjax.core import leftovers
from vpjax.core.errors import UserError
from vpjax.data import names, standin
from vpjax.data import tfds as prepared
from vpjax.data.lazy import Lazy

requests = Lazy("requests")  # as TFDS does, which then downloads
tfds = Lazy("tensorflow_datasets")

# What a data set's builder needs beyond TFDS: package, and the extra of vpjax that brings it.
TENSORFLOW, H5PY, OPENCV = ("tensorflow", "tensorflow"), ("h5py", "prepare"), ("cv2", "prepare")
NEEDS = {
    "dmlab": (TENSORFLOW,),
    "sun397": (TENSORFLOW, OPENCV),
    "patch_camelyon": (H5PY,),
    "dsprites": (H5PY,),
    "kitti": (OPENCV,),
    "caltech_birds2011": (OPENCV,),
    "diabetic_retinopathy_detection": (OPENCV,),
}

# Data sets whose own files are read without preparing them, see `vpjax.data.open`.
READ_AS_PUBLISHED = {"mnist": "idx", "fashion_mnist": "idx", "emnist": "idx", "kmnist": "idx"}
READ_AS_PUBLISHED |= {"cifar10": "cifar", "cifar100": "cifar"}


def prepare(
    name: str,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    backend: str = "auto",
    accept_copies: bool = False,
) -> Path:
    """Prepares a data set, unless it is prepared already.

    Args:
        name: such as "cifar10", "cifar10:3.0.2" or "eurosat/rgb".
        data_dir: folder of prepared data sets, see `vpjax.data.tfds.root`.
        manual_dir: folder of archives fetched by hand, by default `<data_dir>/downloads/manual`.
        backend: "tensorflow", "standin", or "auto" for TensorFlow where it is installed.
        accept_copies: whether archives in the manual folder are taken as they are, although they
            differ from the published ones.

    Returns:
        The data set's folder.

    Raises:
        UserError: for an unknown name, config or version, or if preparing fails; the message then
            names the command and the archives.
    """
    wanted = prepared.parse(name)
    if wanted.name == "digits":
        raise UserError(f"{name} comes with vpjax: it can be opened without preparing it.")
    if folder := prepared.find(name, data_dir):
        return folder
    root = prepared.root(data_dir)
    manual = Path(manual_dir).expanduser() if manual_dir else root / "downloads" / "manual"
    builder = _builder(wanted, root)
    _check_packages(wanted.name, _command(name, root), backend)
    if missing := _unreachable(builder, root, manual):
        raise UserError(_advice(name, builder, root, manual, missing))
    if accept_copies:
        _register(builder, manual)
    leftovers.clean(root.glob(f"{wanted.name}/**/"), patterns=("incomplete.*",))
    if backend == "auto":
        backend = "tensorflow" if importlib.util.find_spec("tensorflow") else "standin"
    print(f"preparing {builder.info.full_name} in {root} (backend: {backend})", file=sys.stderr)
    config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
    try:
        with _backend(backend):
            builder.download_and_prepare(download_config=config, file_format="array_record")
    except UserError:
        raise
    except Exception as error:  # a builder may fail in any way: network, archive, its own code
        if folder := prepared.find(name, data_dir):
            return folder  # another process prepared it meanwhile
        if "has wrong checksum" in str(error):
            raise UserError(_other_copy(name, builder, root, manual, str(error))) from error
        raise UserError(_advice(name, builder, root, manual, _first_line(error))) from error
    return Path(builder.data_dir)


def _register(builder, manual):
    """Take the files of the manual folder for the published ones, in this process."""
    for url, file in _archives(builder).items():
        if (path := manual / file).exists():
            with open(path, "rb") as content:
                checksum = hashlib.file_digest(content, "sha256").hexdigest()
            known = builder.url_infos[url]
            size = type(known.size)(path.stat().st_size)
            builder.url_infos[url] = dataclasses.replace(known, size=size, checksum=checksum)


def _other_copy(name, builder, root, manual, text):
    """Say which file is not the published one, what was expected, and how to take it anyway."""
    sums = re.findall(r"(Expected|Got): .*?checksum='(\w+)'", text)
    url = text.partition("Artifact ")[2].partition(", downloaded to ")[0]
    said = text.partition(", downloaded to ")[2].partition(", has wrong")[0]
    file = _archives(builder).get(url)
    here = manual / file if file and (manual / file).exists() else Path(said)
    lines = [
        f"{here} has a wrong checksum: it is not the file that {builder.info.full_name} names."
    ]
    lines += [f"  {'expected' if kind == 'Expected' else 'found':8}  {sum_}" for kind, sum_ in sums]
    lines += [
        f"It may be damaged or half downloaded: fetch it again from {url}.",
        "If it is another copy, such as one packed anew, and you trust it, put it into "
        f"{manual} as {file or here.name} and run",
        f"  {_command(name, root)} --manual_dir {manual} --accept_copies",
    ]
    if kind := READ_AS_PUBLISHED.get(builder.name):
        lines.append(
            f"Or read the unpacked files where they are: --config.data.name={kind}:FOLDER."
        )
    return "\n".join(lines)


def _command(name, root):
    return f"python main.py prepare-data {name} --data_dir {root}"


def _check_packages(name, command, backend):
    """Raise a UserError of one line if a package is missing, before gigabytes are downloaded."""
    absent = [n for n in NEEDS.get(name, ()) if not importlib.util.find_spec(n[0])]
    if backend == "standin" and TENSORFLOW in NEEDS.get(name, ()):
        raise UserError(f"{name} can only be prepared with TensorFlow, not with the stand-in.")
    if absent:
        packages = " and ".join(package for package, _ in absent)
        extras = ",".join(sorted({extra for _, extra in absent}))
        raise UserError(
            f"{name} is not prepared, and preparing it needs {packages}: "
            f"pip install 'vpjax[{extras}]', then {command}"
        )


def _backend(name):
    if name == "standin":
        return standin.standin()
    if name == "tensorflow":
        return contextlib.nullcontext()
    raise UserError(f"unknown backend {name!r}. Choose auto, tensorflow or standin.")


def known_names() -> list[str]:
    """Return the names of all data sets that may be prepared, and what papers call them."""
    return [*tfds.list_builders(with_community_datasets=False), "digits", *names.others()]


def _builder(wanted, root):
    """Return TFDS's builder of a data set that is not prepared."""
    try:
        builder_class = tfds.builder_cls(wanted.name)
    except tfds.core.registered.DatasetNotFoundError as error:
        if (root / wanted.name).is_dir():
            held = sorted(f.parent.relative_to(root) for f in _descriptions(root / wanted.name))
            raise UserError(
                f"{wanted} is not in {root}, which holds {', '.join(map(str, held)) or 'nothing'} "
                "of that name."
            ) from error
        known = known_names()
        near = difflib.get_close_matches(wanted.name, known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise UserError(
            f"unknown data set {wanted.name!r}.{hint} It is none of the {len(known)} TFDS data "
            f"sets, and {root} has no folder of that name."
        ) from error
    configs = [config.name for config in builder_class.BUILDER_CONFIGS]
    if wanted.config and wanted.config not in configs:
        near = f" Its configs: {', '.join(configs)}." if configs else " It has no configs."
        raise UserError(f"{wanted.name} has no config {wanted.config!r}.{near}")
    try:
        return builder_class(
            data_dir=os.fspath(root),
            config=wanted.config,
            version=wanted.version,
            file_format="array_record",
        )
    except Exception as error:  # old versions, missing packages, builders broken in a release
        have = ", ".join(_versions_on_disk(wanted, root)) or "none"
        raise UserError(
            f"{wanted} cannot be prepared by tensorflow-datasets {tfds.__version__}: "
            f"{_first_line(error)}. Its version there: {builder_class.VERSION}; "
            f"prepared in {root}: {have}."
        ) from error


def _first_line(error):
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")


def _descriptions(folder):
    return [*folder.glob("*/dataset_info.json"), *folder.glob("*/*/dataset_info.json")]


def _versions_on_disk(wanted, root):
    folder = root / wanted.name / (wanted.config or "")
    return prepared.versions(folder) if folder.is_dir() else []


def _archives(builder):
    """Return the registered archives of a data set: file name by URL."""
    infos = builder.url_infos or {}
    return {url: info.filename or url.rsplit("/", 1)[-1] for url, info in infos.items()}


def _unreachable(builder, root, manual):
    """Return why a download will fail, or None. TFDS would retry for minutes before saying so."""
    absent = [url for url, file in _archives(builder).items() if not (manual / file).exists()]
    # Archives fetched earlier lie here under names that TFDS makes up.
    downloaded = root / "downloads" / builder.name
    if not absent or downloaded.is_dir() or not absent[0].startswith("http"):
        return None
    try:
        requests.head(absent[0], timeout=20, allow_redirects=True)
    except (requests.ConnectionError, requests.Timeout):
        return f"no connection to {absent[0].split('/')[2]}"
    return None


def _advice(name, builder, root, manual, reason):
    """Say what failed, which command prepares the data, and which files it needs."""
    files = _archives(builder)
    lines = [
        f"{builder.info.full_name} is not prepared in {root}, and preparing it failed: {reason}.",
        "With a network connection, run",
        f"  {_command(name, root)} --manual_dir {manual}",
    ]
    if files:
        lines.append(f"Without one, put these files into {manual} first:")
        lines += [f"  {file}  (from {url})" for url, file in list(files.items())[:10]]
        if len(files) > 10:
            lines.append(f"  and {len(files) - 10} more")
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        lines += ["This data set has to be fetched by hand:", builder.MANUAL_DOWNLOAD_INSTRUCTIONS]
    return "\n".join(lines)
