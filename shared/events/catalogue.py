"""Which stream carries which event, and who publishes it."""

from __future__ import annotations

from dataclasses import dataclass

from shared.clock import TIMEFRAME_MS
from shared.errors import ContractError
from shared.events.base import Event
from shared.events.executor import FillsBooked, OrdersUpdated, PositionsChanged, RiskChanged
from shared.events.features import FeaturesComputed
from shared.events.ingest import BarsClosed
from shared.events.portfolio import OrdersRequested
from shared.events.screener import PairsScreened
from shared.events.signals import SignalsRaised
from shared.events.trainer import DriftTripped, ModelPromoted


@dataclass(frozen=True, slots=True)
class Topic:
    """A stream: its name, its event and the service that owns it."""

    name: str
    event: type[Event]
    publisher: str
    subject: str


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        *(
            Topic(f"bars.{timeframe}", BarsClosed, "ingest", f"bars of {timeframe}")
            for timeframe in TIMEFRAME_MS
        ),
        Topic("pairs.screened", PairsScreened, "screener", "the roster after a screen"),
        Topic("features.computed", FeaturesComputed, "features", "features of the roster"),
        Topic("models.promoted", ModelPromoted, "trainer", "a model took an alias"),
        Topic("drift.tripped", DriftTripped, "trainer", "a check of drift beyond its bounds"),
        Topic("signals.raised", SignalsRaised, "signals", "entries and exits"),
        Topic("orders.requested", OrdersRequested, "portfolio", "intents"),
        Topic("orders.updated", OrdersUpdated, "executor", "order life cycle"),
        Topic("fills.booked", FillsBooked, "executor", "fills"),
        Topic("positions.changed", PositionsChanged, "executor", "account and positions"),
        Topic("risk.changed", RiskChanged, "executor", "what may be traded"),
    )
}


def topic_named(name: str) -> Topic:
    """Return a topic.

    Raises
    ------
    ContractError
        If no such stream exists.
    """
    try:
        return TOPICS[name]
    except KeyError:
        raise ContractError(f"unknown stream {name!r}: use one of {', '.join(TOPICS)}") from None


def owned_topics(service: str) -> tuple[Topic, ...]:
    """Return the streams that a service publishes and into which it adopts foreign entries."""
    return tuple(topic for topic in TOPICS.values() if topic.publisher == service)
