"""Settings of the faults that the paper venue injects: what, how often, and where.

All are off by default. A probability is that of one request of a family, one message of a
stream, one order, or one bar of an order; whether it strikes is decided by the seed alone.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, Field, model_validator

from shared.clock import ms_of_instant

Probability = Annotated[float, Field(ge=0, le=1)]

MAX_LATE_SECONDS = 90.0


class RequestFaults(BaseModel, frozen=True, extra="forbid"):
    """What may happen to a request of a family, each with its probability.

    Attributes
    ----------
    disconnect
        The connection is cut before the venue has done anything.
    rate_limit, ban
        HTTP 429 or 418 before it has done anything; a ban holds for everybody.
    server_error, html
        HTTP 5xx, or a page where JSON belongs; the venue may have done what it was asked.
    lost_answer
        The venue has done what it was asked, and the connection is cut.
    late_answer
        It has done so at once, and says so late.
    """

    disconnect: Probability = 0.0
    rate_limit: Probability = 0.0
    ban: Probability = 0.0
    server_error: Probability = 0.0
    html: Probability = 0.0
    lost_answer: Probability = 0.0
    late_answer: Probability = 0.0


class OrderFaults(RequestFaults, frozen=True):
    """What may happen to a request for a new order.

    Attributes
    ----------
    reject
        The venue refuses it.
    min_notional
        The venue finds it too small, as if its price had moved after the client rounded;
        never an order that is reduce-only.
    """

    reject: Probability = 0.0
    min_notional: Probability = 0.0


class StreamFaults(BaseModel, frozen=True, extra="forbid"):
    """What may happen to a message of a websocket stream.

    Attributes
    ----------
    disconnect
        It is lost, and so are the connections of everyone who listens to the stream.
    duplicate
        It comes twice.
    reorder
        It comes after the next one.
    """

    disconnect: Probability = 0.0
    duplicate: Probability = 0.0
    reorder: Probability = 0.0


class Maintenance(BaseModel, frozen=True, extra="forbid"):
    """A time, at the venue, when it answers nothing and trades nothing; the end is outside it."""

    start: AwareDatetime
    end: AwareDatetime

    @model_validator(mode="after")
    def _has_a_length(self) -> Maintenance:
        if self.end <= self.start:
            raise ValueError(f"the end {self.end} must be after the start {self.start}")
        return self

    @property
    def start_ms(self) -> int:
        """Start in milliseconds since 1970."""
        return ms_of_instant(self.start)

    @property
    def end_ms(self) -> int:
        """End in milliseconds since 1970."""
        return ms_of_instant(self.end)


class FaultSettings(BaseModel, frozen=True, extra="forbid"):
    """Faults of the paper venue.

    Attributes
    ----------
    seed
        What every decision is made from.
    orders, cancels, queries, account, market
        Requests for new orders, to withdraw orders, about orders and trades, about the
        account, and about the market.
    streams
        Messages of websockets.
    late_seconds
        Longest lateness of an answer, in venue time.
    ban_seconds
        How long an injected ban holds, in venue time.
    partial_fill
        Probability that a bar fills but 1 to 99 % of what it would fill of an order.
    invisible_order, invisible_seconds
        Probability that an order cannot be queried at first, and for how long at most, in
        venue time. It trades and can be withdrawn all the while.
    clock_skew_ms
        By how much the clock that the venue shows and judges requests by is ahead.
    enforce_limits
        Whether too many requests are refused, and who goes on all the same is banned.
    usdm_weight_per_minute, spot_weight_per_minute
        Weight of requests that a minute of venue time allows.
    maintenance
        When the venue is closed.
    """

    seed: int = Field(0, ge=0, lt=2**63)
    orders: OrderFaults = OrderFaults()
    cancels: RequestFaults = RequestFaults()
    queries: RequestFaults = RequestFaults()
    account: RequestFaults = RequestFaults()
    market: RequestFaults = RequestFaults()
    streams: StreamFaults = StreamFaults()
    late_seconds: float = Field(MAX_LATE_SECONDS, gt=0, le=MAX_LATE_SECONDS)
    ban_seconds: int = Field(120, ge=1, le=3 * 86_400)
    partial_fill: Probability = 0.0
    invisible_order: Probability = 0.0
    invisible_seconds: float = Field(2.0, gt=0, le=60)
    clock_skew_ms: int = Field(0, ge=-3_600_000, le=3_600_000)
    enforce_limits: bool = False
    usdm_weight_per_minute: int = Field(2_400, ge=1)
    spot_weight_per_minute: int = Field(6_000, ge=1)
    maintenance: tuple[Maintenance, ...] = ()

    def closed_until(self, at: datetime) -> datetime | None:
        """Return the end of the maintenance that an instant lies in, `None` outside any."""
        ends = (each.end for each in self.maintenance if each.start <= at < each.end)
        return max(ends, default=None)
