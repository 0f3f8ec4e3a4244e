"""What a backtest traded, by name: the columns of the loop as the fleet's own records."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Literal

from shared.backtest import digests
from shared.backtest.digests import Row, Tally
from shared.backtest.feature_table import NO_ROSTER
from shared.backtest.loop import BY_CLOSE, BY_OPEN
from shared.backtest.preparation import Prepared
from shared.backtest.trading import Trading
from shared.book.ledger import Fill, Identity
from shared.book.orders import Order, OrderState, Side, client_order_id
from shared.book.positions import PairPosition, PairState
from shared.clock import instant_of_ms
from shared.events.signals import Signal
from shared.sleeves.pairs.rules import EXIT_REASONS, SLEEVE

# In the order of the loop's numbers.
_POSITION_STATES = (PairState.OPENING, PairState.OPEN, PairState.CLOSING, PairState.CLOSED)
_ORDER_STATES = (
    OrderState.ACCEPTED,
    OrderState.PARTIALLY_FILLED,
    OrderState.FILLED,
    OrderState.CANCELLED,
)


@dataclass(frozen=True, slots=True)
class EquityPoint:
    """The account after one trade close, in 1e-8 of the quote."""

    closes_at_ms: int
    cash_e8: int
    equity_e8: int
    gross_e8: int
    n_positions: int


@dataclass(frozen=True, eq=False)
class BacktestResult:
    """Everything a backtest produced.

    Attributes
    ----------
    prepared
        The period, its screens and features.
    trading
        What was traded, as columns.
    identity
        Whose orders these are.
    model_sha256
        The model in force, if there was one.
    """

    prepared: Prepared
    trading: Trading
    identity: Identity
    model_sha256: str | None = None

    @cached_property
    def signals(self) -> list[tuple[int, Signal]]:
        """Every signal after the close that it was raised at, in order."""
        table, found = self.trading.table, self.trading.signals
        signals = []
        for values in zip(*(column.tolist() for column in found), strict=True):
            close, pair, side, reason, entered_at_ms, is_by_model, size_ppm, *floats = values
            z_score, confidence, hedge_ratio, intercept, *floats = floats
            spread_mean, spread_std, close_y, close_x = floats
            y, x = table.pairs[pair]
            signal = Signal(
                sleeve=SLEEVE,
                y=y,
                x=x,
                action="exit" if reason else "enter",
                side=side,
                reason=EXIT_REASONS[reason] or ("model" if is_by_model else "z_score"),
                strength=abs(z_score),
                confidence=None if math.isnan(confidence) else confidence,
                z_score=z_score,
                hedge_ratio=hedge_ratio,
                intercept=intercept,
                spread_mean=spread_mean,
                spread_std=spread_std,
                entered_at=instant_of_ms(entered_at_ms),
                close_y=close_y,
                close_x=close_x,
                model_sha256=self.model_sha256 if is_by_model else None,
                size_ppm=size_ppm,
            )
            signals.append((int(table.closes_at_ms[close]), signal))
        return signals

    @cached_property
    def rosters(self) -> dict[int, datetime | None]:
        """The screen whose roster was followed, by close; `None` before the first one."""
        table = self.trading.table
        return {
            close_ms: None if roster_ms == NO_ROSTER else instant_of_ms(roster_ms)
            for close_ms, roster_ms in zip(
                table.closes_at_ms.tolist(), table.roster_at_ms.tolist(), strict=True
            )
        }

    @cached_property
    def positions(self) -> dict[str, PairPosition]:
        """Every position by its id, in order of opening."""
        found, pairs = self.trading.positions, self.trading.table.pairs
        positions = {}
        for n, pair in enumerate(found.pair.tolist()):
            y, x = pairs[pair]
            closed_at_ms = int(found.closed_at_ms[n])
            position = PairPosition(
                position_id=_intent_id(int(found.opened_at_ms[n]), f"{y}~{x}", "open"),
                pair=f"{y}~{x}",
                symbol_y=y,
                symbol_x=x,
                state=_POSITION_STATES[found.state[n]],
                opened_at_ms=int(found.opened_at_ms[n]),
                lots_y=int(found.lots[n, 0]),
                lots_x=int(found.lots[n, 1]),
                cash_e8=int(found.cash_e8[n]),
                fees_e8=int(found.fees_e8[n]),
                funding_e8=int(found.funding_e8[n]),
                closed_at_ms=None if closed_at_ms < 0 else closed_at_ms,
            )
            positions[position.position_id] = position
        return positions

    @cached_property
    def orders(self) -> dict[str, Order]:
        """Every order by its client order id, in order of submission."""
        positions = list(self.positions.values())
        orders = {}
        for values in zip(*(column.tolist() for column in self.trading.orders), strict=True):
            position, purpose, created_at_ms, leg, side, quantity, filled, _, state = values
            held = positions[position]
            intent_id = _order_intent_id(purpose, created_at_ms, held.pair)
            leg_name: Literal["y", "x"] = "x" if leg else "y"
            order = Order(
                client_order_id=client_order_id(
                    self.identity.account, self.identity.run, intent_id, leg_name, 0
                ),
                intent_id=intent_id,
                pair=held.pair,
                leg=leg_name,
                attempt=0,
                symbol=held.holding(leg_name)[0],
                side=Side.BUY if side > 0 else Side.SELL,
                quantity_lots=quantity,
                reduce_only=purpose != BY_OPEN,
                created_at_ms=created_at_ms,
                state=_ORDER_STATES[state],
                filled_lots=filled,
            )
            orders[order.client_order_id] = order
        return orders

    @cached_property
    def fills(self) -> list[Fill]:
        """Every fill, in order of booking."""
        orders = list(self.orders.values())
        fills = []
        for values in zip(*(column.tolist() for column in self.trading.fills), strict=True):
            number_of_order, fill_number, lots, price_ticks, fee_e8, filled_at_ms = values
            order = orders[number_of_order]
            fills.append(
                Fill(
                    client_order_id=order.client_order_id,
                    fill_number=fill_number,
                    pair=order.pair,
                    leg=order.leg,
                    symbol=order.symbol,
                    side=order.side,
                    lots=lots,
                    price_ticks=price_ticks,
                    fee_e8=fee_e8,
                    filled_at_ms=filled_at_ms,
                )
            )
        return fills

    @cached_property
    def equity(self) -> list[EquityPoint]:
        """The account after every trade close."""
        columns = (self.trading.table.closes_at_ms, *self.trading.equity)
        points = zip(*(column.tolist() for column in columns), strict=True)
        return [EquityPoint(*point) for point in points]

    @cached_property
    def tally(self) -> Tally:
        """Counts and the rows behind the digests."""
        prepared, market = self.prepared, self.prepared.market
        return Tally(
            closes=len(market.closes(prepared.start_ms, prepared.end_ms)),
            bars=sum(len(bars) for bars in prepared.seen),
            quarantined=sum(len(checked.quarantined) for checked in market.checked.values()),
            intents=self.trading.n_intents,
            rows={
                "pairs": [row for screen in prepared.screens for row in digests.pair_rows(screen)],
                "features": list(self._feature_rows()),
                "signals": [
                    digests.signal_row(at_ms, self.rosters[at_ms], signal)
                    for at_ms, signal in self.signals
                ],
                "orders": [digests.order_row(order) for order in self.orders.values()],
                "fills": [digests.fill_row(fill) for fill in self.fills],
                "positions": [digests.position_row(each) for each in self.positions.values()],
            },
        )

    def _feature_rows(self) -> Iterator[Row]:
        table = self.trading.table
        closes = table.row_close()
        at_ms, roster_ms = table.closes_at_ms[closes].tolist(), table.roster_at_ms[closes].tolist()
        for n, pair in enumerate(table.pair.tolist()):
            y, x = table.pairs[pair]
            yield (
                at_ms[n],
                y,
                x,
                "active" if table.is_active[n] else "closing_only",
                roster_ms[n],
                float(table.close_y[n]),
                float(table.close_x[n]),
                table.values[n].tolist(),
            )


def _order_intent_id(purpose: int, at_ms: int, pair: str) -> str:
    if purpose in {BY_OPEN, BY_CLOSE}:
        return _intent_id(at_ms, pair, "open" if purpose == BY_OPEN else "close")
    return f"{at_ms}:{pair}:unwind"


def _intent_id(at_ms: int, pair: str, action: str) -> str:
    return f"{at_ms}:{SLEEVE}:{pair}:{action}"
