"""Look every locked dependency up in a database of known vulnerabilities: `make audit`.

Exits with 0 when nothing was found that is not waived in `waivers.toml`, with 1 when
something was or a waiver is no good, and with 2 when nothing could be looked up: an audit
that did not happen is no audit that passed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

WAIVERS = Path(__file__).with_name("waivers.toml")
FOUND, NOT_DONE = 1, 2
FEWEST_WORDS = 4


class AuditError(Exception):
    """The audit could not be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A known vulnerability of a locked dependency."""

    package: str
    version: str
    ids: frozenset[str]
    fixed_in: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Waiver:
    """A vulnerability that is accepted until a day, and why."""

    id: str
    package: str
    reason: str
    until: date


def read_waivers(text: str) -> list[Waiver]:
    """Return the waivers of a document.

    Raises
    ------
    AuditError
        If one lacks something, or its reason is no sentence.
    """
    waivers = []
    for entry in tomllib.loads(text).get("waiver", []):
        try:
            waiver = Waiver(**entry)
        except TypeError as error:
            raise AuditError(f"waiver {entry}: give id, package, reason and until") from error
        if len(waiver.reason.split()) < FEWEST_WORDS or type(waiver.until) is not date:
            raise AuditError(f"waiver {waiver.id}: write its reason in words and until as a date")
        waivers.append(waiver)
    return waivers


def judge(findings: Sequence[Finding], waivers: Sequence[Waiver], today: date) -> list[str]:
    """Return what is wrong, in words; nothing where every finding is waived."""
    faults = [
        f"waiver {waiver.id} of {waiver.package} ran out on {waiver.until}: mend it or say why not"
        for waiver in waivers
        if waiver.until < today
    ]
    used: set[str] = set()
    for finding in findings:
        matching = [w for w in waivers if w.id in finding.ids and w.package == finding.package]
        used |= {waiver.id for waiver in matching}
        if not any(waiver.until >= today for waiver in matching):
            remedy = f"update to {' or '.join(finding.fixed_in)}" if finding.fixed_in else "no fix"
            names = ", ".join(sorted(finding.ids))
            faults.append(f"{finding.package} {finding.version}: {names} ({remedy})")
    faults += [
        f"waiver {waiver.id} of {waiver.package} matches nothing: remove it"
        for waiver in waivers
        if waiver.id not in used
    ]
    return faults


def look_up(uv: Sequence[str], pip_audit: Sequence[str]) -> tuple[int, list[Finding]]:
    """Return how many locked packages were looked up, and what is known against them.

    Raises
    ------
    AuditError
        If the lock cannot be read, or the database does not answer for every package.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        export = ("export", "--frozen", "--all-groups", "--no-emit-project", "--quiet")
        exported = _run([*uv, *export, "--output-file", str(requirements)])
        if exported.returncode:
            raise AuditError(f"the lock file cannot be exported: {exported.stderr.strip()}")
        options = ("--disable-pip", "--require-hashes", "--progress-spinner=off", "--format=json")
        audited = _run([*pip_audit, "--requirement", str(requirements), *options])
    try:
        found = json.loads(audited.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError) as error:
        last = audited.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise AuditError(f"the vulnerability service did not answer: {last[0]}") from error
    skipped = [each["name"] for each in found if "skip_reason" in each]
    if skipped or not found:
        raise AuditError(f"not looked up: {', '.join(skipped) or 'any package at all'}")
    return len(found), [
        Finding(
            each["name"],
            each["version"],
            frozenset({known["id"], *known.get("aliases", ())}),
            tuple(known.get("fix_versions", ())),
        )
        for each in found
        for known in each["vulns"]
    ]


def main(uv: Sequence[str], pip_audit: Sequence[str], waivers_file: Path = WAIVERS) -> int:
    """Audit, say what came of it, and return the exit code."""
    try:
        waivers = read_waivers(waivers_file.read_text())
        n_packages, findings = look_up(uv, pip_audit)
    except (AuditError, OSError, tomllib.TOMLDecodeError) as error:
        print(f"NOT AUDITED: {error}", file=sys.stderr)  # noqa: T201 - a command says what it did
        return NOT_DONE
    faults = judge(findings, waivers, datetime.now(UTC).date())
    for fault in faults:
        print(fault, file=sys.stderr)  # noqa: T201
    print(  # noqa: T201
        f"{n_packages} locked packages looked up: {len(findings)} vulnerabilities known, "
        f"{len(waivers)} waivers, {len(faults)} faults"
    )
    return FOUND if faults else 0


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # The commands are those of the Makefile.
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


if __name__ == "__main__":
    beside = Path(sys.executable).parent
    sys.exit(main(sys.argv[1:] or ["uv"], [str(beside / "pip-audit")]))
