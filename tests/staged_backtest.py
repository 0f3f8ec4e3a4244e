"""The fleet's own stages, close after close in one process: what the compiled loop must equal.

Every stage is the function the service of its name calls; only the venue is replaced, by
the fill kernel it runs itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shared.backtest import digests
from shared.backtest.digests import Row, Tally
from shared.backtest.result import EquityPoint
from shared.book.execution import Execution, execute_market_order
from shared.book.ledger import (
    Fill,
    Identity,
    Ledger,
    OrderReport,
    Settlement,
    acknowledge,
    settle_close,
)
from shared.book.orders import Order, OrderState, advance_order, fill_order
from shared.book.positions import PairPosition
from shared.book.reports import positions_changed
from shared.book.targets import LiveTarget, plan_intents, release_closed
from shared.clock import ms_of_instant, timeframe_ms
from shared.events.features import FeaturesComputed
from shared.events.ingest import BarsClosed
from shared.events.screener import PairsScreened
from shared.events.signals import SignalsRaised
from shared.quant.bars import Bars
from shared.sleeves.pairs.features import Pair
from shared.sleeves.pairs.following import JoinedHistory, PairFollower, followed_at
from shared.sleeves.pairs.rules import PairTrade, decide_signals
from shared.sleeves.pairs.screener import PairScreener
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME, StrategySettings
from shared.sleeves.pairs.stored_model import StoredModel
from shared.venues.market import RecordedMarket, bars_closed


@dataclass(slots=True)
class StagedResult:
    """Everything a backtest produced.

    Attributes
    ----------
    tally
        Counts and the rows behind the digests.
    bars_digest
        Digest of the bars seen, history included.
    """

    tally: Tally = field(default_factory=Tally)
    screens: list[PairsScreened] = field(default_factory=list)
    signals: list[SignalsRaised] = field(default_factory=list)
    orders: dict[str, Order] = field(default_factory=dict)
    fills: list[Fill] = field(default_factory=list)
    positions: dict[str, PairPosition] = field(default_factory=dict)
    equity: list[EquityPoint] = field(default_factory=list)
    bars_digest: str = ""


class SimulatedVenue:
    """The paper venue's market without its network: orders fill at the next bar's open."""

    def __init__(self, market: RecordedMarket, settings: StrategySettings) -> None:
        self._market = market
        self._settings = settings
        self._bars = market.checked[settings.trade_timeframe].accepted
        self._orders: dict[str, Order] = {}
        self._executions: dict[str, list[tuple[int, Execution]]] = {}

    def submit(self, order: Order) -> OrderReport:
        """Accept an order; it trades from the next bar on."""
        accepted = advance_order(order, OrderState.ACCEPTED)
        self._orders[order.client_order_id] = accepted
        self._executions[order.client_order_id] = []
        return OrderReport(order.client_order_id, accepted.state)

    def cancel(self, order: Order) -> None:
        """Withdraw what is left of an order."""
        known = self._orders[order.client_order_id]
        if known.is_working:
            self._orders[order.client_order_id] = advance_order(known, OrderState.CANCELLED)

    def advance(self, closes_at_ms: int) -> None:
        """Fill working orders against the bars that close now."""
        working = [order for order in self._orders.values() if order.is_working]
        if not working:
            return
        bars = self._bars.at(closes_at_ms)
        opened_at_ms = closes_at_ms - timeframe_ms(self._settings.trade_timeframe)
        row_of = {bars.symbols[code]: row for row, code in enumerate(bars.symbol_code.tolist())}
        for order in working:
            row = row_of.get(order.symbol)
            if row is None or order.created_at_ms > opened_at_ms:
                continue
            execution = execute_market_order(
                order.side,
                order.remaining_lots,
                float(bars.open[row]),
                float(bars.volume[row]),
                self._market.instruments[order.symbol],
                self._settings.execution,
            )
            if execution is not None:
                self._orders[order.client_order_id] = fill_order(order, execution.lots)
                self._executions[order.client_order_id].append((opened_at_ms, execution))

    def reports(self, ledger: Ledger) -> list[OrderReport]:
        """Return what the venue says of the book's working orders."""
        return [
            OrderReport(key, self._orders[key].state, tuple(self._executions[key]))
            for key, order in ledger.orders.items()
            if order.is_working
        ]


