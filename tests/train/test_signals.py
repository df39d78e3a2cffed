"""Signals: noted in a step, obeyed at once while waiting, and never ignored twice."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from vpjax.train.signals import SIGNALS, Stopped, StopSignal


@pytest.fixture(autouse=True)
def terminal():
    """A terminal that may go away, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_first_signal_is_noted(number):
    before = [signal.getsignal(s) for s in SIGNALS]
    with StopSignal() as signals:
        assert not signals.asked
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert signals.asked == number
    assert [signal.getsignal(s) for s in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_what_waits_ends_at_once(number):
    with StopSignal() as signals:
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        begin = time.monotonic()
        stopping = pytest.raises(Stopped, match="nothing is lost")
        with stopping as stopped, signals.at_once("nothing is lost"):
            threading.Event().wait(20)
        assert stopped.value.number == number and time.monotonic() - begin < 10
        # Behind the block the next one would be the second.
        assert signals.asked == number


def test_under_nohup_a_lost_terminal_is_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            assert not signals.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_changes():
    before, found = signal.getsignal(signal.SIGINT), []

    def run():
        with StopSignal() as signals, signals.at_once("never"):
            found.append(signals.asked)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [0] and signal.getsignal(signal.SIGINT) is before


def process(code):
    start = "import os, signal, time, threading\nfrom vpjax.train import signals as s\n"
    words = [sys.executable, "-c", start + textwrap.dedent(code)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_the_second_signal_ends_the_process():
    done = process("""
        with s.StopSignal():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
            time.sleep(30)
    """)
    assert done.returncode == -signal.SIGTERM and not done.stderr


def test_a_file_that_does_not_come_is_named_and_the_process_ends():
    done = process("""
        from vpjax.core.reading import reading
        s.PATIENCE = 0.3
        with s.StopSignal():
            with reading("a/network/7.png"):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(30)
    """)
    assert done.returncode == 128 + signal.SIGTERM
    assert "stopped while waiting for a/network/7.png" in done.stderr
