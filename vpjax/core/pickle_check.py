"""Looks through a pickle before it is loaded: nothing in it may take memory or time without end.

    check(stream, size)    raises `Refused`, and leaves the stream where it was

A pickle is a program for a small machine. A few bytes of it can ask for a table of 2 ** 31 places,
announce a text of terabytes, or build a tuple that holds itself a billion times over, which hashing
or printing goes through in full. The program is followed here without building anything: for each
thing on the stack only how many parts it has, each as often as it is met.
"""

import pickletools
from typing import Any, BinaryIO

STEPS = 2_000_000  # of the program; a training state of ten thousand arrays has a tenth of it
PARTS = 1_000_000  # of all that is hashed, and of one tuple
CLASSES = 10_000  # names of classes and functions


class Refused(ValueError):
    """The pickle is damaged, or would take memory or time without end."""


class Bounded:
    """A stream of bytes that never asks for more than is there.

    Args:
        stream: to read from.
        size: bytes of the file.
    """

    def __init__(self, stream: BinaryIO, size: int):
        self._stream, self._size = stream, size

    def read(self, count: int = -1) -> bytes:
        """Read `count` bytes; raise `Refused` if there are not as many."""
        if count > self._size - self._stream.tell():
            raise Refused(f"it announces {count:,} bytes, and ends before")
        return self._stream.read(count)

    def readinto(self, buffer: Any) -> int:
        """Read as many bytes as the buffer takes."""
        data = self.read(len(buffer))
        buffer[:] = data
        return len(data)

    def readline(self) -> bytes:
        """Read a line."""
        return self._stream.readline()

    def tell(self) -> int:
        """Return the place in the stream."""
        return self._stream.tell()


def check(stream: BinaryIO, size: int) -> None:
    """Follow the pickle that begins here; the stream is left where it was.

    Args:
        stream: of a file.
        size: bytes of the file.

    Raises:
        Refused: if it is damaged, or would take memory or time without end.
    """
    begin = stream.tell()
    machine = _Machine()
    try:
        for steps, (code, argument, _) in enumerate(pickletools.genops(Bounded(stream, size))):
            if steps > STEPS:
                raise Refused(f"it has more than {STEPS:,} steps")
            machine.step(code, argument, size)
    except Refused:
        raise
    except (ValueError, IndexError, KeyError, EOFError) as error:
        raise Refused(f"it is damaged: {error}") from error
    finally:
        stream.seek(begin)


class _Thing:
    """Something on the stack: how many parts it has when all of it is gone through."""

    __slots__ = ("parts",)

    def __init__(self, parts: int = 1):
        self.parts = parts


_MARK = _Thing(0)


class _Machine:
    """The stack and the memory of a pickle, with `_Thing`s in the place of values."""

    def __init__(self):
        self.stack: list[_Thing] = []
        self.memory: dict[int, _Thing] = {}
        self.hashed = self.classes = 0

    def step(self, code: Any, argument: Any, size: int) -> None:
        name = code.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(self.memory) if name == "MEMOIZE" else int(argument)
            if place > size:
                raise Refused(f"it asks for a table of {place:,} places")
            self.memory[place] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memory[int(argument)])
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        elif name == "POP_MARK":
            self._to_mark()
        else:
            self._other(code, name)

    def _other(self, code, name):
        if name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            self.classes += 1
            if self.classes > CLASSES:
                raise Refused(f"it names more than {CLASSES:,} classes")
        taken = self._taken(code)
        if name in ("SETITEM", "SETITEMS", "DICT"):  # the table, then key, value, key, value
            first = 0 if name == "DICT" else 1
            self._hash(taken[first::2])
        elif name in ("ADDITEMS", "FROZENSET"):
            self._hash(taken[1:] if name == "ADDITEMS" else taken)
        if name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS", "ADDITEMS"):
            taken[0].parts += sum(t.parts for t in taken[1:])
            self.stack.append(taken[0])
            self._bound(taken[0])
        elif name == "BUILD":
            taken[0].parts += taken[1].parts
            self.stack.append(taken[0])
            self._bound(taken[0])
        else:
            for _ in code.stack_after:
                made = _Thing(1 + sum(t.parts for t in taken))
                self._bound(made)
                self.stack.append(made)

    def _taken(self, code):
        """Take from the stack what a step takes."""
        before = [kind.name for kind in code.stack_before]
        if "mark" in before:
            inside = self._to_mark()
            return [self.stack.pop() for _ in before[: before.index("mark")]][::-1] + inside
        return [self.stack.pop() for _ in before][::-1]

    def _to_mark(self):
        out = []
        while (thing := self.stack.pop()) is not _MARK:
            out.append(thing)
        return out[::-1]

    def _hash(self, keys):
        self.hashed += sum(key.parts for key in keys)
        if self.hashed > PARTS:
            raise Refused("its keys are nested without end")

    def _bound(self, thing):
        if thing.parts > 5 * PARTS:
            raise Refused("it holds itself over and over")
