"""What a machine lacks is said in a sentence with advice; bugs keep their traceback."""

import errno

import pytest

from tests.helpers.runs import command
from vpjax.core.errors import Diverged, UserError
from vpjax.core.troubles import explain, explained

CASES = [
    (MemoryError(), "config.train.batch_size"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), "config.remat=full"),
    (RuntimeError("std::bad_alloc"), "out of memory"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "config.dtype=bfloat16"),
    (OSError(errno.ENOSPC, "No space left on device", "runs/a/log.txt"), "runs/a/log.txt"),
    (ValueError("UNKNOWN: Error writing: No space left on device [os_error]"), "disk is full"),
    (OSError(errno.EFBIG, "File too large"), "disk is full"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "what was saved before is as it was"),
    (RuntimeError("can't start new thread"), "ulimit -u"),
    (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
    (RuntimeError("Unable to initialize backend 'cuda': no device"), "JAX_PLATFORMS=cpu"),
    (OSError(errno.EMFILE, "Too many open files", "a.png"), "ulimit -n"),
    (OSError(errno.EIO, "Input/output error", "a.png"), "the disk reports an error"),
    (OSError(errno.EROFS, "Read-only file system", "runs"), "Give another folder"),
    (PermissionError(errno.EACCES, "Permission denied", "runs/a"), "permissions"),
    (TimeoutError("no answer"), "does not answer"),
]


@pytest.mark.parametrize(("error", "advice"), CASES, ids=lambda case: type(case).__name__)
def test_troubles_of_the_machine(error, advice):
    assert advice in explain(error)
    with pytest.raises(UserError) as found, explained():
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("a library says it in other words") from cause
    assert advice in str(found.value)


@pytest.mark.parametrize("error", [KeyError("a"), ValueError("no"), FileNotFoundError(2, "no")])
def test_a_bug_is_no_trouble_of_the_machine(error):
    assert explain(error) is None
    with pytest.raises(type(error)), explained():
        raise error


def test_what_is_said_already_stays():
    with pytest.raises(Diverged, match="as it is"), explained():
        raise Diverged("as it is")


@pytest.mark.parametrize(("error", "advice"), CASES[:4] + CASES[8:9], ids=str)
def test_a_command_ends_in_one_line(monkeypatch, tmp_path, error, advice):
    def run(arguments):
        raise error

    monkeypatch.setattr("vpjax.cli.report.run", run)
    done = command("report", f"--workdir={tmp_path}")
    assert done.returncode == 2 and advice in done.stderr_text
    assert len(done.stderr_text.splitlines()) == 1 and "Traceback" not in done.stderr_text


def test_ctrl_c_is_one_word(monkeypatch, tmp_path):
    import signal

    def run(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("vpjax.cli.report.run", run)
    before = signal.getsignal(signal.SIGINT)
    try:
        done = command("report", f"--workdir={tmp_path}")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.returncode, done.stderr_text) == (130, "stopped\n")