class _Stages:
    """The stages of one run and what passes between them."""

    def __init__(
        self,
        market: RecordedMarket,
        settings: StrategySettings,
        identity: Identity,
        champion: StoredModel | None,
    ) -> None:
        self._champion = champion
        self._market = market
        self._settings = settings
        self._identity = identity
        self._trade_bars = market.checked[settings.trade_timeframe].accepted
        self._screener = PairScreener(settings.screener, SCREEN_TIMEFRAME)
        self._follower = PairFollower(settings.features, settings.trade_timeframe)
        self._trades: dict[tuple[str, str], PairTrade] = {}
        self._live: dict[tuple[str, str], LiveTarget] = {}
        self._ledger = Ledger(settings.portfolio.capital_e8)
        self._venue = SimulatedVenue(market, settings)
        self.result = StagedResult()

    def learn_history(self, start_ms: int | None) -> None:
        """Give the screener its window; bars up to the start are history."""
        if start_ms is None:
            return
        bars = self._market.checked[SCREEN_TIMEFRAME].accepted.between(None, start_ms)
        for closes_at_ms in bars.closes()[-self._settings.screener.window_bars :].tolist():
            self._screener.push(bars_closed(bars.at(closes_at_ms)))

    def step(self, closes_at_ms: int) -> None:
        """Take one instant through the fleet, the longest timeframe first."""
        self.result.tally.closes += 1
        self._venue.advance(closes_at_ms)
        for closed in self._market.events_at(closes_at_ms):
            if closed.timeframe == SCREEN_TIMEFRAME:
                self._screen(closed)
            if closed.timeframe == self._settings.trade_timeframe:
                self._trade(closed)

    def _screen(self, closed: BarsClosed) -> None:
        screened = self._screener.screen(closed, frozenset(self._market.instruments))
        self.result.screens.append(screened.event)
        self.result.tally.rows["pairs"].extend(digests.pair_rows(screened.event))

    def _trade(self, closed: BarsClosed) -> None:
        computed = self._compute(closed)
        raised, self._trades = decide_signals(
            self._trades,
            computed,
            self._settings.signals,
            self._settings.features.spread_space,
            self._champion,
            None,  # every close comes in one event here
        )
        plan = plan_intents(
            self._live,
            raised,
            self._market.instruments,
            self._settings.portfolio,
            self._settings.features.spread_space,
        )
        settlement = settle_close(
            self._ledger,
            plan.requested,
            self._venue.reports(self._ledger),
            self._market.instruments,
            self._settings.execution,
            self._identity,
        )
        for order in settlement.cancel:
            self._venue.cancel(order)
        accepted = [self._venue.submit(order) for order in settlement.submit]
        self._ledger, acknowledged = acknowledge(settlement.ledger, accepted)
        changed = positions_changed(closed.closes_at, settlement)
        self._live = release_closed(plan.live, changed)
        self._keep(computed, raised, settlement, acknowledged, len(plan.requested.intents))

    def _compute(self, closed: BarsClosed) -> FeaturesComputed:
        followed, roster = followed_at(self.result.screens[-4:], closed.closes_at_ms)
        for pair in self._follower.unknown_pairs(followed, closed):
            history = self._joined_history(pair, closed.closes_at_ms)
            self._follower.learn(pair, closed.closes_at_ms, history)
        return self._follower.compute(closed, followed, roster)

    def _joined_history(self, pair: Pair, before_ms: int) -> JoinedHistory:
        """Return the last joined bars of a pair before a close."""
        bars = self._trade_bars.between(None, before_ms - 1)
        span = 2 * self._follower.history_bars
        while True:
            closes = bars.closes()[-span:]
            close = bars.wide(pair, "close", closes)
            volume = bars.wide(pair, "volume", closes)
            joined = ~np.isnan(close).any(axis=1)
            if np.count_nonzero(joined) >= self._follower.history_bars or span >= len(closes):
                break
            span *= 2
        rows = np.flatnonzero(joined)[-self._follower.history_bars :]
        columns = (close[rows, 0], close[rows, 1], volume[rows, 0], volume[rows, 1])
        return JoinedHistory(*(np.ascontiguousarray(column) for column in columns))

    def _keep(
        self,
        computed: FeaturesComputed,
        raised: SignalsRaised,
        settlement: Settlement,
        acknowledged: tuple[Order, ...],
        n_intents: int,
    ) -> None:
        result, tally = self.result, self.result.tally
        tally.rows["features"].extend(feature_rows(computed))
        tally.rows["signals"].extend(
            digests.signal_row(raised.closes_at_ms, raised.roster_closes_at, signal)
            for signal in raised.rows
        )
        tally.intents += n_intents
        result.signals.append(raised)
        result.fills.extend(settlement.fills)
        result.orders |= {o.client_order_id: o for o in (*settlement.orders, *acknowledged)}
        result.positions |= {p.position_id: p for p in settlement.positions}
        result.equity.append(
            EquityPoint(
                raised.closes_at_ms,
                settlement.ledger.cash_e8,
                settlement.equity_e8,
                settlement.gross_e8,
                len(settlement.ledger.positions),
            )
        )


def run_stages(
    market: RecordedMarket,
    settings: StrategySettings,
    *,
    account: str,
    start_ms: int | None,
    end_ms: int | None,
    champion: StoredModel | None = None,
) -> StagedResult:
    """Trade recorded bars.

    Parameters
    ----------
    market
        Checked bars and instruments.
    settings
        What decides.
    account
        Name of the account, part of every client order id.
    start_ms, end_ms
        The first close traded is the first after the start, the last one at or before the
        end; bars up to the start are history.

    Returns
    -------
    StagedResult
        Rows, counts and digests.
    """
    run = _Stages(market, settings, Identity(account, settings.run_id(start_ms)), champion)
    run.learn_history(start_ms)
    for closes_at_ms in market.closes(start_ms, end_ms):
        run.step(closes_at_ms)
    result = run.result
    seen = _seen_bars(market, end_ms)
    tally = result.tally
    tally.bars = sum(len(bars) for bars in seen)
    tally.quarantined = sum(len(checked.quarantined) for checked in market.checked.values())
    tally.rows["orders"] = [digests.order_row(order) for order in result.orders.values()]
    tally.rows["fills"] = [digests.fill_row(fill) for fill in result.fills]
    tally.rows["positions"] = [digests.position_row(p) for p in result.positions.values()]
    result.bars_digest = digests.bars_digest(seen)
    return result


def _seen_bars(market: RecordedMarket, end_ms: int | None) -> list[Bars]:
    return [checked.accepted.between(None, end_ms) for checked in market.checked.values()]


def feature_rows(computed: FeaturesComputed) -> list[Row]:
    """Return the features of a close as rows of a digest."""
    assert computed.roster_closes_at is not None or not computed.rows
    return [
        (
            computed.closes_at_ms,
            row.y,
            row.x,
            row.status,
            None if computed.roster_closes_at is None else ms_of_instant(computed.roster_closes_at),
            row.close_y,
            row.close_x,
            list(row.values),
        )
        for row in computed.rows
    ]
