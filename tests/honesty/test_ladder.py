"""The ladder of markets with known truth; `make honesty` climbs all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.honesty.ladder import NULLS, Finding, climb_null

REAL = Path("crypto/binance_spot_1h_2024.parquet")
MARKETS_OF_A_NULL = 100


def tell(title: str, findings: list[Finding]) -> None:
    """Print what a rung came to."""
    reached = [each for each in findings if each.has_candidate]
    promoted = [each.seed for each in findings if each.is_promoted]
    refusals = [gate for each in reached for gate in each.refused_by]
    counts = ", ".join(f"{gate} {refusals.count(gate)}" for gate in sorted(set(refusals)))
    print(
        f"{title}: {len(findings)} markets, {len(reached)} reached the gates, promoted "
        f"{len(promoted)} {promoted}; refused by {counts or 'nothing'}"
    )


@pytest.mark.honesty
@pytest.mark.parametrize("rung", NULLS)
def test_nothing_is_promoted_in_a_hundred_markets_without_an_edge(
    rung: str, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = []
    for seed in range(MARKETS_OF_A_NULL):
        findings.append(climb_null(rung, seed, data_folder / REAL))
        with capsys.disabled():
            print(f"\r{rung} {seed + 1}/{MARKETS_OF_A_NULL}", end="", flush=True)
    with capsys.disabled():
        tell(f"\r{rung}", findings)
    assert not [each.seed for each in findings if each.is_promoted]
    # Else nothing but the screen was tried.
    assert sum(each.has_candidate for each in findings) >= MARKETS_OF_A_NULL * 0.4
