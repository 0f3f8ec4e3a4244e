"""What a venue lists, in the units of the book."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from shared.book.instrument import NOTIONAL_DECIMALS, PERPETUAL, Instrument
from shared.errors import DataError
from shared.venues.answers import decimal_of, field_of, integer_of, text_of


@dataclass(frozen=True, slots=True)
class Listing:
    """A perpetual of the venue.

    Attributes
    ----------
    venue_symbol
        The venue's own name of it, such as `BTCUSDT`.
    listed_at_ms
        When it was first traded; 0 where the venue does not say.
    instrument
        Its units; the symbol in it is ours.
    """

    venue_symbol: str
    listed_at_ms: int
    instrument: Instrument


def is_perpetual(info: Mapping[str, Any]) -> bool:
    """Whether an entry of the venue's list is a perpetual; dated futures share their names."""
    return bool(info.get("contractType", "PERPETUAL") == "PERPETUAL")


def read_listing(info: Mapping[str, Any]) -> Listing:
    """Read an entry of the venue's list, its units from its filters.

    Raises
    ------
    DataError
        If its steps cannot be counted by the book.
    VenueUnknownError
        If a field is missing or unreadable.
    """
    name = text_of(info, "symbol")
    filters = {text_of(each, "filterType"): each for each in field_of(info, "filters")}
    lot = decimal_of(field_of(filters, "MARKET_LOT_SIZE"), "stepSize")
    smallest = decimal_of(field_of(filters, "MIN_NOTIONAL"), "notional")
    ours = f"{text_of(info, 'baseAsset')}/{text_of(info, 'quoteAsset')}"
    instrument = Instrument(
        symbol=str(info.get("recordedSymbol", ours)),
        price_decimals=_decimals(name, decimal_of(field_of(filters, "PRICE_FILTER"), "tickSize")),
        lot_decimals=_decimals(name, lot),
        min_notional_e8=int(smallest.scaleb(NOTIONAL_DECIMALS)),
        price_source=str(info.get("priceSource", PERPETUAL)),
    )
    listed_at_ms = integer_of(info, "onboardDate") if "onboardDate" in info else 0
    return Listing(name, listed_at_ms, instrument)


def _decimals(name: str, step: Decimal) -> int:
    decimals = -step.normalize().adjusted()
    if step <= 0 or step != Decimal(1).scaleb(-decimals) or decimals < 0:
        raise DataError(
            f"{name} has a step of {step}, which is no tenth, hundredth, ... or one: "
            "the book cannot count in it; leave the symbol out"
        )
    return decimals
