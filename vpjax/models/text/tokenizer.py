"""CLIP's tokenizer: text to ids, by byte pairs, from files that come with the weights.

    tokenizer = open_tokenizer("/models/clip-vit-base-patch16")
    tokenizer(["a photo of a cat"])         1 77: start, tokens, end, zeros

transformers' CLIPTokenizer does the work. OpenAI's code repairs text first, which transformers
leaves out; `clean` does as much of it as names need.
"""

import html
import importlib.util
import itertools
import logging
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from vpjax.backbones.clip_variants import VARIANTS
from vpjax.core import unpack
from vpjax.core.errors import UserError
from vpjax.core.reading import read_bytes
from vpjax.models.text.tower import CONTEXT
from vpjax.weights.hub import cached, folder_of

log = logging.getLogger(__name__)

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 48_894  # pairs of OpenAI's table; the file has more lines than are used
BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
QUOTES = str.maketrans("\u2018\u2019\u201a\u201b\u02bc\u201c\u201d\u201e\u201f", "'''''\"\"\"\"")
SOURCES = f"""Give one of
    a folder with vocab.json and merges.txt, or with tokenizer.json, as beside CLIP's weights
    {BPE_FILE}, from OpenAI's CLIP, or a folder that holds it
    the package open_clip_torch, installed (pip install --no-deps open_clip_torch)
    the name of a model in the cache of the Hugging Face hub, such as {VARIANTS["B/16"].hub}"""


class Tokenizer:
    """Turns texts into rows of ids, zeros behind the end token."""

    def __init__(self, backend: Any, context: int = CONTEXT):
        """Wrap a CLIPTokenizer of transformers; rows have `context` ids.

        Raises: UserError if its vocabulary cannot be that of a CLIP.
        """
        self.backend, self.context = backend, context
        words = backend.get_vocab()
        # transformers makes a vocabulary of two words where it does not find its files.
        if len(words) < 256 or words.get(END) != max(words.values()) or START not in words:
            raise UserError(
                f"this tokenizer has {len(words)} tokens, the end token's id is {words.get(END)} "
                f"and the largest {max(words.values())}; CLIP's has 49,408, the end token last. "
                "The files are of another model, or damaged."
            )

    @property
    def vocab(self) -> int:
        """Number of ids that a text tower needs."""
        return max(self.backend.get_vocab().values()) + 1

    def __call__(self, texts: Sequence[str], truncate: bool = False) -> Int32[np.ndarray, "N T"]:
        """Return the ids of `texts`, zeros after the end token.

        With `truncate` a text that is too long is cut, and its last id becomes the end token.
        Raises: UserError for a text that is too long, without `truncate`.
        """
        out = np.zeros((len(texts), self.context), np.int32)
        if not len(texts):
            return out
        rows = self.backend([clean(t) for t in texts], padding=False, verbose=False)["input_ids"]
        for text, row, ids in zip(texts, out, rows, strict=True):
            if len(ids) > self.context:
                if not truncate:
                    raise UserError(
                        f"a text has {len(ids)} tokens, CLIP takes {self.context}: {text[:80]!r}. "
                        "Shorten it, or pass truncate=True."
                    )
                ids = [*ids[: self.context - 1], ids[-1]]
            row[: len(ids)] = ids
        return out


def clean(text: str) -> str:
    """Resolve HTML entities, makes quotes straight and each run of white space one blank.

    OpenAI's code repairs more by ftfy: mojibake, ligatures, full-width letters and control
    characters stay here as they are.
    """
    text = html.unescape(html.unescape(text)).translate(QUOTES)
    return re.sub(r"\s+", " ", text).strip()


