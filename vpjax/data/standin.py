"""The few parts of TensorFlow that TFDS needs to prepare image data sets.

TFDS reaches TensorFlow through one object that imports it on first use. While `standin()` is
active, that object holds a small namespace instead: files through the standard library, images
through Pillow. Nothing enters `sys.modules`, and prepared data are read without any of this.
Data prepared this way equal data prepared with TensorFlow in pixels, labels and order.
"""

import builtins
import contextlib
import functools
import glob
import io
import os
import shutil
import types

import numpy as np
from PIL import Image

from vpjax.core.errors import UserError
from vpjax.data import images
from vpjax.data.decoders import open_image
from vpjax.data.lazy import Lazy

tfds = Lazy("tensorflow_datasets")
lazy_imports_utils = Lazy("tensorflow_datasets.core.utils.lazy_imports_utils")

ERRORS = (
    "AbortedError",
    "FailedPreconditionError",
    "InvalidArgumentError",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnimplementedError",
)


class Namespace(types.SimpleNamespace):
    """A module-like namespace, whose errors name the member that is missing."""

    def __init__(self, path, /, **members):
        super().__init__(**members)
        self._path = path

    def __getattr__(self, name):
        raise AttributeError(f"this data set needs {self._path}.{name} to be prepared")


class Tensor:
    """Bytes or pixels, with the methods of a tensor that TFDS calls."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return np.array(self.value, dtype)

    def __getitem__(self, key):
        return Tensor(self.value[key])

    @property
    def shape(self):
        return np.shape(self.value)

    def numpy(self):
        return self.value

    def set_shape(self, shape):
        """Shapes of decoded images need no help here."""


@contextlib.contextmanager
def standin():
    """Let TFDS prepare data without TensorFlow, inside the `with` block.

    Raises: UserError if this version of TFDS reaches TensorFlow in another way.
    """
    lazy = getattr(lazy_imports_utils, "tensorflow", None)
    if not isinstance(getattr(type(lazy), "_module", None), functools.cached_property):
        raise UserError(
            f"tensorflow-datasets {tfds.__version__} reaches TensorFlow in a way unknown to vpjax, "
            "so data sets cannot be prepared without TensorFlow. Install TensorFlow, or "
            "tensorflow-datasets 4.9.10."
        )
    # The lazy module keeps what it imported under `_module`; putting the namespace there is all.
    before = lazy.__dict__.get("_module")
    lazy.__dict__["_module"] = namespace()
    try:
        yield
    finally:
        del lazy.__dict__["_module"]
        if before is not None:
            lazy.__dict__["_module"] = before


def namespace() -> Namespace:
    """Return the stand-in for the `tensorflow` module."""
    gfile = Namespace(
        "tensorflow.io.gfile",
        GFile=_open,
        exists=os.path.exists,
        isdir=os.path.isdir,
        listdir=lambda path: sorted(os.listdir(path)),
        glob=_glob,
        walk=_walk,
        makedirs=lambda path: os.makedirs(path, exist_ok=True),
        mkdir=os.mkdir,
        copy=_copy,
        rename=_rename,
        remove=os.remove,
        rmtree=shutil.rmtree,
        stat=os.stat,
    )
    return Namespace(
        "tensorflow",
        __version__="2.99.0",
        io=Namespace("tensorflow.io", gfile=gfile, encode_jpeg=_encode("JPEG")),
        image=Namespace(
            "tensorflow.image",
            encode_png=_encode("PNG"),
            encode_jpeg=_encode("JPEG"),
            decode_image=_decode,
            decode_png=_decode,
            decode_jpeg=_decode,
        ),
        compat=Namespace("tensorflow.compat", as_text=_as_text, as_bytes=_as_bytes),
        errors=Namespace("tensorflow.errors", **{e: type(e, (Exception,), {}) for e in ERRORS}),
        dtypes=Namespace("tensorflow.dtypes", as_dtype=np.dtype),
        executing_eagerly=lambda: True,
        shape=np.shape,
    )


def _open(path, mode="r"):
    # A real file object: scipy's reader of .mat files accepts nothing else.
    return builtins.open(path, mode, encoding=None if "b" in mode else "utf-8")


def _glob(patterns):
    patterns = [patterns] if isinstance(patterns, (str, os.PathLike)) else patterns
    return sorted(name for pattern in patterns for name in glob.glob(os.fspath(pattern)))


def _walk(top):
    for folder, folders, files in os.walk(top):
        folders.sort()  # in place, so that the walk itself is in order
        yield folder, folders, sorted(files)


def _copy(source, target, overwrite=False):
    _refuse_existing(target, overwrite)
    shutil.copyfile(source, target)


def _rename(source, target, overwrite=False):
    _refuse_existing(target, overwrite)
    os.replace(source, target)


def _refuse_existing(target, overwrite):
    if os.path.exists(target) and not overwrite:
        raise FileExistsError(f"{target} exists")


def _encode(kind):
    def encode(image, format=None, quality=95, **_):
        array = np.asarray(image)
        picture = Image.fromarray(array[:, :, 0] if array.shape[-1] == 1 else array)
        buffer = io.BytesIO()
        options = {"quality": quality} if kind == "JPEG" else {}
        picture.save(buffer, kind, **options)
        return Tensor(buffer.getvalue())

    return encode


def _decode(data, channels=None, dtype=None):
    if channels:
        # As TensorFlow does: transparency is dropped, not laid on anything.
        return Tensor(images.decode(data, channels, images.Decoding(background="none")))
    # As many channels as the file has: Pet's builder looks for a fourth and cuts it off.
    with open_image(data) as image:
        array = np.asarray(image.convert("RGB") if image.mode in ("P", "CMYK") else image)
    return Tensor(array if array.ndim == 3 else array[:, :, None])


def _as_text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def _as_bytes(value):
    return value if isinstance(value, bytes) else str(value).encode()
