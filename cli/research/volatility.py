"""Control of volatility in `mnt aggregate`: entries are made smaller where the book would swing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shared.book.instrument import Instrument
from shared.book.sizing import E8
from shared.book.targets import Decision, IntentPlan, LiveTarget
from shared.clock import instant_of_ms, timeframe_ms
from shared.errors import DataError
from shared.events.portfolio import OrderLeg, SubmitOrder
from shared.quant.bars import Bars
from shared.quant.typing import Float1D, Float2D
from shared.quant.volatility import annual_volatility, largest_share

_YEAR_MS = 365 * timeframe_ms("1d")
FEWEST_BARS = 100
"""Returns that a covariance is made from at least."""
_SHARE_UNIT = 1_000_000


@dataclass(frozen=True, eq=False, slots=True)
class VolatilityControl:
    """A bound on the volatility of the book.

    Attributes
    ----------
    target
        Annual, as a share of the capital.
    window_bars
        Bars that the covariance of returns looks back on.
    bars
        Of the trade timeframe.
    capital_e8
        What the target is a share of.
    """

    target: float
    window_bars: int
    bars: Bars
    timeframe: str
    capital_e8: int

    def apply(
        self,
        plan: IntentPlan,
        opened: Mapping[str, SubmitOrder],
        instruments: Mapping[str, Instrument],
        at_ms: int,
    ) -> IntentPlan:
        """Return a plan whose entries keep the book within the bound, all by the same share.

        Parameters
        ----------
        plan
            Of one close.
        opened
            The opening intent of every position that is held, by its id.
        instruments
            Units of the symbols.
        at_ms
            The close; nothing after it is looked at.

        Raises
        ------
        DataError
            If the bars before the close are too few.

        Notes
        -----
        What is held is never made smaller: a size is decided once, and an exit is always allowed.
        """
        entries = [d.intent for d in plan.decisions if d.intent and d.intent.action == "open"]
        if not entries:
            return plan
        ids = {intent.position_id for intent in entries}
        held = [
            (opened[target.position_id], target)
            for target in plan.live.values()
            if target.position_id not in ids
        ]
        added = [(intent, plan.live[intent.y, intent.x]) for intent in entries]
        symbols = sorted({s for intent, _ in (*held, *added) for s in (intent.y, intent.x)})
        covariance = self._covariance(symbols, at_ms)
        share = largest_share(
            _notionals(held, symbols), _notionals(added, symbols), covariance, self._most_variance
        )
        return plan if share == 1 else _scaled(plan, share, instruments, self.target)

    def volatility(self, notionals: Mapping[str, float], at_ms: int) -> float:
        """Return the annual volatility of signed notionals, as a share of the capital."""
        if not notionals:
            return 0.0
        symbols = sorted(notionals)
        return annual_volatility(
            np.array([notionals[symbol] for symbol in symbols]),
            self._covariance(symbols, at_ms),
            self.capital_e8 / E8,
            self._bars_per_year,
        )

    @property
    def _bars_per_year(self) -> float:
        return _YEAR_MS / timeframe_ms(self.timeframe)

    @property
    def _most_variance(self) -> float:
        return (self.target * self.capital_e8 / E8) ** 2 / self._bars_per_year

    def _covariance(self, symbols: Sequence[str], at_ms: int) -> Float2D:
        closes = self.bars.closes()
        last = int(closes.searchsorted(at_ms, "right"))
        prices = self.bars.wide(
            symbols, "close", closes[max(0, last - self.window_bars - 1) : last]
        )
        prices = prices[np.isfinite(prices).all(axis=1)]
        if len(prices) <= FEWEST_BARS:
            raise DataError(
                f"{len(prices)} bars of {', '.join(symbols)} up to "
                f"{instant_of_ms(at_ms):%Y-%m-%d %H:%M}: a volatility needs {FEWEST_BARS + 1}; "
                "give older bars, or leave --target-volatility out"
            )
        returns = np.diff(prices, axis=0) / prices[:-1]
        return np.atleast_2d(np.cov(returns, rowvar=False))


def _notionals(
    positions: Sequence[tuple[SubmitOrder, LiveTarget]], symbols: Sequence[str]
) -> Float1D:
    """Return the net notional of every symbol, in the quote currency."""
    place = {symbol: n for n, symbol in enumerate(symbols)}
    total = np.zeros(len(symbols))
    for intent, target in positions:
        for leg in intent.legs:
            amount_e8 = target.notional_y_e8 if leg.leg == "y" else target.notional_x_e8
            total[place[leg.symbol]] += (1 if leg.side == "buy" else -1) * amount_e8 / E8
    return total


def _scaled(
    plan: IntentPlan, share: float, instruments: Mapping[str, Instrument], target: float
) -> IntentPlan:
    """Return a plan with a share of every entry, or none where that is too small to trade."""
    share_ppm = int(share * _SHARE_UNIT)
    live = dict(plan.live)
    decisions: list[Decision] = []
    for decision in plan.decisions:
        intent = decision.intent
        if intent is None or intent.action != "open":
            decisions.append(decision)
            continue
        key = (intent.y, intent.x)
        slot = live[key]
        whole = {"y": slot.notional_y_e8, "x": slot.notional_x_e8}
        legs: list[OrderLeg] = []
        notionals: dict[str, int] = {}
        for leg in intent.legs:
            lots = leg.quantity_lots * share_ppm // _SHARE_UNIT
            notionals[leg.leg] = whole[leg.leg] // leg.quantity_lots * lots
            if lots and notionals[leg.leg] >= instruments[leg.symbol].min_notional_e8:
                legs.append(leg.model_copy(update={"quantity_lots": lots}))
        if len(legs) < len(intent.legs):
            del live[key]
            why = f"volatility target of {target:g} leaves {share:.1%} of it: too small to trade"
            decisions.append(Decision(decision.signal, None, why))
            continue
        live[key] = slot._replace(notional_y_e8=notionals["y"], notional_x_e8=notionals["x"])
        scaled = intent.model_copy(update={"legs": tuple(legs)})
        decisions.append(decision._replace(intent=scaled))
    intents = tuple(d.intent for d in decisions if d.intent is not None)
    requested = plan.requested.model_copy(update={"intents": intents})
    return IntentPlan(requested, tuple(decisions), live)
