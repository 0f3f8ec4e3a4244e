"""Use cases of the USD-M account: perpetuals, one-way mode, cross margin, no leverage."""

from __future__ import annotations

from services.paper_exchange import payloads
from services.paper_exchange.desk import Desk
from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.matching import FLAT, Product
from services.paper_exchange.order_entry import check_usdm_order, listing_of, read_usdm_order
from services.paper_exchange.parameters import Parameters, integer, limit_of
from services.paper_exchange.payloads import Payload
from services.paper_exchange.refusals import RefusalError, illegal, missing
from services.paper_exchange.store import DuplicateOrderError

INCOME_KINDS = ("REALIZED_PNL", "COMMISSION", "FUNDING_FEE")

_DEFAULT_INCOME = 100
_MAX_INCOME = 1_000
_DONE = {"code": 200, "msg": "success"}


class UsdmDesk(Desk):
    """The USD-M account.

    Parameters
    ----------
    exchange
        The venue.
    """

    def __init__(self, exchange: PaperExchange) -> None:
        show_order = payloads.order
        super().__init__(exchange, Product.USDM, show_order, payloads.trade, show_order)

    # --- orders ---------------------------------------------------------------------------

    def place_order(self, parameters: Parameters) -> Payload:
        """Accept an order."""
        request = read_usdm_order(parameters, self._exchange.market)
        symbol = request.listing.venue_symbol
        position = self._exchange.positions(self.product).get(symbol, FLAT)
        check_usdm_order(request, self._exchange.market_at_ms, position)
        try:
            placed = self._exchange.place(self.product, request)
        except DuplicateOrderError as error:
            raise RefusalError(-4116, "ClientOrderId is duplicated.") from error
        return payloads.order(placed, request.listing)

    def fetch_open_order(self, parameters: Parameters) -> Payload:
        """Return an order if it may still trade."""
        listing, found = self._find(parameters)
        if found is None or not found.is_open or self._exchange.is_invisible(found):
            raise RefusalError(-2013, "Order does not exist.")
        return payloads.order(found, listing)

    def cancel_all_orders(self, parameters: Parameters) -> Payload:
        """Withdraw every open order of a symbol."""
        listing = listing_of(parameters, self._exchange.market)
        found = self._exchange.store.open_orders(self.product, listing.venue_symbol)
        self._exchange.cancel(found)
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def countdown_cancel_all(self, parameters: Parameters) -> Payload:
        """Set the timer that withdraws every open order of a symbol; 0 stops it."""
        listing = listing_of(parameters, self._exchange.market)
        countdown_ms = integer(parameters, "countdownTime")
        if countdown_ms is None:
            raise missing("countdownTime")
        self._exchange.set_countdown(listing.venue_symbol, countdown_ms)
        return {"symbol": listing.venue_symbol, "countdownTime": str(countdown_ms)}

    # --- the account ----------------------------------------------------------------------

    def account(self) -> payloads.Account:
        """Return the account as it is now."""
        exchange = self._exchange
        return payloads.Account(
            exchange.market,
            exchange.market_at_ms,
            exchange.store.state().wallet_e8,
            exchange.store.positions(self.product),
            exchange.now_ms(),
        )

    def fetch_position_risk(
        self, parameters: Parameters, *, is_every_symbol: bool
    ) -> list[Payload]:
        """Return positions with their marks, of one symbol or of several."""
        symbol = self._optional_symbol(parameters)
        return self.account().position_risk(symbol, is_every_symbol=is_every_symbol)

    def fetch_income(self, parameters: Parameters) -> list[Payload]:
        """Return what changed the wallet, ascending: profits, fees, funding."""
        kind = parameters.get("incomeType") or None
        if kind is not None and kind not in INCOME_KINDS:
            raise illegal("incomeType", "|".join(INCOME_KINDS))
        rows = self._exchange.store.income(
            self._optional_symbol(parameters),
            kind,
            integer(parameters, "startTime"),
            integer(parameters, "endTime"),
            limit_of(parameters, _DEFAULT_INCOME, _MAX_INCOME),
        )
        asset = self._exchange.market.asset
        return [payloads.income(row, asset) for row in rows]

    # --- how it is set up: in the one way there is ------------------------------------------

    def leverage_brackets(self, parameters: Parameters) -> list[Payload]:
        """Return the leverage allowed: none."""
        symbol = self._optional_symbol(parameters)
        brackets = payloads.leverage_brackets(self._exchange.market)
        return [each for each in brackets if symbol in (None, each["symbol"])]

    def symbol_config(self, parameters: Parameters) -> list[Payload]:
        """Return margin type and leverage, of one symbol or of all."""
        symbol = self._optional_symbol(parameters)
        return [
            payloads.symbol_config(each)
            for each in self._exchange.market.listings
            if symbol in (None, each)
        ]

    def commission_rate(self, parameters: Parameters) -> Payload:
        """Return the fee of a symbol: the same for makers and takers."""
        listing = listing_of(parameters, self._exchange.market)
        rate = payloads.fee_rate(self._exchange.terms.fee_ppm)
        return {
            "symbol": listing.venue_symbol,
            "makerCommissionRate": rate,
            "takerCommissionRate": rate,
        }

    def set_leverage(self, parameters: Parameters) -> Payload:
        """Accept a leverage of one."""
        listing = listing_of(parameters, self._exchange.market)
        leverage = integer(parameters, "leverage")
        if leverage is None:
            raise missing("leverage")
        if leverage != 1:
            raise RefusalError(-4028, f"Leverage {leverage} is not valid: this venue lends nothing")
        return {
            "symbol": listing.venue_symbol,
            "leverage": 1,
            "maxNotionalValue": payloads.MAX_NOTIONAL,
        }

    def set_margin_type(self, parameters: Parameters) -> Payload:
        """Accept cross margin."""
        listing_of(parameters, self._exchange.market)
        if parameters.get("marginType") != "CROSSED":
            raise RefusalError(-4055, "this venue has cross margin only: send CROSSED")
        return _DONE

    def set_multi_assets_margin(self, parameters: Parameters) -> Payload:
        """Accept that margin is in one asset."""
        if parameters.get("multiAssetsMargin", "").lower() != "false":
            raise RefusalError(-4171, "this venue has one asset only: send false")
        return _DONE

    def set_position_mode(self, parameters: Parameters) -> Payload:
        """Accept one-way mode."""
        if parameters.get("dualSidePosition", "").lower() != "false":
            raise RefusalError(-4067, "this venue is in one-way mode only: send false")
        return _DONE
