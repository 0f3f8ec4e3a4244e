"""A backtest: screen, features and trading of recorded bars in one process.

Every stage takes the decisions of the service of its name with the same rule and the same
arithmetic, and orders fill as at the paper venue. Orders, fills and digests therefore equal
those of a replay of the same bars through the running fleet.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.backtest.preparation import Prepared
from shared.backtest.result import BacktestResult
from shared.backtest.trading import Forecaster, trade_table
from shared.book.ledger import Identity
from shared.errors import SettingsError
from shared.sleeves.pairs.settings import StrategySettings


def run_backtest(
    prepared: Prepared,
    settings: StrategySettings,
    *,
    account: str,
    champion: Forecaster | None = None,
) -> BacktestResult:
    """Trade a prepared period.

    Parameters
    ----------
    prepared
        Screens and features; any number of runs may share them.
    settings
        What decides.
    account
        Name of the account, part of every client order id.
    champion
        The model in force over the whole period, if one is.

    Raises
    ------
    SettingsError
        If the settings would have given other screens or features.
    """
    if not prepared.fits(settings):
        raise SettingsError(
            "the period was prepared with other settings of trade_timeframe, ingest, screener or "
            "features: prepare it anew"
        )
    trading = trade_table(prepared.table, prepared.inputs, settings, champion)
    identity = Identity(account, settings.run_id(prepared.start_ms))
    return BacktestResult(
        prepared, trading, identity, None if champion is None else champion.sha256
    )


def account_summary(result: BacktestResult, capital_e8: int) -> Mapping[str, object]:
    """Return final cash, equity and open positions, amounts as decimal strings."""
    last = result.equity[-1] if result.equity else None
    return {
        "cash_e8": last.cash_e8 if last else capital_e8,
        "equity_e8": last.equity_e8 if last else capital_e8,
        "positions": [
            {
                "position_id": position.position_id,
                "pair": position.pair,
                "lots_y": position.lots_y,
                "lots_x": position.lots_x,
            }
            for position in sorted(result.positions.values(), key=lambda p: p.position_id)
            if not position.is_flat
        ],
    }
