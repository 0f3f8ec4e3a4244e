from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.progress import Progress

from cli.cycle.artefacts import lineage
from cli.cycle.charts import Marker, bar_chart, line_chart
from cli.cycle.ledger_file import LedgerFile
from cli.cycle.pipeline import Cycle, run_cycle
from cli.cycle.report import IN_SAMPLE, html, markdown
from cli.cycle.request import CycleRequest
from cli.cycle.run import cycle_to_folder
from cli.cycle.steps import (
    SelectionRules,
    dataset_table,
    read_dataset,
    select,
    train_offline,
)
from shared.backtest.candidates import FitTerms, fit_candidate, training_set
from shared.backtest.evidence import IDLE, Z_RULE
from shared.backtest.track import DAY_MS, E8, daily_track, pair_profits, symbol_profits
from shared.clock import instant_of_ms
from shared.errors import DataError, SettingsError
from shared.quant.gates import BACKTEST_GATES
from shared.quant.performance import returns_of_equity
from shared.quant.trials import Outcome, Trial
from shared.settings import strategy_of
from tests.research_market import BAR_MS, FIRST_MS, QUICK, write_market

HALF_LIFE_BARS = 40.0
SYMBOL = "Y0/USDT"


def quiet() -> Progress:
    return Progress(disable=True)


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("market")
    return write_market(folder, n_days=80, n_pairs=3, half_life_bars=HALF_LIFE_BARS, seed=1)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> LedgerFile:
    return LedgerFile(tmp_path_factory.mktemp("ledger") / "trials.jsonl")


@pytest.fixture(scope="module")
def cycle(bars: tuple[Path, Path], ledger: LedgerFile) -> Cycle:
    request = CycleRequest(
        kind="short", bars=bars, labels=("z_threshold", "held_return"), n_trials=2
    )
    return run_cycle(request, strategy_of(QUICK), ledger, quiet())


def test_a_roster_is_in_force_only_after_the_bars_it_was_made_from(cycle: Cycle) -> None:
    table = cycle.test.table
    assert len(table.pair)
    assert (table.roster_at_ms < table.closes_at_ms).all()
    assert cycle.screens[0].closes_at_ms == cycle.periods.start_ms
    assert cycle.periods.start_ms % DAY_MS == DAY_MS // 2  # at noon


def test_nothing_that_was_fitted_has_seen_the_test(cycle: Cycle) -> None:
    for column in cycle.columns:
        assert (column.dataset.ends * BAR_MS <= cycle.periods.test_start_ms).all()
    assert cycle.test.table.closes_at_ms[0] > cycle.periods.test_start_ms


def test_every_evaluation_is_a_trial(cycle: Cycle, ledger: LedgerFile) -> None:
    # Of each column two searched, one compared and one tested; the z rule and holding nothing.
    subjects = [trial.subject for trial in ledger.trials]
    names = [column.candidate.name for column in cycle.columns]
    assert {name: subjects.count(name) for name in (*names, Z_RULE, IDLE)} == {
        **dict.fromkeys(names, 4),
        Z_RULE: 1,
        IDLE: 1,
    }
    assert cycle.evidence is not None
    assert cycle.evidence.n_trials == len(subjects)


def test_the_candidate_is_chosen_by_the_validation_and_not_by_the_test(cycle: Cycle) -> None:
    assert cycle.selected is not None
    assert cycle.selected.validation_sharpe == max(c.validation_sharpe for c in cycle.columns)
    assert cycle.evidence is not None
    assert cycle.evidence.is_out_of_sample
    assert cycle.evidence.performance.total_return == pytest.approx(
        cycle.selected.track.equity[-1] / cycle.selected.track.equity[0] - 1
    )


def test_profit_by_pair_adds_up_to_the_change_of_equity(cycle: Cycle) -> None:
    assert len(cycle.z_rule.trading.positions.pair)
    for result in (cycle.z_rule, *(column.result for column in cycle.columns)):
        profit_e8 = sum(pair.profit_e8 for pair in pair_profits(result))
        capital_e8 = cycle.strategy.portfolio.capital_e8
        assert profit_e8 == result.trading.equity.equity_e8[-1] - capital_e8


