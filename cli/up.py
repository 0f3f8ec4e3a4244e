"""`mnt up`: the whole fleet on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import text

from cli.events import LoggedEvent, LogReader, notable
from cli.fleet.access import database_url, transport_url, without_password
from cli.fleet.home import FleetError, FleetHome, write_atomically
from cli.fleet.merged_log import LogLine, MergedLog
from cli.fleet.status import ProcessState
from cli.fleet.supervisor import Supervisor
from cli.fleet.topology import MLFLOW, SERVICES, server_specs, service_specs, take_keys
from shared.clock import monotonic_seconds
from shared.database.engine import create_engine, transaction
from shared.database.migrate import upgrade
from shared.errors import DataError, SettingsError, StoreError
from shared.settings import (
    PREFIX,
    Settings,
    environment_of,
    load_settings,
    refuse_weak_secrets,
)
from shared.venues.recorded import read_bar_files

MarketSource = Literal["simulated", "recorded", "live"]

_PAGES = {"paper_exchange": "", "trainer": "/console"}
"""What a person opens of a service, where it is not its documentation."""
_POLL_SECONDS = 0.25
_NAME_WIDTH = 14
_LEVEL_STYLES = {"warning": "yellow", "error": "bold red", "critical": "bold red", "raw": "dim"}

SIMULATED_DEFAULTS = {
    # A market made to be watched: a day of it passes in five minutes, so it trains daily, on
    # the bars it has. Its models are labelled in-sample and no gate takes them for evidence.
    "MNT_TRAINER__TRAIN_EVERY_CLOSES": "288",
    "MNT_TRAINER__IN_SAMPLE": "true",
    # A forest takes a minute, in which a quarter of such a day would pass.
    "MNT_TRAINER__FAMILIES": "logistic_regression",
}


@dataclass(frozen=True, slots=True)
class UpRequest:
    """What to bring up.

    Attributes
    ----------
    source
        The market; the settings decide when it is not given.
    bars, start
        Of a recorded market.
    overrides
        Settings as `section.key=value`; they go before the environment.
    is_with_mlflow
        Run MLflow's own server for people; the trainer does without.
    """

    source: MarketSource | None
    bars: tuple[Path, ...] = ()
    start: datetime | None = None
    overrides: tuple[str, ...] = ()
    is_with_mlflow: bool = True


def market_source(name: str) -> MarketSource:
    """Return a source by its name.

    Raises
    ------
    SettingsError
        If there is no such source.
    """
    for known in get_args(MarketSource):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise SettingsError(f"--market {name}: choose from {', '.join(get_args(MarketSource))}")


async def run_up(home: FleetHome, request: UpRequest, console: Console) -> None:
    """Run the fleet until a signal.

    Raises
    ------
    FleetError
        If the home is in use or holds another market, or a process does not start.
    SettingsError
        If a setting is unknown or out of bounds.
    StoreError
        If a server named by a setting does not answer.
    """
    began = monotonic_seconds()
    settings = prepare_environment(home, request)
    home.create()
    claim_market(home, settings)
    environment = {name: os.environ[name] for name in os.environ if name.startswith(PREFIX)}
    environment.update(take_keys(home))
    console.print(f"home {home.path}, {describe_market(settings)}", highlight=False)
    async with Supervisor(home) as fleet:
        shown = asyncio.create_task(_show_progress(fleet, console, began))
        try:
            await fleet.start(server_specs(home, environment))
            merged_log = MergedLog(home.logs, SERVICES)
            await asyncio.to_thread(upgrade, database_url(home))
            await _refuse_replay(home)
            is_served = request.is_with_mlflow and settings.mlflow_url is None
            await fleet.start(
                service_specs(home, environment, (*SERVICES, MLFLOW) if is_served else SERVICES)
            )
        finally:
            shown.cancel()
        _show_progress_once(fleet, console, began, set())
        console.print(_what_runs_where(home, fleet, settings))
        console.print(_what_to_try(home), highlight=False)
        watched = asyncio.create_task(_show_life(home, merged_log, console))
        try:
            await fleet.run_until_signalled()
        finally:
            watched.cancel()
            console.print("stopping: services first, then the servers", style="bold")
    console.print("stopped; the next `mnt up` goes on from here", style="bold")


def prepare_environment(home: FleetHome, request: UpRequest) -> Settings:
    """Put the fleet's settings into this process's environment, which its processes inherit.

    `--set` goes before the environment, the environment before what the market implies.

    Raises
    ------
    SettingsError
        If a setting is unknown or out of bounds, or the market lacks something.
    """
    chosen = environment_of(request.overrides)
    if request.source is not None:
        chosen[f"{PREFIX}MARKET__SOURCE"] = request.source
    if request.bars:
        chosen[f"{PREFIX}MARKET__SOURCE"] = "recorded"
        paths = [str(path.resolve()) for path in request.bars]
        chosen[f"{PREFIX}MARKET__BARS"] = orjson.dumps(paths).decode()
    if request.start is not None:
        chosen[f"{PREFIX}MARKET__START"] = request.start.isoformat()
    os.environ.update(chosen)
    implied = _implied_by(load_settings())
    for name, value in implied.items():
        os.environ.setdefault(name, value)
    settings = load_settings()
    refuse_weak_secrets(settings)
    if settings.replay.bars:
        raise SettingsError(
            "MNT_REPLAY__BARS belongs to `mnt replay`: unset it, or use --bars to trade recorded "
            "bars at a pace"
        )
    return settings


def _implied_by(settings: Settings) -> Mapping[str, str]:
    """Return the settings that follow from the market, where they were not given."""
    market = settings.market
    if market.source == "simulated":
        since = market.start - timedelta(days=market.history_days)
        return {
            f"{PREFIX}VENUE_NAME": "simulated",
            f"{PREFIX}FOLLOW__SINCE": since.isoformat(),
            **SIMULATED_DEFAULTS,
        }
    if market.source == "recorded":
        if not market.bars:
            raise SettingsError(
                "a recorded market needs files: give --bars once per file, of 1h bars and of "
                f"{settings.trade_timeframe} bars"
            )
        try:
            venues = sorted({bars.venue for bars in read_bar_files(market.bars)})
        except DataError as error:
            raise SettingsError(f"--bars: {error}") from error
        since = datetime(1970, 1, 2, tzinfo=UTC)
        return {f"{PREFIX}VENUE_NAME": venues[0], f"{PREFIX}FOLLOW__SINCE": since.isoformat()}
    return {f"{PREFIX}VENUE_NAME": market.exchange}


def describe_market(settings: Settings) -> str:
    """Return in words what is traded."""
    market = settings.market
    if market.source == "simulated":
        return f"simulated market (seed {market.seed}), {market.speed:g} times as fast as the clock"
    if market.source == "recorded":
        names = ", ".join(path.name for path in market.bars)
        return f"recorded market ({names}), {market.speed:g} times as fast as the clock"
    place = f" at {market.exchange_url}" if market.exchange_url else ""
    return f"live market of {market.exchange}{place}, paper fills"


def claim_market(home: FleetHome, settings: Settings) -> None:
    """Note which market a home trades, or refuse to let it trade another.

    Positions of one market cannot be closed on another, and bars of two do not mix.

    Raises
    ------
    FleetError
        If the home trades another market.
    """
    market = settings.market
    identity: dict[str, object] = {"source": market.source, "venue": settings.venue_name}
    if market.source == "simulated":
        identity.update(seed=market.seed, start=market.start.isoformat(), days=market.history_days)
    elif market.source == "live":
        identity.update(exchange=market.exchange, url=market.exchange_url)
    file = home.path / "market.json"
    if not file.exists():
        write_atomically(file, json.dumps(identity, indent=1) + "\n")
        return
    known = json.loads(file.read_text())
    if known != identity:
        raise FleetError(
            f"{home.path} trades the market {known}, not {identity}: choose another home with "
            "--home, or remove this one with all its record"
        )


async def _refuse_replay(home: FleetHome) -> None:
    engine = create_engine(database_url(home), application="mnt", pool_size=1)
    try:
        async with transaction(engine) as connection:
            is_replay = await connection.scalar(text("SELECT EXISTS (SELECT FROM replay_progress)"))
    finally:
        await engine.dispose()
    if is_replay:
        raise FleetError(
            f"{home.path} holds the record of a replay: bring the fleet up in a home of its own "
            "with --home"
        )


async def _show_progress(fleet: Supervisor, console: Console, began: float) -> None:
    announced: set[str] = set()
    while True:
        _show_progress_once(fleet, console, began, announced)
        await asyncio.sleep(_POLL_SECONDS / 2)


def _show_progress_once(
    fleet: Supervisor, console: Console, began: float, announced: set[str]
) -> None:
    statuses = fleet.status()
    for status in statuses:
        if status.state is ProcessState.READY and status.name not in announced:
            announced.add(status.name)
            seconds = monotonic_seconds() - began
            console.print(
                f"  {len(announced):2}/{len(statuses)}  {status.name:<{_NAME_WIDTH}} "
                f"ready after {seconds:.1f} s",
                highlight=False,
            )


def _what_runs_where(home: FleetHome, fleet: Supervisor, settings: Settings) -> Table:
    table = Table("process", "pid", "address", box=None, padding=(0, 2))
    for status in fleet.status():
        address = "" if status.port is None else f"127.0.0.1:{status.port}"
        if status.name in SERVICES:
            address = f"http://{address}{_PAGES.get(status.name, '/docs')}"
        elif status.name == MLFLOW:
            address = f"http://{address}"
        table.add_row(status.name, str(status.pid or ""), address)
    names = {status.name for status in fleet.status()}
    for name, url in (("postgres", database_url(home)), ("valkey", transport_url(home))):
        if name not in names:
            table.add_row(name, "", f"{without_password(url)} (external)")
    if settings.mlflow_url is not None:
        table.add_row("mlflow", "", f"{without_password(settings.mlflow_url)} (external)")
    return table


def _what_to_try(home: FleetHome) -> str:
    option = "" if home.path == Path(".mnt").resolve() else f" --home {home.path}"
    return (
        "\nIn another terminal:\n"
        f"  mnt status{option}\n"
        f"  mnt events tail{option}\n"
        f"  mnt publish bars.5m @bars.json{option}\n"
        f"Tokens are in {home.secrets}, logs in {home.logs}. Ctrl-C stops everything.\n"
    )


async def _show_life(home: FleetHome, merged_log: MergedLog, console: Console) -> None:
    """Print what the processes log and what happens on the bus."""
    reader = LogReader()
    engine = create_engine(database_url(home), application="mnt-up", pool_size=1)
    is_placed = False
    try:
        while True:
            for line in merged_log.read():
                console.print(_log_text(line))
            try:
                async with transaction(engine) as connection:
                    if not is_placed:
                        await reader.skip_to_end(connection, kept=1)
                        is_placed = True
                    events = await reader.read(connection)
            except StoreError:
                events = []  # it is being restarted, which the supervisor reports
            for event in events:
                for words in notable(event.event):
                    console.print(_event_text(event, words))
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        await engine.dispose()


def _event_text(logged: LoggedEvent, words: str) -> Text:
    line = Text(f"{logged.event.closes_at:%Y-%m-%d %H:%M}  ", style="dim")
    line.append(f"{logged.topic:<18}", style="cyan")
    line.append(words, style="default")
    return line


def _log_text(logged: LogLine) -> Text:
    style = _LEVEL_STYLES.get(logged.level, "default")
    line = Text(f"{'':16}  ", style="dim")
    line.append(f"{logged.process:<18}", style="magenta")
    line.append(logged.words, style=style)
    return line
