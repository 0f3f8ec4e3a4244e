"""Research as commands on files: each made once, each saying what it was made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.research.inference import latest_orders, read_signals
from cli.research.production import read_map
from shared.errors import ContractError, DataError, SettingsError
from shared.settings import strategy_of
from tests.research_market import FIRST_MS, QUICK, write_market

DAY_MS = 86_400_000
SETTINGS = [part for value in QUICK for part in ("--set", value)]
WINDOWS = ["--beta-window", "200", "--z-window", "100"]
SCREENED = "2024-01-12T12:00:00Z"


def run(*arguments: object) -> Any:
    """Run a command with --json and return what it prints; its error is raised."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return orjson.loads(result.stdout)


@dataclass(frozen=True)
class Steps:
    """The files of every step, and what the first run of each said."""

    folder: Path
    said: dict[str, Any]

    def __getitem__(self, name: str) -> Path:
        return self.folder / name


def bars_of(folder: Path) -> list[str | Path]:
    return ["--bars", folder / "ohlcv_5m.parquet"]


def commands(folder: Path, market: tuple[Path, Path]) -> dict[str, list[str | Path]]:
    hourly, five = market
    bars = bars_of(folder)
    since = ["--since", "2024-01-01"]
    roster = folder / "pairs_screened.json"
    return {
        "ingest": [
            "ingest", "--bars", hourly, *since, "--timeframe", "1h",
            "--out", folder / "ohlcv_1h.parquet",
        ],
        "screen": [
            "screen", "--bars", folder / "ohlcv_1h.parquet", "--end", SCREENED, *SETTINGS,
            "--out", roster,
        ],
        "ingest 5m": [
            "ingest", "--bars", five, *since, "--timeframe", "5m", "--roster", roster,
            "--out", folder / "ohlcv_5m.parquet",
        ],
        "features": [
            "features", *bars, "--roster", roster, *WINDOWS, "--end", "2024-02-01",
            "--out", folder / "features",
        ],
        "dataset": [
            "dataset", folder / "features", "--lags", "5", "--out", folder / "dataset.parquet",
        ],
        "train": [
            "train", "--offline", folder / "dataset.parquet", "--out", folder / "candidates.json",
            "--home", folder,
        ],
        "backtest": [
            "backtest", *bars, "--roster", roster, *SETTINGS, "--start", "2024-02-01",
            "--model", folder / "candidates.json", "--dataset", folder / "dataset.parquet",
            "--fee", "0.0005", "--out", folder / "backtest",
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("market")
    return write_market(folder, n_days=80, n_pairs=3, half_life_bars=40.0, seed=1)


@pytest.fixture(scope="module")
def steps(market: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Steps:
    folder = tmp_path_factory.mktemp("steps")
    said = {name: run(*command) for name, command in commands(folder, market).items()}
    return Steps(folder, said)


def manifest_of(steps: Steps, name: str) -> Any:
    places = {
        "ingest": "ohlcv_1h.parquet.manifest.json",
        "screen": "pairs_screened.json.manifest.json",
        "ingest 5m": "ohlcv_5m.parquet.manifest.json",
        "features": "features/_manifest.json",
        "dataset": "dataset.parquet.manifest.json",
        "train": "candidates.json.manifest.json",
        "backtest": "backtest/_manifest.json",
    }
    return json.loads(steps[places[name]].read_text())


def test_each_step_names_the_run_of_the_step_before_it(steps: Steps) -> None:
    runs = {name: manifest_of(steps, name)["run_id"] for name in steps.said}
    assert len(set(runs.values())) == len(runs)
    for name, parents in {
        "screen": ["ingest"],
        "features": ["ingest 5m", "screen"],
        "dataset": ["features"],
        "train": ["dataset"],
        "backtest": ["ingest 5m", "screen", "train", "dataset"],
    }.items():
        found = manifest_of(steps, name)
        assert set(found["parents"].values()) == {runs[parent] for parent in parents}
        assert found["code"]["source_sha256"]


def test_a_second_run_on_the_same_content_makes_nothing(
    steps: Steps, market: tuple[Path, Path]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in steps.folder.rglob("*") if path.is_file()}
    for command in commands(steps.folder, market).values():
        run(*command)
    after = {path: path.stat().st_mtime_ns for path in steps.folder.rglob("*") if path.is_file()}
    assert after == before


def test_a_file_that_was_changed_is_made_anew(steps: Steps, market: tuple[Path, Path]) -> None:
    path = steps["dataset.parquet"]
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    said = run(*commands(steps.folder, market)["dataset"])
    assert said["is_new"]
    assert path.read_bytes() == whole


def test_ingested_bars_are_those_of_the_file_from_the_first_instant_on(
    market: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "stage" / "ohlcv_1h.parquet"
    since = "2024-01-03T00:00:00Z"
    said = run("ingest", "--bars", market[0], "--since", since, "--limit", "5", "--out", out)
    taken, whole = pq.read_table(out).to_pandas(), pq.read_table(market[0]).to_pandas()
    newest = np.sort(whole["ts"].unique())[-5:]
    expected = whole[whole["ts"].isin(newest)].sort_values(["ts", "symbol"])
    for name in ("symbol", "open", "high", "low", "close", "volume"):
        assert taken[name].tolist() == expected[name].tolist()
    assert said["bars"] == len(expected)
    with pytest.raises(DataError, match="no good bar"):
        run("ingest", "--bars", market[0], "--since", "2030-01-01", "--out", out)
    with pytest.raises(DataError, match="holds bars of 1h"):
        run("ingest", "--bars", market[0], "--timeframe", "5m", "--out", out)


def test_only_the_bars_of_screened_pairs_are_gathered(steps: Steps) -> None:
    roster = json.loads(steps["pairs_screened.json"].read_text())
    symbols = {s for p in roster["pairs"] if p["status"] == "active" for s in (p["y"], p["x"])}
    assert symbols
    assert set(steps.said["ingest 5m"]["symbols"]) == symbols


def test_features_begin_after_the_roster_and_a_dataset_carries_the_lags_asked_for(
    steps: Steps,
) -> None:
    files = sorted(steps["features"].glob("*.parquet"))
    assert files
    screened = json.loads(steps["pairs_screened.json"].read_text())["closes_at"]
    for file in files:
        first = pq.read_table(file)["ts"][0].as_py()
        assert first.isoformat() > screened.replace("Z", "+00:00")
    columns = pq.read_schema(steps["dataset.parquet"]).names
    assert "z_lag_5" in columns
    assert "z_lag_6" not in columns


def test_what_is_screened_on_bars_past_the_start_is_refused_or_labelled_all_the_way(
    steps: Steps, tmp_path: Path
) -> None:
    roster = ["--roster", steps["pairs_screened.json"], "--start", "2024-01-05"]
    features = ["features", *bars_of(steps.folder), *roster, *WINDOWS, "--out", tmp_path / "f"]
    with pytest.raises(SettingsError, match="past the start"):
        run(*features)
    assert run(*features, "--in-sample")["in_sample"] is True
    dataset = tmp_path / "d.parquet"
    assert run("dataset", tmp_path / "f", "--out", dataset)["in_sample"] is True
    out = tmp_path / "c.json"
    train = ["train", "--offline", dataset, "--out", out, "--home", tmp_path]
    with pytest.raises(SettingsError, match="in-sample"):
        run(*train)
    run(*train, "--in-sample")
    assert [each["in_sample"] for each in json.loads(out.read_text())] == [True]
    backtest = ["backtest", *bars_of(steps.folder), *roster, *SETTINGS, "--out", tmp_path / "b"]
    with pytest.raises(SettingsError, match="past the start"):
        run(*backtest)
    assert run(*backtest, "--in-sample")["in_sample"] is True
    assert json.loads((tmp_path / "b" / "summary.json").read_text())["in_sample"] is True


def test_a_backtest_takes_its_signals_from_the_model_or_from_the_rule(steps: Steps) -> None:
    by_model = steps.said["backtest"]
    assert by_model["model_sha256"] == json.loads(steps["candidates.json"].read_text())[0]["sha256"]
    common = ["backtest", *bars_of(steps.folder), "--roster", steps["pairs_screened.json"],
              *SETTINGS, "--start", "2024-02-01"]  # fmt: skip
    by_rule = run(*common, "--signals-from", "z")
    assert by_rule["model_sha256"] is None
    assert run(*common, "--set", "signals.signals_from=z")["digests"] == by_rule["digests"]
    assert by_rule["digests"]["signals"] != by_model["digests"]["signals"]
    with pytest.raises(SettingsError, match="give --model"):
        run(*common, "--signals-from", "model")
    tables = {
        name: pq.read_table(steps["backtest"] / f"{name}.parquet")
        for name in ("daily", "pairs", "symbols")
    }
    gained = (by_model["equity_e8"] - strategy_of(()).portfolio.capital_e8) / 1e8
    assert sum(tables["pairs"]["profit"].to_pylist()) == pytest.approx(gained, abs=1e-6)
    assert sum(tables["symbols"]["profit"].to_pylist()) == pytest.approx(gained, abs=1e-6)
    assert tables["daily"]["equity"][-1].as_py() == pytest.approx(by_model["equity_e8"] / 1e8)


def test_a_dataset_is_built_and_uploaded_by_one_command_that_can_be_repeated(
    steps: Steps, tmp_path: Path
) -> None:
    out, bucket = tmp_path / "made" / "dataset.parquet", tmp_path / "bucket"
    command = ["dataset", steps["features"], "--out", out, "--upload", "--prefix", "datasets/1"]
    with pytest.raises(SettingsError, match="no artefact store is named"):
        run(*command)
    assert not out.exists()
    first = run(*command, "--store", bucket)
    assert (first["is_new"], first["uploaded"]["copied"], first["uploaded"]["known"]) == (
        True,
        2,
        0,
    )
    copied = bucket / "datasets" / "1" / "dataset.parquet"
    assert copied.read_bytes() == out.read_bytes()
    assert (copied.parent / "dataset.parquet.manifest.json").is_file()
    again = run(*command, "--store", bucket)
    assert (again["is_new"], again["uploaded"]["copied"], again["uploaded"]["known"]) == (
        False,
        0,
        2,
    )
    # Only what is not there is copied: another label is another dataset.
    other = run(*command, "--store", bucket, "--label", "next_bar_sign")
    assert (other["is_new"], other["uploaded"]["copied"]) == (True, 2)
    assert copied.read_bytes() == out.read_bytes()


# --- production ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def production(
    market: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Return the registry of a cycle that is too short to prove anything, and its folder."""
    folder = tmp_path_factory.mktemp("production")
    bars = [part for path in market for part in ("--bars", path)]
    run("cycle", "short", *bars, *SETTINGS, "--end", "2024-03-10", "--out", folder / "cycle",
        "--ledger", folder / "trials.jsonl")  # fmt: skip
    run("select", folder / "cycle", "--min-sharpe", "1e9", "--out", folder / "registry.json")
    return folder / "registry.json", folder / "cycle"


def test_only_a_reason_freezes_a_model_that_nothing_chose(
    production: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, cycle = production
    out = tmp_path / "production_map.json"
    promote = ["promote", "--registry", registry, "--cycle", cycle, "--out", out]
    with pytest.raises(SettingsError, match="names no champion"):
        run(*promote)
    sha256 = json.loads((cycle / "candidates.json").read_text())[0]["sha256"]
    with pytest.raises(SettingsError, match="is not the champion"):
        run(*promote, "--sha256", sha256)
    run(*promote, "--sha256", sha256, "--reason", "to see it work")
    frozen, model = read_map(out)
    assert frozen.override == "to see it work"
    assert model is not None
    assert model.sha256 == sha256
    out.write_text(out.read_text().replace(frozen.model.dataset_sha256, "0" * 64))  # type: ignore[union-attr]
    with pytest.raises(DataError, match="has changed since"):
        read_map(out)


def test_what_is_in_production_gives_signals_and_they_give_orders(
    production: tuple[Path, Path], market: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, cycle = production
    frozen, signals = tmp_path / "production_map.json", tmp_path / "signals.jsonl"
    run("promote", "--registry", registry, "--cycle", cycle, "--z-rule", "--out", frozen)
    bars = ["--bars", market[1]]
    said = run("infer", *bars, "--registry-in", frozen, "--out", signals)
    lines = [json.loads(line) for line in signals.read_text().splitlines()]
    assert said["signals"] == len(lines) > 0
    for line in lines:
        if line["signal"]["action"] == "enter":
            # The legs are opposite, and the stop lies beyond home on the side that was entered.
            assert line["lots_y"] * line["lots_x"] < 0
            assert line["lots_y"] * line["signal"]["side"] > 0
            assert (line["exit"]["home"] - line["exit"]["stop"]) * line["signal"]["side"] > 0
    out = tmp_path / "latest_orders.json"
    run("aggregate", signals, *bars, "--out", out, "--target-volatility", "0.05")
    document = json.loads(out.read_text())
    assert document["volatility"]["target"] == 0.05
    assert run("aggregate", signals, *bars, "--out", out)["is_new"] is True
    document = json.loads(out.read_text())
    assert document["volatility"] is None
    assert document["as_of"] == said["last_close"]
    again = run("aggregate", signals, *bars, "--out", out)
    assert again["is_new"] is False
    signals.write_text(signals.read_text().replace('"strength"', '"force"', 1))
    with pytest.raises(ContractError, match="line 1"):
        read_signals(signals)


@pytest.mark.filterwarnings(
    # MLflow's own mappers use a SQLAlchemy loader strategy that 2.1 deprecates.
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)
def test_a_signal_names_the_mlflow_run_of_its_model_where_it_was_logged(
    production: tuple[Path, Path], market: tuple[Path, Path], tmp_path: Path
) -> None:
    from cli.research.tracking import NAME
    from shared.registry import open_registry

    registry, cycle = production
    frozen, signals = tmp_path / "production_map.json", tmp_path / "signals.jsonl"
    sha256 = json.loads((cycle / "candidates.json").read_text())[0]["sha256"]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracked = ["--mlflow", uri, "--home", tmp_path]
    promote = ["promote", "--registry", registry, "--cycle", cycle, "--out", frozen,
               "--sha256", sha256, "--reason", "to see it work"]  # fmt: skip
    infer = ["infer", "--bars", market[1], "--registry-in", frozen, "--out", signals]

    def runs_of_lines() -> set[str | None]:
        lines = [json.loads(line) for line in signals.read_text().splitlines()]
        assert all(line["signal"]["model_sha256"] in {sha256, None} for line in lines)
        return {line["mlflow_run_id"] for line in lines if line["signal"]["model_sha256"]}

    run(*promote)
    assert run(*infer, *tracked)["signals"] > 0
    assert runs_of_lines() == {None}
    said = run(*promote, *tracked)
    run_id = said["mlflow_runs"][sha256]
    # What is frozen already is logged once.
    assert run(*promote, *tracked)["mlflow_runs"] == {sha256: run_id}
    assert run(*infer, *tracked)["is_new"] is True
    assert runs_of_lines() == {run_id}
    recipe = json.loads(open_registry(tmp_path, uri, None).load(NAME, sha256))
    assert recipe["family"] == "logistic_regression"
    run(*infer)
    assert runs_of_lines() == {None}


def test_orders_keep_to_slots_and_caps_and_hold_what_a_backtest_holds(
    steps: Steps, market: tuple[Path, Path]
) -> None:
    from cli.backtest import BacktestRequest, trade
    from cli.research.inference import last_marks

    for day in range(45, 75, 10):
        request = BacktestRequest(
            (steps["ohlcv_5m.parquet"],), FIRST_MS + 31 * DAY_MS, FIRST_MS + day * DAY_MS + 1,
            (*QUICK, "portfolio.symbol_cap=1"), steps["pairs_screened.json"],
        )  # fmt: skip
        result, _ = trade(request)
        strategy = strategy_of(request.overrides)
        bars = result.prepared.seen[-1]
        as_of_ms = int(bars.closes_at_ms[-1])
        document = latest_orders(
            result.signals, result.prepared.market.instruments, last_marks(bars), as_of_ms,
            strategy.portfolio, "log", "5m",
        )  # fmt: skip
        held = {
            position.pair
            for position in result.positions.values()
            if position.state.value in {"opening", "open"}
        }
        assert {target["pair"] for target in document["targets"]} == held
        gross = sum(abs(leg["weight"]) for t in document["targets"] for leg in t["legs"])
        assert gross <= strategy.portfolio.gross_cap * 1.1
        one = latest_orders(
            result.signals, result.prepared.market.instruments, last_marks(bars), as_of_ms,
            strategy.portfolio.model_copy(update={"top_k": 1}), "log", "5m",
        )  # fmt: skip
        assert len(one["targets"]) <= 1


def test_a_volatility_target_makes_entries_smaller_and_leaves_what_is_held(
    steps: Steps, market: tuple[Path, Path]
) -> None:
    from cli.backtest import BacktestRequest, trade
    from cli.research.inference import last_marks
    from cli.research.volatility import VolatilityControl

    request = BacktestRequest(
        (steps["ohlcv_5m.parquet"],), FIRST_MS + 31 * DAY_MS, FIRST_MS + 65 * DAY_MS + 1,
        (*QUICK, "portfolio.symbol_cap=1"), steps["pairs_screened.json"],
    )  # fmt: skip
    result, _ = trade(request)
    strategy, bars = strategy_of(request.overrides), result.prepared.seen[-1]
    instruments = result.prepared.market.instruments
    entered_ms = [at_ms for at_ms, signal in result.signals if signal.action == "enter"]

    def planned(as_of_ms: int, target: float | None) -> dict[str, Any]:
        control = None
        if target is not None:
            control = VolatilityControl(target, 2016, bars, "5m", strategy.portfolio.capital_e8)
        signals = [(at_ms, signal) for at_ms, signal in result.signals if at_ms <= as_of_ms]
        return latest_orders(
            signals, instruments, last_marks(bars), as_of_ms, strategy.portfolio, "log", "5m",
            control,
        )  # fmt: skip

    def lots(document: dict[str, Any]) -> dict[tuple[str, str], int]:
        return {
            (target["pair"], leg["symbol"]): leg["lots"]
            for target in document["targets"]
            for leg in target["legs"]
        }

    as_of_ms = entered_ms[-1]
    free = planned(as_of_ms, None)
    assert free["volatility"] is None
    loose = planned(as_of_ms, 1e3)
    assert {key: loose[key] for key in ("targets", "orders")} == {
        key: free[key] for key in ("targets", "orders")
    }
    most = loose["volatility"]["of_targets"]
    assert most > 0
    tight = planned(as_of_ms, most / 2)
    assert tight["volatility"]["of_targets"] <= most / 2 * 1.05
    assert lots(tight).keys() <= lots(free).keys()
    assert 0 < sum(lots(tight).values()) < sum(lots(free).values())
    assert all(lots(tight)[leg] <= lots(free)[leg] for leg in lots(tight))
    # Exits leave as ever, and what no share of fits is refused by name.
    closing = [order for order in free["orders"] if order["action"] == "close"]
    assert [order for order in tight["orders"] if order["action"] == "close"] == closing
    none = planned(as_of_ms, 1e-9)
    assert none["targets"] == []
    assert any("volatility target of 1e-09" in each["why"] for each in none["refused"])
    few = VolatilityControl(0.1, 10, bars, "5m", strategy.portfolio.capital_e8)
    with pytest.raises(DataError, match="a volatility needs 101"):
        few.volatility({bars.symbols[0]: 1.0}, as_of_ms)
