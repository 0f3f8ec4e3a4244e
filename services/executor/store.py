"""SQL of the executor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Row, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.book.control import TradingControl, TradingState
from shared.book.instrument import Instrument
from shared.book.ledger import Fill, Ledger, Settlement
from shared.book.orders import Order, OrderState, Side
from shared.book.positions import PairPosition, PairState
from shared.book.reconciliation import AdjustmentKind, Reconciliation
from shared.clock import instant_of_ms, ms_of_instant
from shared.database.book import last_account, live_positions, position_of
from shared.database.engine import Insertion, insert_rows
from shared.database.filters import of_pair, within
from shared.database.tables import (
    account,
    adjustments,
    fills,
    orders,
    pair_positions,
    quarantined_orders,
    trading_states,
)
from shared.errors import FatalError
from shared.venues.gateway import VenueOpenOrder

_ORDER_UPDATES = ("state", "filled_lots", "reason")
_POSITION_UPDATES = (
    "state",
    "lots_y",
    "lots_x",
    "cash_e8",
    "fees_e8",
    "funding_e8",
    "closed_at",
    "is_residue",
    "exposed_since",
    "exposed_ms",
)
_ACCOUNT_UPDATES = ("cash_e8", "equity_e8", "gross_e8", "n_positions", "marks_ticks")
_WORKING = tuple(
    state.value
    for state in (
        OrderState.INITIALISED,
        OrderState.SUBMITTED,
        OrderState.UNKNOWN,
        OrderState.ACCEPTED,
        OrderState.PARTIALLY_FILLED,
    )
)


async def load_ledger(
    connection: AsyncConnection, capital_e8: int, name: str
) -> tuple[Ledger, dict[str, int]]:
    """Return the book after the last settled close, and when in-flight orders were sent."""
    last = await last_account(connection)
    unattributed = await _unattributed(connection, name)
    lots = {row.symbol: int(row.lots) for row in unattributed}
    marks = {row.symbol: row.price_ticks for row in unattributed}
    if last is None:
        return Ledger(capital_e8, marks_ticks=marks, unattributed_lots=lots), {}
    working, submitted_at_ms = {}, {}
    live = select(orders).where(orders.c.state.in_(_WORKING)).order_by(orders.c.client_order_id)
    for row in await connection.execute(live):
        working[row.client_order_id] = _order(row)
        if row.submitted_at is not None:
            submitted_at_ms[row.client_order_id] = ms_of_instant(row.submitted_at)
    counts = await connection.execute(
        select(fills.c.client_order_id, func.count())
        .where(fills.c.client_order_id.in_(list(working)))
        .group_by(fills.c.client_order_id)
    )
    ledger = Ledger(
        cash_e8=int(last.cash_e8),
        closes_at_ms=ms_of_instant(last.closes_at),
        positions=await live_positions(connection),
        orders=working,
        fill_counts={row[0]: row[1] for row in counts},
        marks_ticks=marks | dict(last.marks_ticks),
        unattributed_lots=lots,
    )
    return ledger, submitted_at_ms


async def _unattributed(connection: AsyncConnection, name: str) -> Sequence[Row[Any]]:
    """Return what the venue holds beyond the pairs, and the last price known of it."""
    found = await connection.execute(
        text(
            """
            SELECT symbol, sum(lots) AS lots,
                   (array_agg(price_ticks ORDER BY adjustment_id DESC))[1] AS price_ticks
            FROM adjustments
            WHERE account = :name AND kind = 'position' AND position_id IS NULL
            GROUP BY symbol HAVING sum(lots) <> 0
            """
        ),
        {"name": name},
    )
    return found.all()


def _order(row: Any) -> Order:
    return Order(
        client_order_id=row.client_order_id,
        intent_id=row.intent_id,
        pair=row.pair,
        leg=row.leg,
        attempt=row.attempt,
        symbol=row.symbol,
        side=Side(row.side),
        quantity_lots=row.quantity_lots,
        reduce_only=row.reduce_only,
        created_at_ms=ms_of_instant(row.created_at),
        state=OrderState(row.state),
        filled_lots=row.filled_lots,
        reason=row.reason,
    )


def settlement_rows(
    closes_at: datetime,
    settlement: Settlement,
    submitted_at_ms: int | None,
    lineage: Mapping[str, str],
) -> tuple[Insertion, ...]:
    """Return the rows that record everything a settled close changed."""
    sent = {order.client_order_id for order in settlement.submit}
    submitted_at = None if submitted_at_ms is None else instant_of_ms(submitted_at_ms)
    rows = [
        {
            **_order_row(order),
            "submitted_at": submitted_at if order.client_order_id in sent else None,
        }
        for order in settlement.orders
    ]
    fill_rows = [_fill_row(fill) for fill in settlement.fills]
    positions = [_position_row(position) for position in settlement.positions]
    written = (
        Insertion.of_rows(orders, rows, _ORDER_UPDATES, lineage),
        Insertion.of_rows(fills, fill_rows, common=lineage),
        Insertion.of_rows(pair_positions, positions, _POSITION_UPDATES, lineage),
    )
    ledger = settlement.ledger
    if ledger.closes_at_ms != ms_of_instant(closes_at) and not positions:
        return written
    row = {
        "closes_at": instant_of_ms(ledger.closes_at_ms or ms_of_instant(closes_at)),
        "cash_e8": ledger.cash_e8,
        "equity_e8": settlement.equity_e8,
        "gross_e8": settlement.gross_e8,
        "n_positions": len(ledger.positions),
        "marks_ticks": dict(ledger.marks_ticks),
    }
    return (*written, Insertion.of_rows(account, [row], _ACCOUNT_UPDATES, lineage))


def _order_row(order: Order) -> dict[str, Any]:
    return {
        "client_order_id": order.client_order_id,
        "intent_id": order.intent_id,
        "pair": order.pair,
        "leg": order.leg,
        "attempt": order.attempt,
        "symbol": order.symbol,
        "side": order.side.value,
        "quantity_lots": order.quantity_lots,
        "filled_lots": order.filled_lots,
        "reduce_only": order.reduce_only,
        "created_at": instant_of_ms(order.created_at_ms),
        "state": order.state.value,
        "reason": order.reason,
    }


def _fill_row(fill: Fill) -> dict[str, Any]:
    return {
        "client_order_id": fill.client_order_id,
        "fill_number": fill.fill_number,
        "pair": fill.pair,
        "leg": fill.leg,
        "symbol": fill.symbol,
        "side": fill.side.value,
        "lots": fill.lots,
        "price_ticks": fill.price_ticks,
        "fee_e8": fill.fee_e8,
        "filled_at": instant_of_ms(fill.filled_at_ms),
    }


def _position_row(position: PairPosition) -> dict[str, Any]:
    return {
        "position_id": position.position_id,
        "pair": position.pair,
        "symbol_y": position.symbol_y,
        "symbol_x": position.symbol_x,
        "state": position.state.value,
        "opened_at": instant_of_ms(position.opened_at_ms),
        "lots_y": position.lots_y,
        "lots_x": position.lots_x,
        "cash_e8": position.cash_e8,
        "fees_e8": position.fees_e8,
        "funding_e8": position.funding_e8,
        "closed_at": _instant_or_none(position.closed_at_ms),
        "target_lots_y": position.target_lots_y,
        "target_lots_x": position.target_lots_x,
        "is_residue": position.is_residue,
        "exposed_since": _instant_or_none(position.exposed_since_ms),
        "exposed_ms": position.exposed_ms,
    }


def _instant_or_none(epoch_ms: int | None) -> datetime | None:
    return None if epoch_ms is None else instant_of_ms(epoch_ms)


def answered_rows(changed: Iterable[Order], lineage: Mapping[str, str]) -> Insertion:
    """Return the rows that record what the venue answered on orders that exist."""
    rows = [_order_row(order) for order in changed]
    return Insertion.of_rows(orders, rows, ("state", "reason"), lineage)


async def note_submission(
    connection: AsyncConnection, ids: Sequence[str], submitted_at: datetime
) -> None:
    """Record the venue time at which orders are about to be sent."""
    await connection.execute(
        text("UPDATE orders SET submitted_at = :at WHERE client_order_id = ANY(:ids)"),
        {"at": submitted_at, "ids": list(ids)},
    )


# --- who may write --------------------------------------------------------------------------


async def take_lease(connection: AsyncConnection, name: str, holder: str) -> int:
    """Make this process the executor of an account and return its fencing token.

    Whoever held the lease before can write no more, however long it was asleep. Only the
    process that has the consumer's lock may ask.
    """
    taken = await connection.execute(
        text(
            "INSERT INTO execution_leases (account, token, holder) VALUES (:name, 1, :holder) "
            "ON CONFLICT (account) DO UPDATE SET token = execution_leases.token + 1, "
            "holder = excluded.holder, acquired_at = now() RETURNING token"
        ),
        {"name": name, "holder": holder},
    )
    return int(taken.scalar_one())


async def require_lease(connection: AsyncConnection, name: str, token: int) -> None:
    """Refuse to go on for an account that another process has taken over.

    Raises
    ------
    FatalError
        If another process holds the lease.
    """
    held = await connection.execute(
        text("SELECT token, holder FROM execution_leases WHERE account = :name"), {"name": name}
    )
    row = held.one_or_none()
    if row is None or row.token != token:
        who = "nobody" if row is None else f"{row.holder} with token {row.token}"
        raise FatalError(
            f"account {name} is traded by {who}, and this executor's token is {token}: "
            "it writes nothing more; start it again if it is the one to trade"
        )


# --- the venue's side -----------------------------------------------------------------------


async def load_baseline(connection: AsyncConnection, name: str) -> int | None:
    """Return the venue's money less the book's at their first comparison."""
    found = await connection.execute(
        select(adjustments.c.amount_e8).where(
            adjustments.c.account == name, adjustments.c.kind == AdjustmentKind.BASELINE.value
        )
    )
    amount_e8 = found.scalar_one_or_none()
    return None if amount_e8 is None else int(amount_e8)


async def save_reconciliation(
    connection: AsyncConnection,
    name: str,
    found: Reconciliation,
    instruments: Mapping[str, Instrument],
    lineage: Mapping[str, str],
) -> None:
    """Record differences and the book as it is without them."""
    ledger = found.ledger
    closes_at = None if ledger.closes_at_ms is None else instant_of_ms(ledger.closes_at_ms)
    rows = [
        {
            "account": name,
            "from_closes_at": closes_at,
            "kind": each.kind.value,
            "symbol": each.symbol,
            "position_id": each.position_id,
            "lots": each.lots,
            "price_ticks": each.price_ticks,
            "amount_e8": each.amount_e8,
            "book_value": each.book_value,
            "venue_value": each.venue_value,
            **lineage,
        }
        for each in found.adjustments
    ]
    await connection.execute(insert(adjustments), rows)
    positions = [{**_position_row(p), **lineage} for p in found.positions]
    await insert_rows(connection, pair_positions, positions, update=_POSITION_UPDATES)
    if closes_at is None:
        return
    equity_e8, gross_e8 = ledger.equity_e8(instruments)
    await connection.execute(
        update(account)
        .where(account.c.closes_at == closes_at)
        .values(
            cash_e8=ledger.cash_e8,
            equity_e8=equity_e8,
            gross_e8=gross_e8,
            marks_ticks=dict(ledger.marks_ticks),
        )
    )


async def known_orders(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, Order]:
    """Return those of some client order ids that are orders of ours."""
    found = await connection.execute(select(orders).where(orders.c.client_order_id.in_(ids)))
    return {row.client_order_id: _order(row) for row in found}


async def quarantine(
    connection: AsyncConnection,
    name: str,
    foreign: Iterable[VenueOpenOrder],
    lineage: Mapping[str, str],
) -> list[str]:
    """Record orders that we did not place, and return the venue's ids of the new ones."""
    new = []
    for order in foreign:
        row = {
            "account": name,
            "venue_order_id": order.venue_order_id,
            "client_order_id": order.client_order_id,
            "symbol": order.symbol,
            "side": order.side.value,
            "quantity": order.quantity,
            **lineage,
        }
        statement = upsert(quarantined_orders).values(row).on_conflict_do_nothing()
        recorded = await connection.execute(
            statement.returning(quarantined_orders.c.venue_order_id)
        )
        new += recorded.scalars().all()
    return new


