"""The services of a fleet, each as its own composition root puts it together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from services.executor.handlers import Executor
from services.features.handlers import Features
from services.ingest.handlers import Ingest
from services.ingest.recorded import RecordedSource
from services.portfolio.handlers import Portfolio
from services.screener.handlers import Screening
from services.signals.handlers import Signals
from shared.book.execution import FillTerms
from shared.book.limits import RiskLimits
from shared.book.sizing import SizingSettings
from shared.bus.consumer import Routes
from shared.clock import instant_of_ms
from shared.events.catalogue import owned_topics
from shared.service import Runtime
from shared.settings import ReplaySettings, Settings
from shared.sleeves.pairs.features import FeatureSettings
from shared.sleeves.pairs.rules import SignalSettings
from shared.sleeves.pairs.screening import ScreenSettings
from tests.simulation.fleet_market import LAST_CLOSE_MS
from tests.simulation.world import FIRST_OPEN_MS

Service = Ingest | RecordedSource | Screening | Features | Signals | Portfolio | Executor
Build = Callable[[Settings, Runtime], tuple[Service, Routes]]


def fleet_settings() -> Settings:
    """Return what every service is told: short windows, few slots, trades that come and go."""
    return Settings(
        api_token_file=Path(os.devnull),
        venue_api_key=SecretStr("key"),
        venue_api_secret=SecretStr("secret"),
        trade_timeframe="15m",
        replay=ReplaySettings(
            bars=(Path("recorded.parquet"),),
            start=instant_of_ms(FIRST_OPEN_MS),
            end=instant_of_ms(LAST_CLOSE_MS),
        ),
        screener=ScreenSettings(
            method="p_value",
            level=0.3,
            window_bars=200,
            enter_after_screens=1,
            leave_after_screens=1,
            hedge_ratio_min=0.01,
            hedge_ratio_max=100.0,
            half_life_min_bars=0.0,
            hurst_max=1.0,
            correlation_min=-1.0,
            crossings_min=0,
        ),
        features=FeatureSettings(
            beta_window=24, z_window=12, lags=2, volume_window=4, trend_window=4
        ),
        signals=SignalSettings(
            entry_z=1.0,
            exit_z=0.4,
            stop_z=6.0,
            max_hold_bars=4,
            cooldown_bars=1,
            hedge_ratio_min=0.01,
            hedge_ratio_max=100.0,
        ),
        portfolio=SizingSettings(top_k=2, gross_cap=0.5, symbol_cap=0.5),
        # A replay's clock may run ahead of its market while something is retried.
        limits=RiskLimits(max_data_age_seconds=1e6, max_orders_per_minute=10**6),
        execution=FillTerms(funding_ppm=0),
    )


def _ingest(settings: Settings, runtime: Runtime) -> tuple[Service, Routes]:
    source = RecordedSource(settings, runtime)
    ingest = Ingest(settings.ingest, lambda _: LAST_CLOSE_MS)
    return source, Routes(
        handlers={},
        adopters={topic.name: ingest.adopter(topic.name) for topic in owned_topics("ingest")},
        reload=ingest.reload,
        when_idle=source.release_next,
    )


def _screener(settings: Settings, _: Runtime) -> tuple[Service, Routes]:
    screening = Screening(settings)
    return screening, Routes(
        handlers={"bars.1h": screening.screen_close},
        adopters={"pairs.screened": screening.adopt_roster},
        reload=screening.reload,
    )


def _features(settings: Settings, _: Runtime) -> tuple[Service, Routes]:
    features = Features(settings)
    return features, features.routes


def _signals(settings: Settings, _: Runtime) -> tuple[Service, Routes]:
    signals = Signals(settings)
    return signals, signals.routes


def _portfolio(settings: Settings, _: Runtime) -> tuple[Service, Routes]:
    portfolio = Portfolio(settings)
    return portfolio, portfolio.routes


def _executor(settings: Settings, runtime: Runtime) -> tuple[Service, Routes]:
    executor = Executor(settings)
    executor.attach(runtime)
    return executor, executor.routes


BUILDS: dict[str, Build] = {
    "ingest": _ingest,
    "screener": _screener,
    "features": _features,
    "signals": _signals,
    "portfolio": _portfolio,
    "executor": _executor,
}
