from __future__ import annotations

import io
import sys
from pathlib import Path

import orjson
import pytest
import structlog

from shared.service import configure_logging

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
def test_a_full_disk_under_the_log_costs_lines_and_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = structlog.get_config()
    try:
        configure_logging("screener")
        logger = structlog.get_logger()
        with FULL.open("wb", buffering=0) as disk:
            monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(disk, write_through=True))
            logger.info("one")
            logger.info("two")
        log = io.StringIO()
        monkeypatch.setattr(sys, "stdout", log)
        logger.info("three")
    finally:
        structlog.configure(**before)
        structlog.contextvars.clear_contextvars()
    lost, told = (orjson.loads(line) for line in log.getvalue().splitlines())
    assert lost == {"event": "log lines lost", "count": 2}
    assert (told["event"], told["service"]) == ("three", "screener")
