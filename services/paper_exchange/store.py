"""The venue's durable store: one SQLite file.

Calls are made one at a time, from one thread: the venue has one order of arrival. A change
is on disk when `committed` returns (WAL with `synchronous=FULL`), and no answer may leave
before that. Changes that arrive together share one commit, so that twenty orders sent at
once wait for one write to the disk and not for twenty.
"""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from services.paper_exchange.matching import (
    FundingPayment,
    Matching,
    NetPosition,
    OrderStatus,
    PaperOrder,
    Product,
    Step,
    TimeInForce,
    Trade,
)
from services.paper_exchange.schema import INCOME, MOVE_MARKET, OPEN, SCHEMA, VERSION
from shared.book.instrument import Instrument
from shared.book.orders import Side
from shared.errors import SettingsError


class VenueState(NamedTuple):
    """Where the market stands, what the clock may have shown, and the money of each product."""

    market_at_ms: int
    clock_ms: int
    wallet_e8: int
    spot_e8: int


class NewOrder(NamedTuple):
    """An order that has passed every check."""

    client_order_id: str
    symbol: str
    side: Side
    quantity_lots: int
    reduce_only: bool
    market_at_ms: int
    created_at_ms: int
    product: Product = Product.USDM
    price_ticks: int | None = None
    time_in_force: TimeInForce = TimeInForce.GTC


class Income(NamedTuple):
    """One thing that changed the USD-M wallet; the number is unique within its kind."""

    symbol: str
    kind: str
    income_e8: int
    at_ms: int
    number: int


class HeldPosition(NamedTuple):
    """A position as it is stored."""

    position: NetPosition
    updated_at_ms: int


class DuplicateOrderError(Exception):
    """An open order has the client order id already."""


class _OtherMarketError(Exception):
    """The store has orders of a market with other prices."""


class _OtherVersionError(Exception):
    """The store was made by another version of the venue."""


