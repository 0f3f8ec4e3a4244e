"""Limits of the account: the belt below whatever decides what to trade.

A limit takes away permission to open, never permission to close. What one intent breaks
denies that intent; what the account itself breaks (losses, slippage, a producer gone mad)
takes trading to reduce-only, until a person lets it go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, Field

from shared.book.arithmetic import PARTS_PER_MILLION
from shared.book.instrument import Instrument
from shared.book.orders import Order
from shared.book.positions import PairPosition
from shared.book.sizing import fraction_of_e8


class RiskLimits(BaseModel, frozen=True, extra="forbid"):
    """What the executor never goes beyond, whatever it is asked for.

    Attributes
    ----------
    order_cap, intent_cap
        Largest order, and largest parent (both legs of an opening intent), as multiples of the
        capital.
    symbol_cap, gross_cap, net_cap
        Largest gross notional of one symbol, of the book, and largest net notional of the
        book either way, orders that work included, as multiples of the capital.
    max_orders_per_minute
        Orders sent within a minute of the venue's time, from which on nothing is opened.
    max_daily_loss, max_drawdown
        Largest loss since midnight UTC, and since the highest equity, open profit included,
        as fractions of the capital.
    max_slippage_ppm
        Furthest that a fill may be worse than the mark its order was decided at.
    max_data_age_seconds, max_data_lead_seconds
        Oldest close, and furthest ahead of the venue's time, that may open anything.
    max_clock_skew_seconds
        Furthest that our clock may be from the venue's; `None` where the venue's market does
        not keep our time, as a simulated or recorded one.
    """

    order_cap: float = Field(10.0, gt=0)
    intent_cap: float = Field(10.0, gt=0)
    symbol_cap: float = Field(10.0, gt=0)
    gross_cap: float = Field(20.0, gt=0)
    net_cap: float = Field(10.0, gt=0)
    max_orders_per_minute: int = Field(1_000, gt=0)
    max_daily_loss: float = Field(0.25, gt=0)
    max_drawdown: float = Field(0.5, gt=0)
    max_slippage_ppm: int = Field(200_000, gt=0)
    max_data_age_seconds: float = Field(3_600.0, gt=0)
    max_data_lead_seconds: float = Field(60.0, ge=0)
    max_clock_skew_seconds: float | None = Field(None, gt=0)


@dataclass(frozen=True, slots=True)
class RiskView:
    """What the limits are judged by beside the book itself.

    Attributes
    ----------
    recent_orders
        Orders sent within the last minute of the venue's time.
    day_start_e8, peak_e8
        Equity at the start of the day and at its highest, since trading was last resumed;
        `None` where no close has been settled since.
    data_age_ms
        How long ago the close was, `None` where the venue was not asked; less than nothing
        where it is still to come.
    clock_skew_ms
        Our time less the venue's, `None` where the venue was not asked.
    """

    recent_orders: int = 0
    day_start_e8: int | None = None
    peak_e8: int | None = None
    data_age_ms: int | None = None
    clock_skew_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """The limits of one close: what they are, of which capital, and what they are judged by."""

    limits: RiskLimits
    capital_e8: int
    view: RiskView = RiskView()

    def breach(self, equity_e8: int, n_orders: int) -> str | None:
        """Return why the account may open nothing until a person says so, or `None`.

        Parameters
        ----------
        equity_e8
            At the marks of this close.
        n_orders
            Orders that this close is about to send.
        """
        view, limits = self.view, self.limits
        n_recent = view.recent_orders + n_orders
        if n_recent > limits.max_orders_per_minute:
            return (
                f"{n_recent} orders within a minute, more than the "
                f"{limits.max_orders_per_minute} of max_orders_per_minute: "
                "find out who asks for them"
            )
        for name, start_e8, fraction in (
            ("max_daily_loss", view.day_start_e8, limits.max_daily_loss),
            ("max_drawdown", view.peak_e8, limits.max_drawdown),
        ):
            allowed_e8 = fraction_of_e8(self.capital_e8, fraction)
            if start_e8 is not None and start_e8 - equity_e8 > allowed_e8:
                return f"a loss of {start_e8 - equity_e8}e-8 is beyond {name} of {allowed_e8}e-8"
        return None

    def slippage(self, order: Order, mark_ticks: int, price_ticks: int) -> str | None:
        """Return why a fill is too far from the mark its order was decided at, or `None`."""
        worse_ticks = order.side.sign * (price_ticks - mark_ticks)
        if worse_ticks * PARTS_PER_MILLION <= mark_ticks * self.limits.max_slippage_ppm:
            return None
        return (
            f"{order.symbol}: a fill at {price_ticks} ticks is worse than the mark of "
            f"{mark_ticks} by more than max_slippage_ppm of {self.limits.max_slippage_ppm}"
        )

    def staleness(self) -> str | None:
        """Return why this close is no ground for opening anything, or `None`."""
        view, limits = self.view, self.limits
        age_ms, skew_ms = view.data_age_ms, view.clock_skew_ms
        if age_ms is not None and age_ms > limits.max_data_age_seconds * 1_000:
            return f"the close is {age_ms} ms old, beyond max_data_age_seconds"
        if age_ms is not None and -age_ms > limits.max_data_lead_seconds * 1_000:
            return (
                f"the close is {-age_ms} ms ahead of the venue's time, beyond max_data_lead_seconds"
            )
        largest = limits.max_clock_skew_seconds
        if largest is not None and skew_ms is not None and abs(skew_ms) > largest * 1_000:
            return f"our clock is {skew_ms} ms from the venue's, beyond max_clock_skew_seconds"
        return None

    def denial(self, before: Exposure, wanted: Iterable[tuple[str, int]]) -> str | None:
        """Return which limit orders for new exposure would break, or `None`.

        Parameters
        ----------
        before
            The book and the orders that work.
        wanted
            Symbol and signed notional of each order of one intent.
        """
        orders = list(wanted)
        parent_e8 = sum(abs(notional_e8) for _, notional_e8 in orders)
        after = before.plus(orders)
        checks = [(f"{symbol}: order_cap", abs(n), self.limits.order_cap) for symbol, n in orders]
        checks.append(("intent_cap", parent_e8, self.limits.intent_cap))
        checks += [
            (f"{symbol}: symbol_cap", after.gross_by_symbol_e8[symbol], self.limits.symbol_cap)
            for symbol, _ in orders
        ]
        checks.append(("gross_cap", after.gross_e8, self.limits.gross_cap))
        checks.append(("net_cap", after.worst_net_e8, self.limits.net_cap))
        for name, notional_e8, multiple in checks:
            allowed_e8 = fraction_of_e8(self.capital_e8, multiple)
            if notional_e8 > allowed_e8:
                return f"{name} of {allowed_e8}e-8 would be exceeded: {notional_e8}e-8"
        return None


@dataclass(frozen=True, slots=True)
class Exposure:
    """Notionals of what is held and of what orders that work may add.

    Attributes
    ----------
    long_e8, short_e8
        Unsigned, with all purchases that work, and with all sales.
    """

    gross_by_symbol_e8: Mapping[str, int]
    long_e8: int
    short_e8: int
    held_net_e8: int

    @property
    def gross_e8(self) -> int:
        """Gross notional of the book."""
        return sum(self.gross_by_symbol_e8.values())

    @property
    def worst_net_e8(self) -> int:
        """Largest net notional either way, whichever of the orders fill."""
        return max(abs(self.held_net_e8 + self.long_e8), abs(self.held_net_e8 - self.short_e8))

    def plus(self, orders: Iterable[tuple[str, int]]) -> Exposure:
        """Return the exposure with more orders: symbol and signed notional of each."""
        gross = dict(self.gross_by_symbol_e8)
        long_e8, short_e8 = self.long_e8, self.short_e8
        for symbol, notional_e8 in orders:
            gross[symbol] = gross.get(symbol, 0) + abs(notional_e8)
            long_e8 += max(0, notional_e8)
            short_e8 += max(0, -notional_e8)
        return Exposure(gross, long_e8, short_e8, self.held_net_e8)


def exposure_of(
    positions: Iterable[PairPosition],
    orders: Iterable[Order],
    unattributed_lots: Mapping[str, int],
    marks_ticks: Mapping[str, int],
    instruments: Mapping[str, Instrument],
) -> Exposure:
    """Return the exposure of a book; orders that only reduce count as not yet filled."""
    gross: dict[str, int] = {}
    net_e8 = 0
    held = [leg for p in positions for leg in (p.holding("y"), p.holding("x")) if leg[1]]
    for symbol, lots in (*held, *unattributed_lots.items()):
        notional_e8 = instruments[symbol].notional_e8(marks_ticks[symbol], lots)
        gross[symbol] = gross.get(symbol, 0) + abs(notional_e8)
        net_e8 += notional_e8
    return Exposure(gross, 0, 0, net_e8).plus(
        (
            order.symbol,
            order.side.sign
            * instruments[order.symbol].notional_e8(
                marks_ticks[order.symbol], order.remaining_lots
            ),
        )
        for order in orders
        if order.is_working and not order.reduce_only
    )
