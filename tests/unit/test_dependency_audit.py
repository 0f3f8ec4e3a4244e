from __future__ import annotations

import importlib.util
import json
import sys
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "audit" / "audit.py"
TODAY = date(2026, 6, 1)
REASON = "only its parser is at fault, which nothing here calls"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dependency_audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


audit = load_script()


def waiver(until: date = TODAY, **changes: str) -> Any:
    fields = {"id": "GHSA-1", "package": "lib", "reason": REASON} | changes
    return audit.Waiver(**fields, until=until)


def finding(*ids: str) -> Any:
    return audit.Finding("lib", "1.0", frozenset(ids), ("1.1",))


def test_a_finding_is_a_fault_unless_it_is_waived_by_one_of_its_names() -> None:
    assert audit.judge([], [], TODAY) == []
    [fault] = audit.judge([finding("GHSA-1", "CVE-1")], [], TODAY)
    assert fault == "lib 1.0: CVE-1, GHSA-1 (update to 1.1)"
    assert audit.judge([finding("GHSA-1", "CVE-1")], [waiver()], TODAY) == []
    assert audit.judge([finding("PYSEC-1", "GHSA-1")], [waiver()], TODAY) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (waiver(date(2026, 5, 31)), "ran out on 2026-05-31"),
        (waiver(package="other"), "matches nothing"),
        (waiver(id="GHSA-2"), "matches nothing"),
    ],
)
def test_a_waiver_that_ran_out_or_matches_nothing_is_a_fault(bad: Any, words: str) -> None:
    faults = audit.judge([finding("GHSA-1")], [bad], TODAY)
    assert any(words in fault for fault in faults)
    assert any(fault.startswith("lib 1.0: GHSA-1") for fault in faults)


@pytest.mark.parametrize(
    "entry",
    [
        'id = "GHSA-1"\npackage = "lib"\nuntil = 2026-06-01',
        'id = "GHSA-1"\npackage = "lib"\nuntil = 2026-06-01\nreason = "fine"',
        f'id = "GHSA-1"\npackage = "lib"\nuntil = "soon"\nreason = "{REASON}"',
    ],
)
def test_a_waiver_without_a_reason_in_words_or_a_day_is_refused(entry: str) -> None:
    with pytest.raises(audit.AuditError, match="reason"):
        audit.read_waivers(f"[[waiver]]\n{entry}\n")


def test_the_waivers_in_force_are_written_as_they_must_be() -> None:
    audit.read_waivers(audit.WAIVERS.read_text())


def command(folder: Path, name: str, body: str) -> list[str]:
    file = folder / name
    file.write_text(body)
    return [sys.executable, str(file)]


def run(folder: Path, capsys: pytest.CaptureFixture[str], answer: str, waivers: str = "") -> Any:
    file = folder / "waivers.toml"
    file.write_text(waivers)
    uv = command(folder, "uv.py", "")
    code = audit.main(uv, command(folder, "pip_audit.py", answer), file)
    said = capsys.readouterr()
    return code, said.out + said.err


def answering(*dependencies: dict[str, Any]) -> str:
    return f"print({json.dumps(json.dumps({'dependencies': dependencies}))})"


def test_an_audit_without_findings_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = answering({"name": "lib", "version": "1.0", "vulns": []})
    code, said = run(tmp_path, capsys, clean)
    assert (code, said) == (
        0,
        "1 locked packages looked up: 0 vulnerabilities known, 0 waivers, 0 faults\n",
    )


def test_an_audit_with_findings_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": []}
    code, said = run(
        tmp_path, capsys, answering({"name": "lib", "version": "1.0", "vulns": [known]})
    )
    assert (code, "lib 1.0: CVE-1, PYSEC-1 (no fix)" in said) == (1, True)


@pytest.mark.parametrize(
    "answer",
    [
        "import sys; sys.exit('Connection refused')",
        "print('[]')",
        answering(),
        answering({"name": "lib", "skip_reason": "no such release"}),
    ],
)
def test_an_audit_that_could_not_be_made_says_so_and_does_not_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    code, said = run(tmp_path, capsys, answer)
    assert code == 2
    assert said.startswith("NOT AUDITED: ")
