"""What goes to the screen, and what to log.txt alone."""

import io
import logging

from vpjax.core import logs
from vpjax.core.progress import Progress, waiting

log = logging.getLogger("vpjax.test_logs")


def test_details_go_to_the_file_and_warnings_are_shown_once(tmp_path):
    logger, out = logging.getLogger("vpjax"), io.StringIO()
    before = logger.handlers, logger.level, logger.propagate
    try:
        logs.to_screen(out)
        with logs.to_file(tmp_path / "log.txt"):
            log.info("told")
            log.debug("a detail")
            log.warning("mind %d", 3)
            log.warning("mind %d", 3)
            log.warning("mind %d", 4)
            with logs.quiet():
                log.info("of one of many")
                log.warning("mind the rate 0.1")
                log.warning("mind the rate 0.25")  # differs in a number alone
                log.error("lost")
    finally:
        logger.handlers, logger.level, logger.propagate = before
    assert out.getvalue().split("\n")[:-1] == [
        "told",
        "mind 3",
        "mind 4",
        "mind the rate 0.1",
        "lost",
    ]
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 9 and lines[1].endswith(" a detail")


def test_a_notebook_sees_no_more_than_before(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="vpjax"):
        with logs.to_file(tmp_path / "log.txt"):
            log.info("not asked for")
            log.warning("passed on")
        log.warning("and after")
    assert [r.getMessage() for r in caplog.records] == ["passed on", "and after"]
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 2


def test_one_of_many_shows_no_progress():
    out = io.StringIO()
    with logs.quiet(), Progress(3, batch_size=2, stream=out) as progress, waiting("compiling", out):
        progress.update(1, {"loss": 1.0})
    assert not out.getvalue()


def test_a_line_has_eighty_columns_and_keeps_loss_and_time(monkeypatch):
    out = io.StringIO()
    with Progress(
        1_000_000, start=999_000, batch_size=512, stream=out, every_seconds=0
    ) as progress:
        values = {"loss": 12.3456, "accuracy": 100.0, "val_accuracy": 100.0, "proxy_loss": 12.0}
        for step in (999_001, 999_002):
            progress.update(step, values)
    last = out.getvalue().splitlines()[-1]
    assert len(last) <= 80 and "loss 12.3456" in last and "val_accuracy 100.00  ETA" in last


def test_waiting_says_for_how_long():
    import time

    out = io.StringIO()
    with waiting("compiling, mostly 5 to 60 s", out, every_seconds=0.02):
        time.sleep(0.1)
    first, *more = out.getvalue().splitlines()
    assert first == "compiling, mostly 5 to 60 s"
    assert more and more[0].startswith("compiling, mostly 5 to 60 s: 0:00:0")
