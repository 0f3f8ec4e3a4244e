from __future__ import annotations

from pathlib import Path

from cli.fleet.merged_log import LogLine, MergedLog


def test_lines_of_services_are_shown_in_words_and_of_servers_only_trouble(tmp_path: Path) -> None:
    (tmp_path / "ingest.log").write_text('{"event": "before", "level": "info"}\n')
    log = MergedLog(tmp_path, ["ingest", "screener"])
    with (tmp_path / "ingest.log").open("a") as file:
        file.write('{"service": "ingest", "level": "warning", "event": "gap", "bars": 3}\n')
        file.write("Traceback (most recent call last):\n")
        file.write('{"half": ')
    (tmp_path / "postgres.log").write_text("LOG: checkpoint\nFATAL: no space\n")
    assert list(log.read()) == [
        LogLine("ingest", "warning", "gap bars=3"),
        LogLine("ingest", "raw", "Traceback (most recent call last):"),
        LogLine("postgres", "error", "FATAL: no space"),
    ]
    with (tmp_path / "ingest.log").open("a") as file:
        file.write('"line"}\n')
    assert list(log.read()) == [LogLine("ingest", "info", "half=line")]


def test_a_log_that_was_cut_is_read_from_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "screener.log"
    file.write_text("[1]\n" * 50)
    log = MergedLog(tmp_path, ["screener"])
    file.write_text("[2]\n")
    assert list(log.read()) == [LogLine("screener", "raw", "[2]")]
    assert list(log.read()) == []