def open_tokenizer(where: str = "", context: int = CONTEXT) -> Tokenizer:
    """Return CLIP's tokenizer from files in `where`, or else elsewhere on this machine.

    Args:
        where: a folder, the file of merges, a file of weights beside the tokenizer's files, or a
            name of the Hugging Face hub; "": search only elsewhere.
        context: number of ids the text tower takes.

    Raises:
        UserError: if there is no tokenizer, or its files are damaged.
    """
    path = Path(where).expanduser()
    if where and path.is_file() and path.name.endswith((".txt", ".txt.gz")):
        return Tokenizer(from_file(path), context)
    folder = folder_of(where) if where else None
    for place in itertools.chain([folder] if folder else [], elsewhere()):
        if (backend := from_folder(place)) is not None:
            if place != folder:
                log.debug("tokenizer from %s", place)
            return Tokenizer(backend, context)
    raise UserError(f"no CLIP tokenizer {f'in {where}' if where else 'on this machine'}. {SOURCES}")


def elsewhere() -> Iterable[Path]:
    """Yield other folders on this machine that may hold CLIP's files, which are all the same."""
    # Without importing the package, which would import torch.
    spec = importlib.util.find_spec("open_clip")
    yield from map(Path, (spec.submodule_search_locations or ()) if spec else ())
    yield from filter(None, (cached(v.hub) for v in VARIANTS.values()))


def from_folder(folder: Path) -> Any | None:
    """Return the CLIPTokenizer of a folder; None if there are no files of one.

    Raises: UserError if its files are damaged.
    """
    has = lambda *files: all((folder / f).is_file() for f in files)  # noqa: E731
    if has("vocab.json", "merges.txt") or has("tokenizer.json"):
        try:
            return clip_tokenizer().from_pretrained(str(folder))
        except UserError:
            raise
        except Exception as e:  # of the tokenizers library, which raises plain Exception
            raise UserError(f"the tokenizer files in {folder} cannot be read: {e}") from e
    return from_file(folder / BPE_FILE) if has(BPE_FILE) else None


def from_file(path: Path) -> Any:
    """Return a CLIPTokenizer of OpenAI's table of merges. Raise: UserError if it is damaged."""
    merges = read_merges(path)
    try:
        return from_merges(merges)
    except UserError:
        raise
    except Exception as e:  # of the tokenizers library, as above
        raise UserError(f"{path} is damaged: {e}. Copy or download it again.") from e


def from_merges(merges: Sequence[str], vocab: Mapping[str, int] | None = None) -> Any:
    """Return a CLIPTokenizer of merges such as "i n", by rank.

    `vocab` maps tokens to ids; None: that of a whole table, see `vocabulary`.
    """
    words = dict(vocab or vocabulary(merges))
    return clip_tokenizer()(vocab=words, merges=[tuple(m.split(" ")) for m in merges])


def read_merges(path: Path) -> list[str]:
    """Read OpenAI's table of merges, with or without its first line, a comment.

    Raises: UserError if it cannot be read or is too short.
    """
    try:
        data = read_bytes(path)
        text = (unpack.gunzip(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise UserError(f"{path} cannot be read: {e}. Copy or download it again.") from e
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    lines = lines[1:] if lines and "#version" in lines[0] else lines
    if len(lines) < MERGES or any(len(m.split(" ")) != 2 for m in lines[:MERGES]):
        raise UserError(
            f"{path} is not a table of CLIP's merges: expected {MERGES:,} lines of two tokens, "
            f"found {len(lines):,} lines. {SOURCES}"
        )
    return lines[:MERGES]


def vocabulary(merges: Sequence[str]) -> dict[str, int]:
    """Return the id of every token: bytes, bytes that end a word, merges by rank, start and end.

    Printable bytes come first, as themselves; the others are letters from 256 on.
    """
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = range(256, 512 - len(prints))
    letters = [*map(chr, prints), *map(chr, others)]
    words = [*letters, *(f"{c}</w>" for c in letters), *(m.replace(" ", "") for m in merges)]
    return {word: i for i, word in enumerate([*words, START, END])}


def clip_tokenizer() -> Any:
    """Import transformers' CLIPTokenizer without its notice that torch is missing."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from transformers import CLIPTokenizer
    finally:
        logger.setLevel(level)
    return CLIPTokenizer