async def load_equities(connection: AsyncConnection) -> list[tuple[datetime, int]]:
    """Return the equities that losses are counted from, by close, ascending.

    Since the last resumption, of which the close it was in force after is the first: the
    highest, and all of the last day and the one before.
    """
    rows = await connection.execute(
        text(
            """
            WITH since AS (
                SELECT closes_at, equity_e8, max(closes_at) OVER () AS last_at FROM account
                WHERE closes_at >= coalesce(
                    (SELECT from_closes_at FROM trading_states
                     WHERE state = 'active' ORDER BY change_id DESC LIMIT 1),
                    '-infinity'
                )
            ), peak AS (
                SELECT closes_at, equity_e8 FROM since ORDER BY equity_e8 DESC LIMIT 1
            ), recent AS (
                SELECT closes_at, equity_e8 FROM since WHERE closes_at > last_at - interval '2 days'
            )
            SELECT * FROM peak UNION SELECT * FROM recent ORDER BY closes_at
            """
        )
    )
    return [(row.closes_at, int(row.equity_e8)) for row in rows]


# --- what a person lets the book trade ------------------------------------------------------


TRIPWIRE = "tripwire"
"""Who decided what the trainer's checks of drift brought about."""


@dataclass(frozen=True, slots=True)
class RecordedControl:
    """What is in force, and who put it there when.

    Attributes
    ----------
    from_closes_at
        The last close handled before the change, if any had been.
    decided_at
        By the wall clock.
    change_id
        Its place among the changes.
    """

    control: TradingControl
    decided_by: str | None = None
    from_closes_at: datetime | None = None
    decided_at: datetime | None = None
    change_id: int | None = None

    def comes_after(self, closes_at: datetime) -> bool:
        """Tell whether a close is still settled by what was in force before.

        A person's word holds at once. A tripwire speaks of the features of a close, which the
        trainer may have checked before or after that close is settled here: it holds from the
        next one on, whichever came first.
        """
        return (
            self.decided_by == TRIPWIRE
            and self.from_closes_at is not None
            and self.from_closes_at >= closes_at
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """What the record says right before a close is settled.

    Attributes
    ----------
    recorded
        What may be traded.
    n_recent_orders
        Sent after the instant asked about.
    repeated
        Intents that have orders already.
    """

    recorded: RecordedControl
    n_recent_orders: int
    repeated: frozenset[str]


STANDING = text(
    """
    SELECT newest.*,
           (SELECT count(*) FROM orders WHERE submitted_at > CAST(:since AS timestamptz))
             AS n_recent_orders,
           ARRAY(SELECT DISTINCT intent_id FROM orders
                 WHERE intent_id = ANY(CAST(:intent_ids AS text[]))) AS repeated
    FROM (VALUES (0)) AS once
    LEFT JOIN (SELECT * FROM trading_states ORDER BY change_id DESC LIMIT 1) AS newest ON true
    """
)
"""What may be traded, which intents were traded before, and how many orders left since."""


def read_standing(answer: Mapping[str, Any]) -> Standing:
    """Return what the answer to `STANDING` says."""
    row = SimpleNamespace(**answer)
    control = RecordedControl(TradingControl()) if row.state is None else _recorded_control(row)
    return Standing(control, row.n_recent_orders, frozenset(row.repeated))


async def load_control(connection: AsyncConnection, before: int | None = None) -> RecordedControl:
    """Return what is in force, or was before a change; an active book where nobody decided."""
    newest = select(trading_states).order_by(trading_states.c.change_id.desc()).limit(1)
    if before is not None:
        newest = newest.where(trading_states.c.change_id < before)
    row = (await connection.execute(newest)).one_or_none()
    return RecordedControl(TradingControl()) if row is None else _recorded_control(row)


async def insert_control(
    connection: AsyncConnection,
    control: TradingControl,
    decided_by: str,
    from_closes_at: datetime | None,
    lineage: Mapping[str, str],
) -> RecordedControl:
    """Record a change; earlier ones stay, for whoever asks what was in force when."""
    row = {
        "from_closes_at": from_closes_at,
        "state": control.state.value,
        "is_flattening": control.is_flattening,
        "reason": control.reason,
        "decided_by": decided_by,
        **lineage,
    }
    inserted = await connection.execute(
        insert(trading_states).values(row).returning(trading_states)
    )
    return _recorded_control(inserted.one())


def _recorded_control(row: Any) -> RecordedControl:
    return RecordedControl(
        TradingControl(TradingState(row.state), row.is_flattening, row.reason),
        row.decided_by,
        row.from_closes_at,
        row.ingested_at,
        row.change_id,
    )


# --- what people ask for --------------------------------------------------------------------


async def find_orders(
    connection: AsyncConnection,
    *,
    pair: str | None,
    state: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> Sequence[Row[Any]]:
    """Return orders by the close they were decided on, newest first."""
    query = (
        select(orders)
        .where(*of_pair(orders.c.pair, pair), *within(orders.c.created_at, since, until))
        .order_by(orders.c.created_at.desc(), orders.c.pair, orders.c.leg.desc())
        .limit(limit)
    )
    if state is not None:
        query = query.where(orders.c.state.in_(_WORKING if state == "working" else (state,)))
    return (await connection.execute(query)).all()


async def find_fills(
    connection: AsyncConnection,
    *,
    pair: str | None,
    client_order_id: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> Sequence[Row[Any]]:
    """Return fills by their instant, newest first."""
    query = (
        select(fills)
        .where(*of_pair(fills.c.pair, pair), *within(fills.c.filled_at, since, until))
        .order_by(fills.c.filled_at.desc(), fills.c.client_order_id, fills.c.fill_number.desc())
        .limit(limit)
    )
    if client_order_id is not None:
        query = query.where(fills.c.client_order_id == client_order_id)
    return (await connection.execute(query)).all()


async def find_positions(
    connection: AsyncConnection,
    *,
    pair: str | None,
    state: str,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> list[PairPosition]:
    """Return positions by the close they were opened on, newest first."""
    held = pair_positions.c
    query = (
        select(pair_positions)
        .where(*of_pair(held.pair, pair), *within(held.opened_at, since, until))
        .order_by(held.opened_at.desc(), held.pair)
        .limit(limit)
    )
    if state == "live":
        query = query.where(held.state != PairState.CLOSED.value)
    elif state != "all":
        query = query.where(held.state == state)
    return [position_of(row) for row in await connection.execute(query)]


async def find_adjustments(
    connection: AsyncConnection, name: str, limit: int
) -> Sequence[Row[Any]]:
    """Return the adjustments of an account, newest first."""
    query = (
        select(adjustments)
        .where(adjustments.c.account == name)
        .order_by(adjustments.c.adjustment_id.desc())
        .limit(limit)
    )
    return (await connection.execute(query)).all()


async def find_quarantined(
    connection: AsyncConnection, name: str, limit: int
) -> Sequence[Row[Any]]:
    """Return the orders of others on an account, newest first."""
    found = quarantined_orders.c
    query = (
        select(quarantined_orders)
        .where(found.account == name)
        .order_by(found.ingested_at.desc(), found.venue_order_id)
        .limit(limit)
    )
    return (await connection.execute(query)).all()
