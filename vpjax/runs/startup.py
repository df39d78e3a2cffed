"""The time before a run's first training step is done, by part.

first step after 8.9 s: imports 2.0, model 1.9, data 0.7, open 0.3, compile 1.5, step 2.5

imports   from the start of the process: Python, JAX and this library, the command line
model     building it, loading or initialising its weights, placing them on the devices
data      opening the splits, reading or decoding what stays in memory, the first batch
choice    measuring attention and remat, where the config asks for it
open      the run's folder: log, table of parameters, checkpoints, the one it resumes from
compile   tracing the step, and compiling it or reading it from the cache
step      the first step itself
"""

import os
import time
from pathlib import Path

BEGIN = time.monotonic()  # import of this library, for systems without /proc


class Startup:
    """A stopwatch: every `record` adds the seconds since the one before to a part.

    Args:
        age: seconds that have passed already.

    Attributes:
        earlier: seconds of the processes that a run goes on from, up to what they saved last.
    """

    def __init__(self, age: float = 0.0):
        self.begin = self.last = time.monotonic() - age
        self.earlier = 0.0
        self.parts: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Seconds of the run so far, those of earlier processes that it goes on from included."""
        return round(self.earlier + time.monotonic() - self.begin, 2)

    def record(self, part: str) -> None:
        """Add the seconds since the last record to `part`."""
        now = time.monotonic()
        self.parts[part] = self.parts.get(part, 0.0) + now - self.last
        self.last = now

    def facts(self) -> dict[str, float]:
        """Return the seconds of every part, and their "total"."""
        found = self.parts | {"total": sum(self.parts.values())}
        return {part: round(seconds, 3) for part, seconds in found.items()}

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.parts.items())
        return f"first step after {sum(self.parts.values()):.1f} s: {parts}"


def since_process_start() -> Startup:
    """Return a stopwatch that runs since this process began, with "imports" recorded."""
    startup = Startup(process_age())
    startup.record("imports")
    return startup


def process_age() -> float:
    """Return the seconds since this process began; on other systems than Linux, since `BEGIN`."""
    try:
        # Read behind the name, which may have spaces. The 22nd field is in clock ticks since boot.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - BEGIN
