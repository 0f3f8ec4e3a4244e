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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

from services.paper_exchange.market import Listing
from services.paper_exchange.matching import (
    OPEN_STATUSES,
    Matching,
    NetPosition,
    OrderStatus,
    PaperOrder,
    Trade,
)
from shared.book.orders import Side
from shared.errors import SettingsError

_OPEN = ", ".join(f"'{status}'" for status in OPEN_STATUSES)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS venue (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    market_at_ms INTEGER NOT NULL,
    clock_ms INTEGER NOT NULL,
    wallet_e8 INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS listings (
    symbol TEXT PRIMARY KEY,
    recorded_symbol TEXT NOT NULL,
    price_decimals INTEGER NOT NULL,
    lot_decimals INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS orders (
    order_id INTEGER PRIMARY KEY AUTOINCREMENT,
    client_order_id TEXT NOT NULL,
    symbol TEXT NOT NULL REFERENCES listings,
    side TEXT NOT NULL,
    quantity_lots INTEGER NOT NULL CHECK (quantity_lots > 0),
    filled_lots INTEGER NOT NULL CHECK (filled_lots BETWEEN 0 AND quantity_lots),
    quote_e8 INTEGER NOT NULL,
    reduce_only INTEGER NOT NULL,
    status TEXT NOT NULL,
    market_at_ms INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_open_order_per_client_order_id
    ON orders (client_order_id) WHERE status IN ({_OPEN});
CREATE INDEX IF NOT EXISTS orders_by_client_order_id ON orders (client_order_id);
CREATE TABLE IF NOT EXISTS trades (
    trade_id INTEGER PRIMARY KEY AUTOINCREMENT,
    order_id INTEGER NOT NULL REFERENCES orders,
    symbol TEXT NOT NULL,
    side TEXT NOT NULL,
    lots INTEGER NOT NULL CHECK (lots > 0),
    price_ticks INTEGER NOT NULL,
    quote_e8 INTEGER NOT NULL,
    fee_e8 INTEGER NOT NULL,
    realised_e8 INTEGER NOT NULL,
    traded_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS trades_by_order ON trades (order_id);
CREATE INDEX IF NOT EXISTS trades_by_symbol ON trades (symbol, trade_id);
CREATE TABLE IF NOT EXISTS positions (
    symbol TEXT PRIMARY KEY,
    lots INTEGER NOT NULL,
    cost_e8 INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;
"""


_MOVE_MARKET = "UPDATE venue SET market_at_ms = ?, clock_ms = ?, wallet_e8 = wallet_e8 + ?"


class VenueState(NamedTuple):
    """Where the market stands, what the clock may have shown, and the money in the account."""

    market_at_ms: int
    clock_ms: int
    wallet_e8: int


class NewOrder(NamedTuple):
    """An order that has passed every check."""

    client_order_id: str
    symbol: str
    side: Side
    quantity_lots: int
    reduce_only: bool
    market_at_ms: int
    created_at_ms: int


class HeldPosition(NamedTuple):
    """A position as it is stored."""

    position: NetPosition
    updated_at_ms: int


class DuplicateOrderError(Exception):
    """An open order has the client order id already."""


class Store:
    """The venue's record.

    Parameters
    ----------
    file
        The database; made with its folder when absent.
    fresh
        The state a new store begins with.

    Raises
    ------
    SettingsError
        If another process has the store or the file is no store.
    """

    def __init__(self, file: Path, fresh: VenueState) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = file.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise SettingsError(
                f"{file} belongs to a running paper venue: stop that one or set another MNT_HOME"
            ) from error
        self._committing: asyncio.Future[None] | None = None
        # Nothing is begun behind our back: every change goes through `_change`.
        self._connection = sqlite3.connect(file, isolation_level=None)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(_SCHEMA)
            with self._change() as connection:
                connection.execute(
                    "INSERT INTO venue VALUES (1, ?, ?, ?) ON CONFLICT DO NOTHING", fresh
                )
            self.commit()
        except sqlite3.Error as error:
            self.close()
            raise SettingsError(
                f"{file} cannot be used as the venue's store ({error}): "
                "move it away, or set another MNT_HOME"
            ) from error

    def close(self) -> None:
        """Close the file and let others have it."""
        self._connection.close()
        self._lock.close()

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
        self._tell(sqlite3.OperationalError(f"the change was undone: {error}"))

    def _tell(self, error: sqlite3.Error | None) -> None:
        waiting, self._committing = self._committing, None
        if waiting is None:
            return
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(error)

    def state(self) -> VenueState:
        """Return where the venue is."""
        row = self._connection.execute("SELECT market_at_ms, clock_ms, wallet_e8 FROM venue")
        return VenueState(*row.fetchone())

    def enlist(self, listings: Iterable[Listing]) -> None:
        """Record the units of what is listed.

        Raises
        ------
        SettingsError
            If recorded lots and ticks would change their meaning, or a symbol with orders is
            no longer listed.
        """
        rows = {
            listing.venue_symbol: (
                listing.instrument.symbol,
                listing.instrument.price_decimals,
                listing.instrument.lot_decimals,
            )
            for listing in listings
        }
        traded = self._connection.execute(
            "SELECT * FROM listings WHERE symbol IN (SELECT symbol FROM orders)"
        )
        for symbol, *units in traded.fetchall():
            if rows.get(symbol) != tuple(units):
                raise SettingsError(
                    f"the venue's store has orders of {symbol} in units {units}, but the "
                    f"recording lists {rows.get(symbol)}: replay the same files, or set "
                    "another MNT_HOME"
                )
        with self._change() as connection:
            connection.executemany(
                "INSERT INTO listings VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "(recorded_symbol, price_decimals, lot_decimals) = "
                "(excluded.recorded_symbol, excluded.price_decimals, excluded.lot_decimals)",
                [(symbol, *units) for symbol, units in rows.items()],
            )
        self.commit()

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
                    "updated_at_ms) VALUES (?, ?, ?, ?, 0, 0, ?, ?, ?, ?, ?) RETURNING *",
                    (
                        *new[:5],
                        OrderStatus.NEW,
                        new.market_at_ms,
                        new.created_at_ms,
                        new.created_at_ms,
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
        self, symbol: str, order_id: int | None, client_order_id: str | None
    ) -> PaperOrder | None:
        """Return the order of an id, or the latest one of a client order id."""
        column = "order_id" if order_id is not None else "client_order_id"
        row = self._connection.execute(
            f"SELECT * FROM orders WHERE symbol = ? AND {column} = ? "  # noqa: S608 - fixed text
            "ORDER BY order_id DESC LIMIT 1",
            (symbol, client_order_id if order_id is None else order_id),
        ).fetchone()
        return None if row is None else _order(row)

    def open_orders(self, symbol: str | None = None) -> list[PaperOrder]:
        """Return open orders in order of arrival."""
        rows = self._connection.execute(
            f"SELECT * FROM orders WHERE status IN ({_OPEN}) "  # noqa: S608 - fixed text
            "AND (?1 IS NULL OR symbol = ?1) ORDER BY order_id",
            (symbol,),
        )
        return [_order(row) for row in rows]

    def cancel_orders(self, orders: Iterable[PaperOrder], at_ms: int) -> None:
        """Close open orders without a fill."""
        with self._change() as connection:
            connection.executemany(
                "UPDATE orders SET status = ?, updated_at_ms = ? WHERE order_id = ?",
                [(OrderStatus.CANCELED, at_ms, order.order_id) for order in orders],
            )

    def trades(
        self,
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
            "SELECT * FROM trades WHERE symbol = ?1 "  # noqa: S608 - fixed text
            "AND (?2 IS NULL OR order_id = ?2) "
            "AND (?3 IS NULL OR trade_id >= ?3) AND (?4 IS NULL OR traded_at_ms >= ?4) "
            "AND (?5 IS NULL OR traded_at_ms <= ?5) "
            f"ORDER BY trade_id {'DESC' if is_latest else 'ASC'} LIMIT ?6",
            (symbol, order_id, from_id, start_ms, end_ms, limit),
        )
        return sorted(map(_trade, rows), key=lambda trade: trade.trade_id)

    def positions(self) -> dict[str, HeldPosition]:
        """Return every position that was ever held, by symbol."""
        rows = self._connection.execute("SELECT * FROM positions ORDER BY symbol")
        return {
            symbol: HeldPosition(NetPosition(lots, cost_e8), updated_at_ms)
            for symbol, lots, cost_e8, updated_at_ms in rows
        }

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
                connection.execute(_MOVE_MARKET, (market_at_ms, clock_ms, 0))
            self.commit()
        finally:
            self._connection.execute("PRAGMA synchronous=FULL")

    def save_matching(self, market_at_ms: int, clock_ms: int, matching: Matching) -> None:
        """Record that the market has moved, and what it did to orders and the account."""
        traded = {trade.symbol for trade in matching.trades}
        self.commit()
        with self._change() as connection:
            connection.execute(_MOVE_MARKET, (market_at_ms, clock_ms, matching.wallet_change_e8))
            connection.executemany(
                "UPDATE orders SET filled_lots = ?, quote_e8 = ?, status = ?, "
                "updated_at_ms = ? WHERE order_id = ?",
                [
                    (o.filled_lots, o.quote_e8, o.status, o.updated_at_ms, o.order_id)
                    for o in matching.orders.values()
                ],
            )
            connection.executemany(
                "INSERT INTO trades (order_id, symbol, side, lots, price_ticks, quote_e8, "
                "fee_e8, realised_e8, traded_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [astuple(trade)[1:] for trade in matching.trades],
            )
            connection.executemany(
                "INSERT INTO positions VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "(lots, cost_e8, updated_at_ms) = "
                "(excluded.lots, excluded.cost_e8, excluded.updated_at_ms)",
                [
                    (symbol, position.lots, position.cost_e8, market_at_ms)
                    for symbol, position in matching.positions.items()
                    if symbol in traded
                ],
            )
        self.commit()

    def counts(self) -> dict[str, int]:
        """Return how many orders and trades there are."""
        row = self._connection.execute(
            "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM trades)"
        ).fetchone()
        return {"orders": row[0], "trades": row[1]}


def _order(row: tuple[Any, ...]) -> PaperOrder:
    order_id, client_order_id, symbol, side, quantity, filled, quote, reduce_only, *rest = row
    status, *instants = rest
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
        *instants,
    )


def _trade(row: tuple[Any, ...]) -> Trade:
    trade_id, order_id, symbol, side, *amounts = row
    return Trade(trade_id, order_id, symbol, Side(side), *amounts)
