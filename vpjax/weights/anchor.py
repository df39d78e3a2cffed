"""Finds the backbone inside a file: what stands in front of the names that a format knows.

    state_dict/module.backbone.blocks.0.attn.qkv.weight
    ^ the prefix, whatever it is      ^ the anchor: a name that every file of the format has

Wrappers of training scripts, of torch.compile, Lightning or flax.optim need no list: everything in
front of an anchor is a prefix. Several prefixes are several copies of the backbone. Then published
practice decides where there is one: averaged weights and teachers before what they average, as timm
and DINO take them; online encoders before their momentum encoders, as MoCo takes them; never an
optimiser's moments. Where nothing decides, the user must: FILE#PREFIX.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Sequence

from vpjax.core.errors import UserError

MARK = "#"  # in front of the part of a file to take: FILE#state_dict_ema
# Words of prefixes, in the order in which they decide; True loses against False.
OPTIMISER = {"opt", "optim", "optimizer", "optimizers", "optimiser", "mu", "nu", "exp", "trace"}
OTHER_PARTS = {"decoder", "predictor", "text", "txt", "language"}
LAGGING = {"momentum", "k", "m"}  # copies of contrastive learning that are not published
AVERAGED = {"ema", "averaged", "average", "swa", "teacher", "online"}
TARGET_TREE = "opt/target/"  # where flax.optim keeps the parameters


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Which arrays of a file are taken.

    Attributes:
        prefix: what stands in front of the names, such as "state_dict/module."; "" for nothing.
        names: the taken names in the file, each with the name behind the prefix.
        left_out: all other names; a tree of which nothing is taken by its name only ("opt/").
        rivals: prefixes of other copies of the backbone, which were not taken.
    """

    prefix: str
    names: dict[str, str]
    left_out: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return what was taken, for a log; "" if there was nothing to choose or strip."""
        if not self.prefix and not self.rivals:
            return ""
        taken = f"took {self.prefix.rstrip('./') or 'what has no prefix'!r}"
        if not self.rivals:
            return taken
        others = ", ".join(repr(r.rstrip("./") or "no prefix") for r in self.rivals)
        return f"{taken}, not {others}"


def choose(
    names: Collection[str],
    recognisers: Iterable[object],
    part: str = "",
    where: object = "the file",
) -> Chosen:
    """Find the backbone among all names of a file.

    Args:
        names: all names in the file, keys of nested trees joined by "/".
        recognisers: format modules. `ANCHOR` of each is a regular expression of a name that its
            files always have; modules without one do not count.
        part: the prefix that the user asks for, whole or its beginning; "": the best.
        where: the file, for messages.

    Returns:
        What is taken: all names behind one prefix. Everything, if no anchor is found.

    Raises:
        UserError: if nothing decides between two copies, or there is no such part.
    """
    anchors = [f.ANCHOR for f in recognisers if getattr(f, "ANCHOR", None)]
    found = candidates(names, anchors)
    if part:
        found = [p for p in found if is_part(p, part)] or _literal(names, part, found, where)
    if not found:
        return Chosen("", {n: n for n in names})
    best = min(map(_rank, found))
    prefix, *equal = [p for p in found if _rank(p) == best]
    if equal:
        listed = "\n    ".join(f"{where}{MARK}{p.rstrip('./')}" for p in (prefix, *equal))
        raise UserError(
            f"weights {where} hold {1 + len(equal)} backbones, and nothing says which one is "
            f"meant. Give one of\n    {listed}"
        )
    taken = {n: n[len(prefix) :] for n in names if n.startswith(prefix)}
    rivals = tuple(p for p in found if p != prefix)
    return Chosen(prefix, taken, left_out(names, prefix), rivals)


def candidates(names: Collection[str], anchors: Sequence[str]) -> list[str]:
    """Return what stands in front of anchors, in the order of names, the outermost of nested ones.

    A part of another backbone is none: the ResNet inside a hybrid belongs to the hybrid.
    """
    pattern = re.compile(rf"((?:.*?[./])??)(?:{'|'.join(anchors)})") if anchors else None
    found = dict.fromkeys(m[1] for n in names if pattern and (m := pattern.fullmatch(n)))
    return [p for p in found if not any(p != o and p.startswith(o) for o in found)]


def is_part(prefix: str, part: str) -> bool:
    """Return whether `part`, as a user writes it, is a prefix or its beginning."""
    part = part.rstrip("./")
    return prefix.startswith(part) and prefix[len(part) : len(part) + 1] in ("", ".", "/")


def left_out(names: Collection[str], prefix: str) -> tuple[str, ...]:
    """Return the names that do not begin with `prefix`; of a tree beside it only the tree's."""
    out = {}
    for name in names:
        if name.startswith(prefix):
            continue
        parts, place = name.split("/"), ""
        while len(parts) > 1 and prefix.startswith(f"{place}{parts[0]}/"):
            place += parts.pop(0) + "/"
        out[f"{place}{parts[0]}/" if len(parts) > 1 else name] = None
    return tuple(out)


def split(where: str) -> tuple[str, str]:
    """Split FILE#PART; PART is "" where nothing is asked for."""
    file, _, part = where.partition(MARK)
    return file, part


def _literal(names: Collection[str], part: str, found: Sequence[str], where: object) -> list[str]:
    """Return the prefix that `part` is, where no known backbone lies behind it."""
    for end in ("/", "."):
        prefix = part.rstrip("./") + end
        if any(n.startswith(prefix) for n in names):
            return [prefix]
    tops = dict.fromkeys(re.split("[./]", n)[0] for n in names)
    known = [p.rstrip("./") for p in found if p] or list(tops)[:8]
    raise UserError(f"weights {where} have no part {part!r}. They have: {', '.join(known)}.")


def _rank(prefix: str) -> tuple[bool, ...]:
    words = set(re.findall("[a-z0-9]+", prefix.lower().replace(TARGET_TREE, "")))
    return (
        bool(words & OPTIMISER),
        bool(words & OTHER_PARTS),
        bool(words & LAGGING),
        not words & AVERAGED,
        "target" not in words,
        "student" in words,
    )