def test_profit_by_symbol_adds_up_to_the_change_of_equity_and_so_do_its_costs(
    cycle: Cycle,
) -> None:
    costs, capital_e8 = cycle.strategy.execution, cycle.strategy.portfolio.capital_e8
    for result in (cycle.z_rule, *(column.result for column in cycle.columns)):
        symbols = symbol_profits(result, costs)
        profit_e8 = sum(symbol.profit_e8 for symbol in symbols)
        assert profit_e8 == result.trading.equity.equity_e8[-1] - capital_e8
        positions = result.trading.positions
        assert sum(symbol.fees_e8 for symbol in symbols) == positions.fees_e8.sum()
        assert sum(symbol.funding_e8 for symbol in symbols) == positions.funding_e8.sum()
        assert sum(symbol.n_fills for symbol in symbols) == len(result.fills)
    assert cycle.z_rule.trading.positions.funding_e8.sum() > 0


def test_net_exposure_of_a_day_is_what_fills_up_to_its_end_hold_at_its_marks(
    cycle: Cycle,
) -> None:
    result, track = cycle.z_rule, cycle.z_track
    bars = cycle.market.checked["5m"].accepted
    instruments = cycle.market.instruments
    is_compared = False
    for day, begins_ms in enumerate(track.day_ms.tolist()):
        end_ms = begins_ms + DAY_MS
        held: dict[str, int] = {}
        for fill in result.fills:
            # Filled at an open: of the bar that opens at midnight, the next day.
            if fill.filled_at_ms < end_ms:
                sign = 1 if fill.side.value == "buy" else -1
                held[fill.symbol] = held.get(fill.symbol, 0) + sign * fill.lots
        closes = bars.wide(list(held), "close", np.array([end_ms]))[0]
        expected = sum(
            instruments[symbol].notional_e8(
                instruments[symbol].price_ticks(float(close), "nearest"), lots
            )
            for (symbol, lots), close in zip(held.items(), closes, strict=True)
            if lots
        )
        assert track.net[day] == pytest.approx(expected / E8)
        is_compared |= expected != 0
    assert is_compared
    assert track.traded.sum() * E8 == pytest.approx(
        sum(
            instruments[fill.symbol].notional_e8(fill.price_ticks, fill.lots)
            for fill in result.fills
        )
    )


def test_a_day_ends_with_its_last_close_at_midnight(cycle: Cycle) -> None:
    track = daily_track(cycle.z_rule, cycle.strategy.portfolio.capital_e8)
    closes = cycle.z_rule.trading.table.closes_at_ms
    first_midnight = closes.searchsorted(track.day_ms[0] + DAY_MS)
    assert closes[first_midnight] == track.day_ms[0] + DAY_MS
    equity = cycle.z_rule.trading.equity.equity_e8[first_midnight] / E8
    assert track.equity[1] == equity
    assert track.returns.tolist() == returns_of_equity(track.equity).tolist()


def test_a_training_set_holds_no_label_from_beyond_its_period(cycle: Cycle) -> None:
    label = cycle.columns[0].candidate.label
    dataset = training_set(cycle.test, label)
    assert len(dataset.labels)
    assert dataset.ends.max() * BAR_MS <= cycle.periods.end_ms


# --- refusals -----------------------------------------------------------------------------------


def roster_at(cycle: Cycle, folder: Path, at_ms: int) -> Path:
    screen = next(screen for screen in cycle.screens if screen.pairs)
    path = folder / "roster.json"
    path.write_bytes(screen.model_copy(update={"closes_at": instant_of_ms(at_ms)}).to_bytes())
    return path


def test_a_roster_screened_past_the_start_is_refused(
    cycle: Cycle, bars: tuple[Path, Path], tmp_path: Path
) -> None:
    start_ms = cycle.periods.start_ms
    roster = roster_at(cycle, tmp_path, start_ms + BAR_MS)
    request = CycleRequest(kind="short", bars=bars, roster=roster, start_ms=start_ms)
    with pytest.raises(SettingsError, match="past the start"):
        run_cycle(request, strategy_of(QUICK), LedgerFile(tmp_path / "t"), quiet())