class Store:
    """The venue's record.

    Parameters
    ----------
    file
        The database, made with its folder when absent; `None` keeps it in memory.
    fresh
        The state a new store begins with, or one without orders for another market.
    identity
        What the prices are made from.

    Raises
    ------
    SettingsError
        If another process has the store, the file is no store of this version, or it has
        orders of another market.
    """

    def __init__(self, file: Path | None, fresh: VenueState, identity: str = "") -> None:
        self._lock = None if file is None else _lock_of(file)
        self._committing: asyncio.Future[None] | None = None
        self._to_tell: list[Callable[[], None]] = []
        # Nothing is begun behind our back: every change goes through `_change`.
        self._connection = sqlite3.connect(
            ":memory:" if file is None else file, isolation_level=None
        )
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._check_version()
            self._connection.executescript(SCHEMA)
            self._begin(fresh, identity)
        except (sqlite3.Error, _OtherMarketError, _OtherVersionError) as error:
            self.close()
            raise SettingsError(
                f"{file} cannot be used as the venue's store ({error}): "
                "move it away, or set another MNT_HOME"
            ) from error

    def close(self) -> None:
        """Close the file and let others have it."""
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    def after_commit(self, tell: Callable[[], None]) -> None:
        """Call back once every change made so far is on disk; never, if they are undone."""
        if self._connection.in_transaction:
            self._to_tell.append(tell)
        else:
            tell()

    async def committed(self) -> None:
        """Return when every change made so far is on disk.

        Raises
        ------
        sqlite3.Error
            If they could not be written; none of them has happened then.
        """
        if not self._connection.in_transaction:
            return
        if self._committing is None:
            loop = asyncio.get_running_loop()
            self._committing = loop.create_future()
            loop.call_soon(self._commit_for_all)
        await asyncio.shield(self._committing)

    def commit(self) -> None:
        """Write every change made so far to the disk, at once.

        Raises
        ------
        sqlite3.Error
            If they could not be written; none of them has happened then.
        """
        try:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._abandon(error)
            raise
        to_tell, self._to_tell = self._to_tell, []
        for tell in to_tell:
            tell()
        self._tell(None)

    def _commit_for_all(self) -> None:
        with suppress(sqlite3.Error):  # those who wait for it are told
            self.commit()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """Make a change as part of the open transaction; a failure undoes all of it."""
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
        except DuplicateOrderError:
            raise  # one statement had no effect; the changes before it stand
        except BaseException as error:
            self._abandon(error)
            raise

    def _abandon(self, error: BaseException) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._to_tell.clear()
        self._tell(sqlite3.OperationalError(f"the change was undone: {error}"))

    def _tell(self, error: sqlite3.Error | None) -> None:
        waiting, self._committing = self._committing, None
        if waiting is None:
            return
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(error)

    def _begin(self, fresh: VenueState, identity: str) -> None:
        """Begin afresh, unless the store has a past in this market."""
        row = self._connection.execute("SELECT identity FROM venue").fetchone()
        if row is not None and row[0] != identity:
            if self.counts()["orders"]:
                raise _OtherMarketError(f"it has orders of market {row[0]!r}, not {identity!r}")
            row = None
        if row is None:
            with self._change() as connection:
                connection.execute("DELETE FROM listings")
                connection.execute("DELETE FROM countdowns")
                connection.execute(
                    "INSERT OR REPLACE INTO venue VALUES (1, ?, ?, ?, ?, ?)", (*fresh, identity)
                )
            self.commit()

    def _check_version(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (n_tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if n_tables and version != VERSION:
            raise _OtherVersionError(f"it is of version {version}, this venue's is {VERSION}")

    def state(self) -> VenueState:
        """Return where the venue is."""
        row = self._connection.execute(
            "SELECT market_at_ms, clock_ms, wallet_e8, spot_e8 FROM venue"
        )
        return VenueState(*row.fetchone())

    def enlist(
        self, instruments: Mapping[str, Instrument], *, may_shrink: bool = False
    ) -> dict[str, Instrument]:
        """Record the units of what is listed, by name at the venue.

        Parameters
        ----------
        instruments
            All of it.
        may_shrink
            Whether a symbol with orders may no longer be listed; its units are kept.

        Returns
        -------
        dict of str to Instrument
            Symbols with orders that are no longer listed.

        Raises
        ------
        SettingsError
            If recorded lots and ticks would change their meaning, or a symbol with orders is
            no longer listed and must be.
        """
        traded = self._connection.execute("SELECT DISTINCT symbol FROM orders").fetchall()
        known, kept = self.instruments(), {}
        for (symbol,) in traded:
            if symbol not in instruments and may_shrink:
                kept[symbol] = known[symbol]
            elif symbol not in instruments or _units(instruments[symbol]) != _units(known[symbol]):
                listed = instruments.get(symbol)
                raise SettingsError(
                    f"the venue's store has orders of {symbol} in units {_units(known[symbol])}, "
                    f"but the market lists {'it not' if listed is None else _units(listed)}: go "
                    "back to the same market, or set another MNT_HOME"
                )
        rows = [(symbol, *astuple(each)) for symbol, each in {**instruments, **kept}.items()]
        with self._change() as connection:
            connection.execute(
                "DELETE FROM listings WHERE symbol NOT IN (SELECT symbol FROM orders)"
            )
            connection.executemany(
                "INSERT INTO listings VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "(min_notional_e8, price_source) = "
                "(excluded.min_notional_e8, excluded.price_source)",
                rows,
            )
        self.commit()
        return kept

    def instruments(self) -> dict[str, Instrument]:
        """Return the units of what was ever listed in this market, by name at the venue."""
        rows = self._connection.execute("SELECT * FROM listings ORDER BY symbol")
        return {symbol: Instrument(*units) for symbol, *units in rows}

    def reserve_clock(self, clock_ms: int) -> None:
        """Record a time that the clock has not reached: after a restart it goes on from there."""
        with self._change() as connection:
            connection.execute("UPDATE venue SET clock_ms = ?", (clock_ms,))

    def insert_order(self, new: NewOrder) -> PaperOrder:
        """Record an accepted order.

        Raises
        ------
        DuplicateOrderError
            If an open order has its client order id.
        """
        with self._change() as connection:
            try:
                row = connection.execute(
                    "INSERT INTO orders (client_order_id, symbol, side, quantity_lots, "
                    "filled_lots, quote_e8, reduce_only, status, market_at_ms, created_at_ms, "
                    "updated_at_ms, product, price_ticks, time_in_force) "
                    "VALUES (?, ?, ?, ?, 0, 0, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
                    (
                        *new[:5],
                        OrderStatus.NEW,
                        new.market_at_ms,
                        new.created_at_ms,
                        new.created_at_ms,
                        *new[7:],
                    ),
                ).fetchone()
            except sqlite3.IntegrityError as error:
                raise DuplicateOrderError(new.client_order_id) from error
        return _order(row)

    def next_order_id(self) -> int:
        """Return the id the next order will have."""
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'orders'")
        last = row.fetchone()
        return 1 if last is None else last[0] + 1

    def find_order(
        self, product: Product, symbol: str, order_id: int | None, client_order_id: str | None
    ) -> PaperOrder | None:
        """Return the order of an id, or the latest one of a client order id."""
        column = "order_id" if order_id is not None else "client_order_id"
        row = self._connection.execute(
            f"SELECT * FROM orders WHERE {column} = ? "  # noqa: S608 - fixed text
            "AND product = ? AND symbol = ? ORDER BY order_id DESC LIMIT 1",
            (client_order_id if order_id is None else order_id, product, symbol),
        ).fetchone()
        return None if row is None else _order(row)

    def open_orders(self, product: Product, symbol: str | None = None) -> list[PaperOrder]:
        """Return open orders of a product in order of arrival."""
        rows = self._connection.execute(
            f"SELECT * FROM orders WHERE status IN ({OPEN}) "  # noqa: S608 - fixed text
            "AND product = ?1 AND (?2 IS NULL OR symbol = ?2) ORDER BY order_id",
            (product, symbol),
        )
        return [_order(row) for row in rows]

    def orders(
        self,
        product: Product,
        symbol: str,
        from_id: int | None,
        start_ms: int | None,
        end_ms: int | None,
        limit: int,
    ) -> list[PaperOrder]:
        """Return orders of a symbol, ascending by id; a bound that is `None` is left open.

        Without any lower bound they are the latest ones.
        """
        is_latest = from_id is None and start_ms is None
        rows = self._connection.execute(
            "SELECT * FROM orders WHERE product = ?1 AND symbol = ?2 "  # noqa: S608 - fixed text
            "AND (?3 IS NULL OR order_id >= ?3) AND (?4 IS NULL OR created_at_ms >= ?4) "
            "AND (?5 IS NULL OR created_at_ms <= ?5) "
            f"ORDER BY order_id {'DESC' if is_latest else 'ASC'} LIMIT ?6",
            (product, symbol, from_id, start_ms, end_ms, limit),
        )
        return sorted(map(_order, rows), key=lambda order: order.order_id)

    def cancel_orders(self, orders: Iterable[PaperOrder], at_ms: int) -> list[PaperOrder]:
        """Close open orders without a fill; return them as they then are."""
        with self._change() as connection:
            rows = [
                connection.execute(
                    "UPDATE orders SET status = ?, updated_at_ms = ? WHERE order_id = ? "
                    "RETURNING *",
                    (OrderStatus.CANCELED, at_ms, order.order_id),
                ).fetchone()
                for order in orders
            ]
        return [_order(row) for row in rows]

    def countdowns(self) -> dict[str, int]:
        """Return when the open USD-M orders of a symbol will be withdrawn, by symbol."""
        return dict(self._connection.execute("SELECT symbol, due_ms FROM countdowns"))

    def set_countdown(self, symbol: str, due_ms: int | None) -> None:
        """Record when the open USD-M orders of a symbol will be withdrawn; `None` for never."""
        with self._change() as connection:
            if due_ms is None:
                connection.execute("DELETE FROM countdowns WHERE symbol = ?", (symbol,))
            else:
                connection.execute(
                    "INSERT OR REPLACE INTO countdowns VALUES (?, ?)", (symbol, due_ms)
                )

    def trades(
        self,
        product: Product,
        symbol: str,
        order_id: int | None,
        from_id: int | None,
        start_ms: int | None,
        end_ms: int | None,
        limit: int,
    ) -> list[Trade]:
        """Return trades of a symbol, ascending by id; a bound that is `None` is left open.

        Without any lower bound they are the latest ones.
        """
        is_latest = order_id is None and from_id is None and start_ms is None
        rows = self._connection.execute(
            "SELECT * FROM trades WHERE product = ?7 AND symbol = ?1 "  # noqa: S608 - fixed text
            "AND (?2 IS NULL OR order_id = ?2) "
            "AND (?3 IS NULL OR trade_id >= ?3) AND (?4 IS NULL OR traded_at_ms >= ?4) "
            "AND (?5 IS NULL OR traded_at_ms <= ?5) "
            f"ORDER BY trade_id {'DESC' if is_latest else 'ASC'} LIMIT ?6",
            (symbol, order_id, from_id, start_ms, end_ms, limit, product),
        )
        return sorted(map(_trade, rows), key=lambda trade: trade.trade_id)

    def positions(self, product: Product) -> dict[str, HeldPosition]:
        """Return every position of a product that was ever held, by symbol."""
        rows = self._connection.execute(
            "SELECT symbol, lots, cost_e8, updated_at_ms FROM positions WHERE product = ? "
            "ORDER BY symbol",
            (product,),
        )
        return {
            symbol: HeldPosition(NetPosition(lots, cost_e8), updated_at_ms)
            for symbol, lots, cost_e8, updated_at_ms in rows
        }

    def income(
        self,
        symbol: str | None,
        kind: str | None,
        start_ms: int | None,
        end_ms: int | None,
        limit: int,
    ) -> list[Income]:
        """Return what changed the USD-M wallet, ascending; a bound that is `None` is left open.

        Without a start they are the latest ones.
        """
        direction = "DESC" if start_ms is None else "ASC"
        rows = self._connection.execute(
            f"{INCOME} "
            "WHERE (?1 IS NULL OR symbol = ?1) AND (?2 IS NULL OR kind = ?2) "
            "AND (?3 IS NULL OR at_ms >= ?3) AND (?4 IS NULL OR at_ms <= ?4) "
            f"ORDER BY at_ms {direction}, number {direction}, kind {direction} LIMIT ?5",
            (symbol, kind, start_ms, end_ms, limit),
        )
        found = [Income(*row) for row in rows]
        return found if start_ms is not None else found[::-1]

    def move_market(self, market_at_ms: int, clock_ms: int) -> None:
        """Record that the market has moved without trading.

        Not forced to the disk: it outlives a kill of the process, and what is forced later
        takes it along. A market set back by a loss of power is moved on again by its next
        `advance`.
        """
        self.commit()
        self._connection.execute("PRAGMA synchronous=NORMAL")
        try:
            with self._change() as connection:
                connection.execute(MOVE_MARKET, (market_at_ms, clock_ms, 0, 0))
            self.commit()
        finally:
            self._connection.execute("PRAGMA synchronous=FULL")

    def save_matching(
        self, market_at_ms: int, clock_ms: int, matchings: Iterable[Matching]
    ) -> list[Step]:
        """Record that the market has moved, and what it did to orders and wallets.

        Returns
        -------
        list of Step
            What happened to orders, in order, the trades with their ids. It has not happened
            before it is committed.
        """
        steps: list[Step] = []
        self.commit()
        with self._change() as connection:
            connection.execute(MOVE_MARKET, (market_at_ms, clock_ms, 0, 0))
            for matching in matchings:
                change_e8 = matching.wallet_change_e8
                is_spot = matching.product is Product.SPOT
                changes = (0, change_e8) if is_spot else (change_e8, 0)
                connection.execute(MOVE_MARKET, (market_at_ms, clock_ms, *changes))
                _save_orders(connection, matching)
                steps += [_save_step(connection, step) for step in matching.steps]
                _save_positions(connection, matching, market_at_ms)
                _save_funding(connection, matching.funding)
        return steps

    def counts(self) -> dict[str, int]:
        """Return how many orders and trades there are."""
        row = self._connection.execute(
            "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM trades)"
        ).fetchone()
        return {"orders": row[0], "trades": row[1]}


def _lock_of(file: Path) -> TextIO:
    """Return the lock of a store that is to be this process's alone; make its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_suffix(".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise SettingsError(
            f"{file} belongs to a running paper venue: stop that one or set another MNT_HOME"
        ) from error
    return lock


def _units(instrument: Instrument) -> tuple[str, int, int]:
    """Return what lots and ticks of a record mean."""
    return (instrument.symbol, instrument.price_decimals, instrument.lot_decimals)


def _save_orders(connection: sqlite3.Connection, matching: Matching) -> None:
    connection.executemany(
        "UPDATE orders SET filled_lots = ?, quote_e8 = ?, status = ?, "
        "updated_at_ms = ? WHERE order_id = ?",
        [
            (o.filled_lots, o.quote_e8, o.status, o.updated_at_ms, o.order_id)
            for o in matching.orders.values()
        ],
    )


def _save_step(connection: sqlite3.Connection, step: Step) -> Step:
    """Record the trade of a step; return the step with the trade's id."""
    if step.trade is None:
        return step
    (trade_id,) = connection.execute(
        "INSERT INTO trades (order_id, symbol, side, lots, price_ticks, quote_e8, "
        "fee_e8, realised_e8, traded_at_ms, product, is_maker) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING trade_id",
        astuple(step.trade)[1:],
    ).fetchone()
    return Step(step.order, replace(step.trade, trade_id=trade_id))


def _save_positions(connection: sqlite3.Connection, matching: Matching, market_at_ms: int) -> None:
    traded = {trade.symbol for trade in matching.trades}
    connection.executemany(
        "INSERT INTO positions VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "(lots, cost_e8, updated_at_ms) = "
        "(excluded.lots, excluded.cost_e8, excluded.updated_at_ms)",
        [
            (matching.product, symbol, position.lots, position.cost_e8, market_at_ms)
            for symbol, position in matching.positions.items()
            if symbol in traded
        ],
    )


def _save_funding(connection: sqlite3.Connection, payments: Iterable[FundingPayment]) -> None:
    connection.executemany(
        "INSERT INTO funding (symbol, paid_e8, at_ms) VALUES (?, ?, ?)",
        [astuple(payment) for payment in payments],
    )


def _order(row: tuple[Any, ...]) -> PaperOrder:
    order_id, client_order_id, symbol, side, quantity, filled, quote, reduce_only, *rest = row
    status, market_at_ms, created_at_ms, updated_at_ms, product, price_ticks, time_in_force = rest
    return PaperOrder(
        order_id,
        client_order_id,
        symbol,
        Side(side),
        quantity,
        filled,
        quote,
        bool(reduce_only),
        OrderStatus(status),
        market_at_ms,
        created_at_ms,
        updated_at_ms,
        Product(product),
        price_ticks,
        TimeInForce(time_in_force),
    )


def _trade(row: tuple[Any, ...]) -> Trade:
    trade_id, order_id, symbol, side, lots, price_ticks, *money, at_ms, product, is_maker = row
    quote_e8, fee_e8, realised_e8 = money
    return Trade(
        trade_id,
        order_id,
        symbol,
        Side(side),
        lots,
        price_ticks,
        quote_e8,
        fee_e8,
        realised_e8,
        at_ms,
        Product(product),
        bool(is_maker),
    )
