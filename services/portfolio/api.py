"""REST routes of the portfolio."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, model_validator

from services.portfolio import store
from services.portfolio.handlers import Portfolio
from services.portfolio.profit import Profit, profit_and_loss
from shared.access.guard import READ, TRADE, Operator
from shared.book.positions import value_e8
from shared.book.sizing import SizingSettings
from shared.database.book import last_account, live_positions
from shared.database.engine import snapshot
from shared.database.instruments import load_instruments
from shared.rest import MOST_ROWS, Limit, PairName, Reasoned, Since, Until, usdt
from shared.service import ServedBy
from shared.settings import Settings

_CHANGES_SHOWN = 20


class Target(BaseModel):
    """What became of a signal: an intent, or a refusal with its reason."""

    closes_at: datetime
    y: str
    x: str
    action: Literal["enter", "exit"]
    is_accepted: bool
    reason: str
    intent_id: str | None


class SlotTaken(BaseModel):
    """A pair that holds a slot and a share of the caps.

    Attributes
    ----------
    notional_y_usdt, notional_x_usdt
        Its share of the caps, at the price it was sized at.
    is_closing
        Whether its closing intent has been issued.
    state
        Of its position; empty until the executor has booked it, like what follows.
    value_usdt, profit_usdt
        At the marks of the last close.
    """

    pair: str
    position_id: str
    notional_y_usdt: Decimal
    notional_x_usdt: Decimal
    is_closing: bool
    state: Literal["opening", "open", "closing"] | None = None
    lots_y: int | None = None
    lots_x: int | None = None
    value_usdt: Decimal | None = None
    profit_usdt: Decimal | None = None


class Earned(BaseModel):
    """What was earned, net of fees and funding.

    Attributes
    ----------
    n_closed
        Positions that were filled and are closed.
    realised_usdt
        Of closed positions.
    open_usdt
        Of the others, at the marks of the last close.
    profit_usdt
        Both.
    fees_usdt, funding_usdt
        What it cost; contained in the above.
    """

    n_closed: int
    realised_usdt: Decimal
    open_usdt: Decimal
    profit_usdt: Decimal
    fees_usdt: Decimal
    funding_usdt: Decimal


class PairEarned(Earned):
    """What one pair earned."""

    pair: str


class DayEarned(BaseModel):
    """One UTC day; the close at midnight ends the day before it.

    Attributes
    ----------
    change_usdt
        Of the equity since the end of the day before.
    realised_usdt
        Of positions closed on the day, whenever their costs arose.
    fees_usdt
        Of the day's fills. Funding is recorded by position only.
    """

    day: date
    equity_usdt: Decimal
    change_usdt: Decimal
    gross_usdt: Decimal
    n_closed: int
    realised_usdt: Decimal
    fees_usdt: Decimal


class Earnings(BaseModel):
    """The account after the last settled close, and how it came about.

    Attributes
    ----------
    capital_usdt
        What the account began with.
    pairs
        Largest profit or loss first.
    """

    closes_at: datetime | None
    capital_usdt: Decimal
    cash_usdt: Decimal
    equity_usdt: Decimal
    gross_usdt: Decimal
    total: Earned
    pairs: list[PairEarned]
    days: list[DayEarned]


class LimitsWanted(Reasoned):
    """Limits to change; those left out stay as they are.

    Attributes
    ----------
    capital_usdt, top_k, gross_cap, symbol_cap
        As in the settings of the portfolio.
    """

    capital_usdt: int | None = Field(
        None, gt=0, le=1_000_000_000, description="Capital the sizes are fractions of"
    )
    top_k: int | None = Field(None, gt=0, le=1000, description="Most pairs held at once")
    gross_cap: float | None = Field(
        None, gt=0, le=10, description="Most gross notional, as a multiple of the capital"
    )
    symbol_cap: float | None = Field(
        None, gt=0, le=10, description="The same in one symbol over all pairs"
    )

    @model_validator(mode="after")
    def _something_is_wanted(self) -> Self:
        if not self.wanted():
            raise ValueError(f"name at least one of {', '.join(SizingSettings.model_fields)}")
        return self

    def wanted(self) -> dict[str, float]:
        """Return the limits that are given."""
        return self.model_dump(include=set(SizingSettings.model_fields), exclude_none=True)


class RecordedLimits(SizingSettings):
    """Limits that were decided on.

    Attributes
    ----------
    from_closes_at
        They are in force for closes after this one; for all where it is empty.
    """

    from_closes_at: datetime | None
    reason: str
    decided_by: str
    ingested_at: datetime


class Limits(BaseModel):
    """The limits, and how much of them is used.

    Attributes
    ----------
    limits
        Of the next close.
    settings
        Of the settings: in force until somebody changed them, and in every backtest.
    n_slots_taken, gross_usdt
        Pairs that hold a slot, and their share of the gross cap.
    changes
        Newest first.
    """

    limits: SizingSettings
    settings: SizingSettings
    n_slots_taken: int
    gross_usdt: Decimal
    changes: list[RecordedLimits]


def portfolio_routes(settings: Settings, portfolio: Portfolio) -> APIRouter:
    """Return the routes of the portfolio."""
    router = APIRouter()

    @router.get("/targets", dependencies=[READ], summary="What became of signals, newest first")
    async def targets(
        runtime: ServedBy,
        pair: PairName = None,
        is_accepted: Annotated[
            bool | None, Query(description="Only intents, or only refusals")
        ] = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = 100,
    ) -> list[Target]:
        """Return the decision on every signal: the intent it became, or why it became none."""
        async with snapshot(runtime.engine) as connection:
            rows = await store.find_targets(
                connection,
                pair=pair,
                is_accepted=is_accepted,
                since=since,
                until=until,
                limit=limit,
            )
        return [Target(**row._mapping) for row in rows]

    @router.get("/positions", dependencies=[READ], summary="Pairs that hold a slot")
    async def positions(runtime: ServedBy, limit: Limit = 100) -> list[SlotTaken]:
        """Return the slots by pair, each with the state and value of its position."""
        async with snapshot(runtime.engine) as connection:
            slots = await store.load_live(connection)
            live = await live_positions(connection)
            account = await last_account(connection)
            instruments = await load_instruments(connection, settings.venue_name)
        taken = []
        for _, slot in sorted(slots.items())[:limit]:
            shown = SlotTaken(
                pair=f"{slot.y}~{slot.x}",
                position_id=slot.position_id,
                notional_y_usdt=usdt(slot.notional_y_e8),
                notional_x_usdt=usdt(slot.notional_x_e8),
                is_closing=slot.is_closing,
            )
            position = live.get(slot.position_id)
            if position is not None and account is not None:
                net_e8, _ = value_e8(position, account.marks_ticks, instruments)
                booked = {
                    "state": position.state.value,
                    "lots_y": position.lots_y,
                    "lots_x": position.lots_x,
                    "value_usdt": usdt(net_e8),
                    "profit_usdt": usdt(position.cash_e8 + net_e8),
                }
                shown = shown.model_copy(update=booked)
            taken.append(shown)
        return taken

    @router.get(
        "/pnl", dependencies=[READ], summary="Profit and loss: in total, by pair and by day"
    )
    async def pnl(
        runtime: ServedBy,
        days: Annotated[int, Query(ge=1, le=366, description="Days up to the last close")] = 30,
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS, description="Most pairs")] = 100,
    ) -> Earnings:
        """Return what the book earned; totals cover everything, whatever is shown of it."""
        async with snapshot(runtime.engine) as connection:
            account = await last_account(connection)
            if account is None:
                return _nothing_earned(settings.portfolio)
            closed = await store.closed_profits(connection)
            live = await live_positions(connection)
            instruments = await load_instruments(connection, settings.venue_name)
            since = _first_midnight(account.closes_at, days)
            daily = await store.daily_account(connection, since)
            equity_before_e8 = await store.equity_at(connection, since)
        profits = profit_and_loss(closed, live.values(), account.marks_ticks, instruments)
        capital_e8 = int(account.equity_e8) - profits.total.total_e8
        if equity_before_e8 is None:
            equity_before_e8 = capital_e8
        largest = sorted(
            profits.by_pair.items(), key=lambda item: (-abs(item[1].total_e8), item[0])
        )
        return Earnings(
            closes_at=account.closes_at,
            capital_usdt=usdt(capital_e8),
            cash_usdt=usdt(account.cash_e8),
            equity_usdt=usdt(account.equity_e8),
            gross_usdt=usdt(account.gross_e8),
            total=Earned(**_earned(profits.total)),
            pairs=[PairEarned(pair=pair, **_earned(found)) for pair, found in largest[:limit]],
            days=_days(daily, equity_before_e8),
        )

    @router.get(
        "/limits", dependencies=[READ], summary="The limits in force, and how much of them is used"
    )
    async def limits(runtime: ServedBy) -> Limits:
        """Return the limits of the next close, those of the settings, and the last changes."""
        return await _limits(runtime, settings, portfolio)

    @router.put(
        "/limits",
        dependencies=[TRADE],
        summary="Change limits from the next close on",
    )
    async def change_limits(runtime: ServedBy, body: LimitsWanted, operator: Operator) -> Limits:
        """Raise or lower limits; those left out stay as they are.

        They decide on entries alone: nothing that is held is closed when a cap falls below
        it, no entry is made until there is room again. `POST /flatten` of the executor closes.
        """
        await runtime.do(
            "limits",
            lambda unit: portfolio.change_limits(unit, body.wanted(), body.reason, operator),
        )
        return await _limits(runtime, settings, portfolio)

    return router


def _earned(profit: Profit) -> dict[str, Any]:
    return {
        "n_closed": profit.n_closed,
        "realised_usdt": usdt(profit.realised_e8),
        "open_usdt": usdt(profit.open_e8),
        "profit_usdt": usdt(profit.total_e8),
        "fees_usdt": usdt(profit.fees_e8),
        "funding_usdt": usdt(profit.funding_e8),
    }


def _nothing_earned(limits: SizingSettings) -> Earnings:
    """Return the account before the first settled close."""
    capital = usdt(limits.capital_e8)
    return Earnings(
        closes_at=None,
        capital_usdt=capital,
        cash_usdt=capital,
        equity_usdt=capital,
        gross_usdt=usdt(0),
        total=Earned(**_earned(Profit())),
        pairs=[],
        days=[],
    )


def _first_midnight(closes_at: datetime, days: int) -> datetime:
    """Return the midnight before the first of the last `days` days up to a close."""
    day = closes_at - timedelta(milliseconds=1)  # a close at midnight ends the day before it
    midnight = day.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight - timedelta(days=days - 1)


def _days(daily: Sequence[Any], equity_before_e8: int) -> list[DayEarned]:
    """Return days, newest first, with what each changed."""
    before_e8 = [*(int(row.equity_e8) for row in daily[1:]), equity_before_e8]
    return [
        DayEarned(
            day=row.day,
            equity_usdt=usdt(row.equity_e8),
            change_usdt=usdt(int(row.equity_e8) - earlier_e8),
            gross_usdt=usdt(row.gross_e8),
            n_closed=row.n_closed,
            realised_usdt=usdt(row.realised_e8),
            fees_usdt=usdt(row.fees_e8),
        )
        for row, earlier_e8 in zip(daily, before_e8[: len(daily)], strict=True)
    ]


async def _limits(runtime: ServedBy, settings: Settings, portfolio: Portfolio) -> Limits:
    async with snapshot(runtime.engine) as connection:
        changes = await store.find_limit_changes(connection, _CHANGES_SHOWN)
        slots = await store.load_live(connection)
    gross_e8 = sum(slot.notional_y_e8 + slot.notional_x_e8 for slot in slots.values())
    names = RecordedLimits.model_fields
    return Limits(
        limits=portfolio.limits,
        settings=settings.portfolio,
        n_slots_taken=len(slots),
        gross_usdt=usdt(gross_e8),
        changes=[RecordedLimits(**{name: getattr(row, name) for name in names}) for row in changes],
    )
