"""What must hold after every step, and once all is quiet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.executor import store
from services.executor.store import load_control
from services.paper_exchange.matching import Product
from shared.book.compensation import Remedy, compensate
from shared.book.control import TradingState
from shared.book.ledger import Ledger
from shared.book.reconciliation import CASH_TOLERANCE_E8
from shared.settings import Settings
from tests.simulation.world import INSTRUMENTS, STRANGER, World

_BY_SYMBOL = {each.symbol: each for each in INSTRUMENTS}
_BY_NAME = {symbol.replace("/", ""): each for symbol, each in _BY_SYMBOL.items()}
EXPOSURE_SLACK = 1.1
"""Prices move after an order was judged."""


class Rules:
    """Judges a run by its record and its venue.

    Parameters
    ----------
    world, connection, settings
        Venue, record, and what the executor was told.
    """

    def __init__(self, world: World, connection: AsyncConnection, settings: Settings) -> None:
        self._world = world
        self._connection = connection
        self._settings = settings
        self._has_funding = settings.execution.funding_ppm > 0
        self._taken: set[str] = set()
        self._ids_of_legs: dict[tuple[str, str], str] = {}
        self._cursor = 0

    async def _rows(self, query: str, **parameters: Any) -> Sequence[Any]:
        return (await self._connection.execute(text(query), parameters)).all()

    async def judge_order(self, asked: dict[str, str], is_taken: bool) -> None:
        """Judge an order that is about to reach the venue, and again once it was taken."""
        require = self._world.require
        order_id = asked["newClientOrderId"]
        if is_taken:
            require(order_id not in self._taken, "the venue takes an order once", order_id)
            self._taken.add(order_id)
            self._judge_exposure()
            return
        found = await self._rows("SELECT * FROM orders WHERE client_order_id = :id", id=order_id)
        require(found, "no order at the venue that the record does not know", asked)
        (order,) = found
        instrument = _BY_NAME[asked["symbol"]]
        quantity = Decimal(asked["quantity"]).scaleb(instrument.lot_decimals)
        is_the_same = (
            instrument.symbol == order.symbol
            and asked["side"].lower() == order.side
            and quantity == order.quantity_lots
        )
        require(is_the_same, "an order is sent as it was recorded", asked, order)
        known_id = self._ids_of_legs.setdefault((order.intent_id, order.leg), order_id)
        require(known_id == order_id, "a leg of an intent has one id", known_id, order_id)
        if not order.reduce_only:
            state = (await load_control(self._connection)).control.state
            require(state is not TradingState.HALTED, "a halted book opens nothing", order)

    def _judge_exposure(self) -> None:
        exchange = self._world.venue.exchange
        gross_e8 = 0
        for name, held in exchange.positions(Product.USDM).items():
            ticks = exchange.market.listings[name].last_price_ticks(exchange.market_at_ms)
            gross_e8 += abs(_BY_NAME[name].notional_e8(ticks or 0, held.lots))
        limit = self._settings.limits.gross_cap * self._settings.portfolio.capital_e8
        self._world.require(
            gross_e8 <= EXPOSURE_SLACK * limit, "exposure is within the limit", gross_e8, limit
        )

    async def judge_cursor(self) -> None:
        """Judge how far the executor says it is."""
        found = await self._rows(
            "SELECT seq FROM consumer_offset WHERE consumer = 'executor' AND topic = :topic",
            topic="orders.requested",
        )
        cursor = found[0].seq if found else 0
        self._world.require(cursor >= self._cursor, "cursors never go back", cursor, self._cursor)
        self._cursor = cursor

    async def judge_end(self) -> None:
        """Judge what is left once faults have healed and nothing happens any more."""
        require = self._world.require
        behind = await self._rows(
            "SELECT consumer_offset.seq, stream_head.seq FROM consumer_offset "
            "JOIN stream_head USING (topic) WHERE consumer_offset.seq <> stream_head.seq"
        )
        require(not behind, "everything is consumed in the end", behind)
        letters = await self._rows("SELECT topic, seq, error FROM dead_letter")
        require(not letters, "no event goes to the dead letters", letters)
        await self.judge_trading()

    async def judge_trading(self) -> None:
        """Judge orders, positions and money once nothing happens any more."""
        require = self._world.require
        repeated = await self._rows(
            "SELECT source_uri, count(*) FROM event_log WHERE topic = 'positions.changed' "
            "AND source_uri LIKE 'log:%' GROUP BY 1 HAVING count(*) <> 1"
        )
        require(not repeated, "each close is settled once", repeated)
        (settled,) = await self._rows(
            "SELECT count(*) FROM event_log WHERE topic = 'positions.changed'"
        )
        require(settled[0] == self._cursor, "each close is settled", settled, self._cursor)
        await self._judge_orders()
        ledger, _ = await store.load_ledger(
            self._connection, self._settings.portfolio.capital_e8, self._settings.account
        )
        self._judge_pairs(ledger)
        await self._judge_account(ledger)

    async def _judge_orders(self) -> None:
        require, exchange = self._world.require, self._world.venue.exchange
        require(
            not exchange.store.open_orders(Product.USDM), "nothing works at the venue in the end"
        )
        unresolved = await self._rows(
            "SELECT client_order_id, state FROM orders WHERE state IN "
            "('initialised', 'submitted', 'unknown', 'accepted', 'partially_filled')"
        )
        require(not unresolved, "every order is resolved in the end", unresolved)
        halves = await self._rows(
            "SELECT intent_id, count(*) FROM orders WHERE right(intent_id, 4) = 'open' "
            "GROUP BY 1 HAVING count(DISTINCT leg) <> 2"
        )
        require(not halves, "an intent is ordered on both legs", halves)
        booked = await self._rows(
            "SELECT client_order_id, sum(lots)::bigint AS lots, sum(fee_e8)::bigint AS fee_e8 "
            "FROM fills GROUP BY 1"
        )
        traded: dict[str, list[int]] = {}
        for name in _BY_NAME:
            orders = exchange.store.orders(Product.USDM, name, 0, None, None, 10**6)
            ids = {order.order_id: order.client_order_id for order in orders}
            trades = exchange.store.trades(Product.USDM, name, None, 0, None, None, 10**6)
            for trade in trades:
                if ids[trade.order_id] == STRANGER:
                    continue
                total = traded.setdefault(ids[trade.order_id], [0, 0])
                total[0] += trade.lots
                total[1] += trade.fee_e8
        filled = await self._rows(
            "SELECT client_order_id FROM orders LEFT JOIN fills USING (client_order_id) "
            "GROUP BY client_order_id, filled_lots HAVING filled_lots <> coalesce(sum(lots), 0)"
        )
        require(not filled, "an order has filled what its fills add up to", filled)
        ours = {row.client_order_id: [row.lots, row.fee_e8] for row in booked}
        require(ours == traded, "fills are booked as they were traded", ours, traded)

    def _judge_pairs(self, ledger: Ledger) -> None:
        for position in ledger.positions.values():
            if position.is_residue or position.is_flat:
                continue
            needs = compensate(position, ledger.marks_ticks, _BY_SYMBOL, may_open=False)
            self._world.require(
                needs.remedy is Remedy.NONE, "no pair is left out of proportion", position, needs
            )

    async def _judge_account(self, ledger: Ledger) -> None:
        """Compare book and venue, with what the record says of their differences."""
        require, exchange = self._world.require, self._world.venue.exchange
        net = exchange.positions(Product.USDM)
        ours = {symbol: ledger.net_lots(symbol) for symbol in _BY_SYMBOL}
        theirs = {each.symbol: net[n].lots if n in net else 0 for n, each in _BY_NAME.items()}
        require(ours == theirs, "the book holds what the venue holds", ours, theirs)
        cost_e8 = sum(held.cost_e8 for held in net.values())
        venue_e8 = exchange.store.state().wallet_e8 - cost_e8
        turned = await self._rows(
            "SELECT symbol, array_agg(lots) FROM adjustments WHERE lots <> 0 GROUP BY symbol "
            "HAVING count(DISTINCT sign(lots)) > 1"
        )
        require(not turned, "no adjustment is taken back", turned)
        found = await self._rows("SELECT kind, amount_e8::bigint AS e8 FROM adjustments")
        baseline_e8 = sum(row.e8 for row in found if row.kind == "baseline")
        difference_e8 = venue_e8 - ledger.cash_e8 - baseline_e8
        # Funding is charged by what each side holds at that instant, and fills are booked later.
        is_exact = not self._has_funding and not self._world.has_stranger
        kinds = {row.kind for row in found}
        require(kinds <= {"baseline"} or not is_exact, "nothing needs an adjustment", found)
        tolerance_e8 = 0 if is_exact else CASH_TOLERANCE_E8
        require(abs(difference_e8) <= tolerance_e8, "the book has the venue's money", difference_e8)

    def judge_memory(self, remembered: Ledger, recorded: Ledger) -> None:
        """Compare the book in memory with the one on record."""
        self._world.require(
            remembered == replace(recorded, marks_ticks=remembered.marks_ticks),
            "memory holds what the record says",
            remembered,
            recorded,
        )