def test_a_roster_screened_at_the_start_is_taken_and_a_later_one_in_sample_fails_its_gate(
    cycle: Cycle, bars: tuple[Path, Path], tmp_path: Path
) -> None:
    start_ms = cycle.periods.start_ms
    for delay_ms, in_sample in ((0, False), (BAR_MS, True)):
        roster = roster_at(cycle, tmp_path, start_ms + delay_ms)
        request = CycleRequest(
            kind="short", bars=bars, roster=roster, start_ms=start_ms, in_sample=in_sample
        )
        ledger_path = tmp_path / "trials.jsonl"
        out = tmp_path / str(delay_ms)
        summary, _ = cycle_to_folder(
            request, strategy_of(QUICK), out=out, ledger_path=ledger_path, progress=quiet()
        )
        (gate,) = [g for g in summary["gates"] if g["gate"] == "out_of_sample"]
        assert summary["is_in_sample"] is in_sample
        assert gate["verdict"] == ("failed" if in_sample else "passed")
        for report in ("report.md", "report.html"):
            assert (IN_SAMPLE in (out / report).read_text()) is in_sample


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"end_ms": FIRST_MS + 30 * DAY_MS, "test_start_ms": FIRST_MS + 20 * DAY_MS}, "10 days"),
        ({"test_start_ms": FIRST_MS}, "in this order"),
    ],
)
def test_periods_that_prove_nothing_are_refused(
    bars: tuple[Path, Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    request = CycleRequest(kind="short", bars=bars, **options)
    with pytest.raises(SettingsError, match=message):
        run_cycle(request, strategy_of(QUICK), LedgerFile(tmp_path / "t"), quiet())


def test_a_record_too_young_for_a_training_and_a_test_is_told_so(
    bars: tuple[Path, Path], tmp_path: Path
) -> None:
    request = CycleRequest(kind="short", bars=bars, end_ms=FIRST_MS + 20 * DAY_MS)
    with pytest.raises(DataError, match="no time to train in before a test of"):
        run_cycle(request, strategy_of(QUICK), LedgerFile(tmp_path / "t"), quiet())


def test_a_market_without_pairs_ends_with_nothing_to_promote_and_a_report_that_says_so(
    bars: tuple[Path, Path], tmp_path: Path
) -> None:
    request = CycleRequest(kind="short", bars=bars)
    strategy = strategy_of((*QUICK, "screener.quote_volume_min_usdt=1e15"))
    summary, _ = cycle_to_folder(
        request, strategy, out=tmp_path / "out", ledger_path=tmp_path / "t", progress=quiet()
    )
    assert summary["verdict"]["decision"] == "nothing to promote"
    assert "no pair was tradable" in summary["verdict"]["reasons"][0]
    assert {gate["verdict"] for gate in summary["gates"]} == {"missing"}
    assert "nothing to promote" in (tmp_path / "out" / "report.html").read_text()


# --- the folder ---------------------------------------------------------------------------------


def test_a_cycle_is_made_once_for_one_content_and_anew_after_any_change(
    bars: tuple[Path, Path], tmp_path: Path
) -> None:
    out, ledger_path = tmp_path / "out", tmp_path / "trials.jsonl"

    def run(*overrides: str) -> bool:
        _, is_new = cycle_to_folder(
            CycleRequest(kind="short", bars=bars),
            strategy_of((*QUICK, *overrides)),
            out=out,
            ledger_path=ledger_path,
            progress=quiet(),
        )
        return is_new

    assert run()
    manifest = (out / "manifest.json").read_bytes()
    assert not run()
    report = out / "report.html"
    whole = report.read_bytes()
    report.write_bytes(whole + b" ")
    assert run()
    # The same bars, settings and trials give the same bytes of every file.
    assert (report.read_bytes(), (out / "manifest.json").read_bytes()) == (whole, manifest)
    LedgerFile(ledger_path).add(Trial("other", {}, "elsewhere", Outcome(None)))
    assert run("signals.entry_z=2.5")


def test_a_run_is_known_by_the_content_of_its_files_and_not_by_their_place(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.write_text("bars")
    assert lineage([one], {})["run_id"] == lineage([other], {})["run_id"]
    assert lineage([one], {})["run_id"] != lineage([one], {"seed": 1})["run_id"]
    other.write_text("more")
    assert lineage([one], {})["run_id"] != lineage([other], {})["run_id"]


def test_the_ledger_outlives_its_process_and_counts_a_repeat_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "trials.jsonl"
    trial = Trial("a", {"C": 1.0, "kind": "x"}, "history", Outcome(0.5, 0.1))
    first = LedgerFile(path)
    assert first.add(trial)
    assert not first.add(trial)
    again = LedgerFile(path)
    assert again.trials == (trial,)
    assert not again.add(trial)
    assert len(path.read_bytes().splitlines()) == 1
    assert again.sha256 == first.sha256
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(DataError, match="line 2 is no trial"):
        LedgerFile(path)


# --- the report ---------------------------------------------------------------------------------


def points_of(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [line.attrib["points"] for line in root.iter("polyline")]


def test_a_line_goes_up_where_its_values_do() -> None:
    (points,) = points_of(line_chart([0.0, 1.0], {"a": [1.0, 2.0]}, label="x", is_time=False))
    (x0, y0), (x1, y1) = ([float(v) for v in point.split(",")] for point in points.split())
    assert x1 > x0
    assert y1 < y0  # pixels count downwards


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0, 5.0], [-1e9, 1e9], [1e-9, 2e-9]])
def test_charts_of_any_scale_are_sound_and_finite(values: Sequence[float]) -> None:
    marker = Marker(FIRST_MS, values[0], "up", "red", "<&'\">")
    svg = line_chart([FIRST_MS, FIRST_MS], {"<a>": values}, label="'<&>", markers=[marker])
    assert "nan" not in svg
    assert len(points_of(svg)) == 1
    ElementTree.fromstring(bar_chart({"<b>": values[0], "c": values[1]}, label="'"))


def test_a_report_is_one_file_that_loads_nothing(cycle: Cycle, ledger: LedgerFile) -> None:
    from cli.cycle.document import describe

    document = describe(cycle, ledger) | {
        "lineage": {"run_id": "0" * 64, "code": {"version": "1", "source_sha256": "0" * 64}}
    }
    document = json.loads(json.dumps(document, allow_nan=False))
    document["verdict"]["reasons"] = ["<script>alert(1)</script>"]
    page = html(document)
    assert "http" not in page
    assert "<script" not in page
    assert page.count("<svg") == 7
    for name in ("Gates", "Columns", "Risk", "Pairs", "Model", "Robustness", "Months", "Rosters"):
        assert f"<h2>{name}</h2>" in page
        assert f"## {name}" in markdown(document)


# --- single steps -------------------------------------------------------------------------------


def test_a_dataset_file_gives_back_the_dataset_and_trains_the_same_model(
    cycle: Cycle, tmp_path: Path
) -> None:
    column = cycle.columns[0]
    path = tmp_path / "dataset.parquet"
    pq.write_table(dataset_table(column.dataset, column.candidate.label), path)
    dataset, label = read_dataset(path)
    assert (dataset.dataset_id, label) == (column.dataset.dataset_id, column.candidate.label)
    assert dataset.weights.tolist() == column.dataset.weights.tolist()
    (trained,) = train_offline(
        path, [column.candidate.family], FitTerms(), n_trials=1, ledger_path=tmp_path / "t"
    )
    again = fit_candidate(
        column.candidate.family, label, column.dataset, FitTerms(), trained["parameters"]
    )
    assert trained["sha256"] == again.sha256
    assert LedgerFile(tmp_path / "t").n_trials == 1
    path.write_bytes(b"no dataset")
    with pytest.raises(DataError, match="is no dataset"):
        read_dataset(path)


def summary_of(folder: Path, sharpe: float, gate: str = "passed", losing: int = 0) -> Path:
    folder.mkdir()
    document = {
        "candidate": "a",
        "lineage": {"run_id": folder.name},
        "verdict": {"reasons": ["none"]},
        "columns": [
            {
                "name": "a",
                "sha256": folder.name,
                "test": {"sharpe_ratio": sharpe, "max_drawdown": 0.1},
            }
        ],
        "months": [{"return": -0.1}] * losing + [{"return": 0.1}] * (4 - losing),
        "gates": [{"gate": name, "verdict": gate} for name in BACKTEST_GATES],
    }
    (folder / "summary.json").write_text(json.dumps(document))
    return folder


def test_the_champion_is_the_best_of_those_that_neither_gates_nor_rules_refuse(
    tmp_path: Path,
) -> None:
    folders = [
        summary_of(tmp_path / "gated", 9.0, gate="failed"),
        summary_of(tmp_path / "unstable", 8.0, losing=3),
        summary_of(tmp_path / "best", 3.0),
        summary_of(tmp_path / "good", 2.0),
    ]
    registry = select(folders, SelectionRules())
    assert registry["champion"] == "best"
    assert [bool(entry["refused"]) for entry in registry["candidates"]] == [
        True, True, False, False,
    ]  # fmt: skip
    assert select(folders[:2], SelectionRules())["champion"] is None
    assert select(folders, SelectionRules(max_drawdown=0.05))["champion"] is None
