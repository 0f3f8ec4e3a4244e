"""The compiled loop of a backtest: slots, orders, fills and book, close after close.

It takes the decisions of `plan_intents` and `settle_close` on the signals of the period with
the same compiled arithmetic, for an account that nobody halts and a venue that answers. What
it writes are whole numbers in columns; `shared.backtest.result` gives them their names.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from shared.backtest.signals import Signals
from shared.book.arithmetic import (
    PARTS_PER_MILLION,
    charge,
    fill_ticks,
    leg_targets,
    lots_available,
    share_below,
    units_below,
    units_nearest,
)
from shared.quant.compiled import compiled_in_place
from shared.quant.typing import Bool1D, Float1D, Float2D, Int1D, Int2D

OPENING, OPEN, CLOSING, CLOSED = range(4)
"""States of a position."""
ACCEPTED, PARTIALLY_FILLED, FILLED, CANCELLED = range(4)
"""States of an order."""
BY_OPEN, BY_CLOSE, BY_UNWIND = range(3)
"""What an order was sent for."""
LEGS = (0, 1)


class Market(NamedTuple):
    """What is traded.

    Attributes
    ----------
    closes_at_ms : shape (n_closes,)
        The trade closes.
    opens, volumes : shape (n_closes, n_symbols)
        Of the bar that closes, NaN where the symbol has none.
    marks_ticks : shape (n_closes, n_symbols)
        The last close that came with features, in ticks.
    legs : shape (n_pairs, 2)
        Symbols y and x of each pair.
    price_scale, lot_scale, notional_step, min_notional_e8 : shape (n_symbols,)
        Ticks and lots in one of their currency, notional of a lot at a tick, smallest order.
    """

    closes_at_ms: Int1D
    opens: Float2D
    volumes: Float2D
    marks_ticks: Int2D
    legs: Int2D
    price_scale: Float1D
    lot_scale: Float1D
    notional_step: Int1D
    min_notional_e8: Int1D


class Terms(NamedTuple):
    """The settings the loop reads, under their names there; amounts in 1e-8 of the quote."""

    bar_ms: int
    funding_interval_ms: int
    is_log: bool
    pair_gross_e8: int
    top_k: int
    gross_cap_e8: int
    symbol_cap_e8: int
    fee_ppm: int
    slippage_ppm: int
    impact_ppm: int
    max_participation_ppm: int
    funding_ppm: int
    borrow_ppm: int


class Positions(NamedTuple):
    """Every position, in order of opening.

    Attributes
    ----------
    lots, caps_e8 : shape (n, 2)
        Signed holdings, and the leg's share of the caps.
    working : shape (n, 2)
        The order that works on each leg, -1 for none.
    is_closing, is_withdrawn
        Whether the closing intent is out, and whether its orders are being withdrawn.
    """

    pair: Int1D
    opened_at_ms: Int1D
    closed_at_ms: Int1D
    state: Int1D
    lots: Int2D
    caps_e8: Int2D
    working: Int2D
    cash_e8: Int1D
    fees_e8: Int1D
    funding_e8: Int1D
    is_closing: Bool1D
    is_withdrawn: Bool1D


class Orders(NamedTuple):
    """Every order, in order of submission."""

    position: Int1D
    purpose: Int1D
    created_at_ms: Int1D
    leg: Int1D
    side: Int1D
    quantity_lots: Int1D
    filled_lots: Int1D
    n_fills: Int1D
    state: Int1D


class Fills(NamedTuple):
    """Every fill, in order of booking."""

    order: Int1D
    number: Int1D
    lots: Int1D
    price_ticks: Int1D
    fee_e8: Int1D
    filled_at_ms: Int1D


class Equity(NamedTuple):
    """The account after each close, of shape (n_closes,)."""

    cash_e8: Int1D
    equity_e8: Int1D
    gross_e8: Int1D
    n_positions: Int1D


class Account(NamedTuple):
    """What passes from close to close beside positions and orders.

    Attributes
    ----------
    counts : shape (N_COUNTS,)
        See the indices below.
    live : shape (n_slots,)
        Positions that are not closed, oldest first.
    position_of : shape (n_pairs,)
        The live position of each pair, -1 for none.
    net_e8, gross_e8 : shape (n_symbols,)
        What a tick is worth on all that positions hold of a symbol, signed and unsigned.
    entries, exits : shape (n_pairs,)
        Signals and positions of the present close.
    openings : shape (n_slots, 5)
        Signal, lots and shares of the caps of the positions to open.
    """

    counts: Int1D
    live: Int1D
    position_of: Int1D
    net_e8: Int1D
    gross_e8: Int1D
    entries: Int1D
    exits: Int1D
    openings: Int2D


(
    N_LIVE,
    N_UNSETTLED,
    N_POSITIONS,
    N_ORDERS,
    N_FILLS,
    N_INTENTS,
    CASH_E8,
    PREVIOUS_MS,
) = range(8)
N_COUNTS = 8


@compiled_in_place
def trade_closes(
    first: int,
    market: Market,
    terms: Terms,
    signals: Signals,
    first_signal: Int1D,
    account: Account,
    positions: Positions,
    orders: Orders,
    fills: Fills,
    equity: Equity,
) -> int:
    """Trade closes from `first` on while orders and fills have room; return the one to go on at.

    Positions must have room for every entry; `counts` tells what is used.
    """
    counts, n_slots = account.counts, len(account.live)
    for close in range(first, len(market.closes_at_ms)):
        # A position closes or opens with two orders at most, and each leg fills once.
        if counts[N_ORDERS] + 4 * n_slots > len(orders.position):
            return close
        if counts[N_FILLS] + 2 * n_slots > len(fills.order):
            return close
        at_ms = market.closes_at_ms[close]
        # A call with so many columns costs more than the question whether it is needed.
        n_closing, n_opening = 0, 0
        if first_signal[close] < first_signal[close + 1]:
            n_closing, n_opening = _plan(
                first_signal[close],
                first_signal[close + 1],
                market,
                terms,
                account,
                positions,
                signals,
            )
        if counts[N_UNSETTLED] > 0:
            for n in range(counts[N_LIVE]):
                position = account.live[n]
                if positions.working[position, 0] >= 0 or positions.working[position, 1] >= 0:
                    _match(position, close, at_ms, market, terms, account, positions, orders, fills)
        n_instants = at_ms // terms.funding_interval_ms
        n_instants -= counts[PREVIOUS_MS] // terms.funding_interval_ms
        if n_instants > 0 and counts[PREVIOUS_MS] >= 0:
            _charge_funding(close, n_instants, market, terms, account, positions)
        counts[PREVIOUS_MS] = at_ms
        if counts[N_UNSETTLED] > 0 or n_closing > 0 or n_opening > 0:
            for n in range(counts[N_LIVE]):
                position = account.live[n]
                if positions.state[position] != OPEN:
                    _move_on(position, at_ms, account, positions, orders)
            for n in range(n_closing):
                _close(account.exits[n], at_ms, account, positions, orders)
            for n in range(n_opening):
                _open(account.openings[n], at_ms, account, positions, orders, signals)
            _release_closed(account, positions)
        net_e8, gross_e8 = 0, 0
        if counts[N_LIVE] > 0:
            for symbol in range(len(account.net_e8)):
                net_e8 += account.net_e8[symbol] * market.marks_ticks[close, symbol]
                gross_e8 += account.gross_e8[symbol] * market.marks_ticks[close, symbol]
        equity.cash_e8[close], equity.equity_e8[close] = counts[CASH_E8], counts[CASH_E8] + net_e8
        equity.gross_e8[close], equity.n_positions[close] = gross_e8, counts[N_LIVE]
    return len(market.closes_at_ms)


@compiled_in_place
def mark_ticks(
    first_row: Int1D, pair: Int1D, close_y: Float1D, close_x: Float1D, market: Market
) -> None:
    """Fill in the marks: the closes that came with features, carried on where none did.

    Parameters
    ----------
    first_row, pair, close_y, close_x
        As in `FeatureTable`.
    market
        With marks to fill in.
    """
    for close in range(len(market.closes_at_ms)):
        if close > 0:
            for symbol in range(market.marks_ticks.shape[1]):
                market.marks_ticks[close, symbol] = market.marks_ticks[close - 1, symbol]
        for row in range(first_row[close], first_row[close + 1]):
            for leg in LEGS:
                symbol = market.legs[pair[row], leg]
                price = close_y[row] if leg == 0 else close_x[row]
                market.marks_ticks[close, symbol] = _ticks(price, symbol, market)


@compiled_in_place
def _plan(
    first: int,
    last: int,
    market: Market,
    terms: Terms,
    account: Account,
    positions: Positions,
    signals: Signals,
) -> tuple[int, int]:
    """Tell how many positions a close's signals close and open: see `exits`, `openings`."""
    n_exits, n_entries = 0, 0
    for signal in range(first, last):
        if signals.reason[signal] > 0:
            account.exits[n_exits] = signals.pair[signal]
            n_exits += 1
        else:
            account.entries[n_entries] = signal
            n_entries += 1
    n_closing = _plan_exits(n_exits, account, positions)
    n_opening = _plan_entries(n_entries, market, terms, account, positions, signals)
    account.counts[N_INTENTS] += n_closing + n_opening
    return n_closing, n_opening


@compiled_in_place
def _plan_exits(n_exits: int, account: Account, positions: Positions) -> int:
    """Keep in `exits` the positions that get a closing intent."""
    n_closing = 0
    for n in range(n_exits):
        position = account.position_of[account.exits[n]]
        if position >= 0 and not positions.is_closing[position]:
            positions.is_closing[position] = True
            account.exits[n_closing] = position
            n_closing += 1
    return n_closing


@compiled_in_place
def _plan_entries(
    n_entries: int,
    market: Market,
    terms: Terms,
    account: Account,
    positions: Positions,
    signals: Signals,
) -> int:
    """Write into `openings` what the entries get while slots and caps last, strongest first."""
    entries = account.entries
    for n in range(1, n_entries):
        entry, at = entries[n], n
        strength = abs(signals.z_score[entry])
        while at > 0 and abs(signals.z_score[entries[at - 1]]) < strength:
            entries[at] = entries[at - 1]
            at -= 1
        entries[at] = entry
    n_opening = 0
    for n in range(n_entries):
        if _sized(entries[n], n_opening, market, terms, account, positions, signals):
            n_opening += 1
    return n_opening


@compiled_in_place
def _sized(
    entry: int,
    n_opening: int,
    market: Market,
    terms: Terms,
    account: Account,
    positions: Positions,
    signals: Signals,
) -> bool:
    """Size an entry into `openings[n_opening]`, or refuse it."""
    pair, ratio = signals.pair[entry], signals.hedge_ratio[entry]
    n_live = account.counts[N_LIVE]
    if account.position_of[pair] >= 0 or n_live + n_opening >= terms.top_k:
        return False
    if not terms.is_log:
        ratio = ratio * signals.close_x[entry] / signals.close_y[entry]
    gross_e8 = share_below(terms.pair_gross_e8, signals.size_ppm[entry], PARTS_PER_MILLION)
    target_y_e8, target_x_e8 = leg_targets(gross_e8, ratio)
    taken_e8, wanted_e8 = 0, 0
    for n in range(n_live):
        caps_e8 = positions.caps_e8[account.live[n]]
        taken_e8 += caps_e8[0] + caps_e8[1]
    for n in range(n_opening):
        taken_e8 += account.openings[n, 3] + account.openings[n, 4]
    opening = account.openings[n_opening]
    opening[0] = entry
    for leg in LEGS:
        symbol = market.legs[pair, leg]
        price = signals.close_y[entry] if leg == 0 else signals.close_x[entry]
        target_e8 = target_y_e8 if leg == 0 else target_x_e8
        lot_e8 = _ticks(price, symbol, market) * market.notional_step[symbol]
        lots = target_e8 // lot_e8
        notional_e8 = lots * lot_e8
        if lots == 0 or notional_e8 < market.min_notional_e8[symbol]:
            return False
        of_symbol_e8 = notional_e8
        for n in range(n_live):
            position = account.live[n]
            legs = market.legs[positions.pair[position]]
            for other in LEGS:
                if legs[other] == symbol:
                    of_symbol_e8 += positions.caps_e8[position, other]
        for n in range(n_opening):
            legs = market.legs[signals.pair[account.openings[n, 0]]]
            for other in LEGS:
                if legs[other] == symbol:
                    of_symbol_e8 += account.openings[n, 3 + other]
        if of_symbol_e8 > terms.symbol_cap_e8:
            return False
        opening[1 + leg], opening[3 + leg] = lots, notional_e8
        wanted_e8 += notional_e8
    return taken_e8 + wanted_e8 <= terms.gross_cap_e8


@compiled_in_place
def _ticks(price: float, symbol: int, market: Market) -> int:
    return max(1, units_nearest(price, market.price_scale[symbol]))


@compiled_in_place
def _match(
    position: int,
    close: int,
    at_ms: int,
    market: Market,
    terms: Terms,
    account: Account,
    positions: Positions,
    orders: Orders,
    fills: Fills,
) -> None:
    """Book what the bar that closes gives to the orders of a position, and what was withdrawn."""
    opened_at_ms = at_ms - terms.bar_ms
    for leg in LEGS:
        order = positions.working[position, leg]
        if order < 0:
            continue
        if positions.is_withdrawn[position]:
            orders.state[order] = CANCELLED
            positions.working[position, leg] = -1
            continue
        symbol = market.legs[positions.pair[position], leg]
        opened = market.opens[close, symbol]
        if math.isnan(opened) or orders.created_at_ms[order] > opened_at_ms:
            continue
        volume_lots = units_below(market.volumes[close, symbol], market.lot_scale[symbol])
        remaining = orders.quantity_lots[order] - orders.filled_lots[order]
        lots = lots_available(volume_lots, remaining, terms.max_participation_ppm)
        if lots <= 0:
            continue
        side = orders.side[order]
        ticks = fill_ticks(
            side,
            _ticks(opened, symbol, market),
            lots,
            volume_lots,
            terms.slippage_ppm,
            terms.impact_ppm,
        )
        notional_e8 = ticks * lots * market.notional_step[symbol]
        fee_e8 = charge(notional_e8, terms.fee_ppm)
        n = account.counts[N_FILLS]
        account.counts[N_FILLS] = n + 1
        fills.order[n], fills.number[n], fills.lots[n] = order, orders.n_fills[order], lots
        fills.price_ticks[n], fills.fee_e8[n], fills.filled_at_ms[n] = ticks, fee_e8, opened_at_ms
        orders.n_fills[order] += 1
        orders.filled_lots[order] += lots
        orders.state[order] = PARTIALLY_FILLED
        if lots == remaining:
            orders.state[order] = FILLED
            positions.working[position, leg] = -1
        held_lots = abs(positions.lots[position, leg])
        positions.lots[position, leg] += side * lots
        more_lots = abs(positions.lots[position, leg]) - held_lots
        account.net_e8[symbol] += side * lots * market.notional_step[symbol]
        account.gross_e8[symbol] += more_lots * market.notional_step[symbol]
        positions.fees_e8[position] += fee_e8
        _pay(position, side * notional_e8 + fee_e8, account, positions)
    positions.is_withdrawn[position] = False


@compiled_in_place
def _pay(position: int, amount_e8: int, account: Account, positions: Positions) -> None:
    positions.cash_e8[position] -= amount_e8
    account.counts[CASH_E8] -= amount_e8


@compiled_in_place
def _charge_funding(
    close: int,
    n_instants: int,
    market: Market,
    terms: Terms,
    account: Account,
    positions: Positions,
) -> None:
    if terms.funding_ppm == 0 and terms.borrow_ppm == 0:
        return
    for n in range(account.counts[N_LIVE]):
        position, cost_e8 = account.live[n], 0
        for leg in LEGS:
            lots = positions.lots[position, leg]
            if lots != 0:
                symbol = market.legs[positions.pair[position], leg]
                net_lots, gross_lots, borne_lots = _held_lots(
                    position, symbol, market, account, positions
                )
                ticks = market.marks_ticks[close, symbol]
                notional_e8 = ticks * abs(net_lots) * market.notional_step[symbol]
                carried_e8 = n_instants * charge(notional_e8, terms.funding_ppm)
                if net_lots < 0:
                    carried_e8 += n_instants * charge(notional_e8, terms.borrow_ppm)
                cost_e8 += share_below(carried_e8, borne_lots + abs(lots), gross_lots)
                cost_e8 -= share_below(carried_e8, borne_lots, gross_lots)
        positions.funding_e8[position] += cost_e8
        _pay(position, cost_e8, account, positions)


@compiled_in_place
def _held_lots(
    asking: int, symbol: int, market: Market, account: Account, positions: Positions
) -> tuple[int, int, int]:
    """Return what all positions hold of a symbol, net and gross, and older ones than one gross."""
    net_lots, gross_lots, older_lots = 0, 0, 0
    asking_ms, asking_pair = positions.opened_at_ms[asking], positions.pair[asking]
    for n in range(account.counts[N_LIVE]):
        position = account.live[n]
        opened_ms, pair = positions.opened_at_ms[position], positions.pair[position]
        is_older = opened_ms < asking_ms or (opened_ms == asking_ms and pair < asking_pair)
        for leg in LEGS:
            if market.legs[pair, leg] == symbol:
                net_lots += positions.lots[position, leg]
                gross_lots += abs(positions.lots[position, leg])
                if is_older:
                    older_lots += abs(positions.lots[position, leg])
    return net_lots, gross_lots, older_lots


@compiled_in_place
def _move_on(
    position: int, at_ms: int, account: Account, positions: Positions, orders: Orders
) -> None:
    """Take a position whose orders have all ended to its next state."""
    working, lots = positions.working[position], positions.lots[position]
    if working[0] >= 0 or working[1] >= 0:
        return
    if lots[0] == 0 and lots[1] == 0:
        positions.state[position] = CLOSED
        positions.closed_at_ms[position] = at_ms
    elif positions.state[position] == OPENING and lots[0] != 0 and lots[1] != 0:
        positions.state[position] = OPEN
    else:
        positions.state[position] = CLOSING
        _submit_closing(position, BY_UNWIND, at_ms, account, positions, orders)


@compiled_in_place
def _close(
    position: int, at_ms: int, account: Account, positions: Positions, orders: Orders
) -> None:
    """Close what is held; orders that still work are withdrawn first."""
    if positions.state[position] >= CLOSING:
        return
    positions.state[position] = CLOSING
    if positions.working[position, 0] >= 0 or positions.working[position, 1] >= 0:
        positions.is_withdrawn[position] = True
    else:
        _submit_closing(position, BY_CLOSE, at_ms, account, positions, orders)


@compiled_in_place
def _submit_closing(
    position: int,
    purpose: int,
    at_ms: int,
    account: Account,
    positions: Positions,
    orders: Orders,
) -> None:
    for leg in LEGS:
        lots = positions.lots[position, leg]
        if lots != 0:
            side = -1 if lots > 0 else 1
            _submit(position, purpose, at_ms, leg, side, abs(lots), account, positions, orders)


@compiled_in_place
def _open(
    opening: Int1D,
    at_ms: int,
    account: Account,
    positions: Positions,
    orders: Orders,
    signals: Signals,
) -> None:
    counts = account.counts
    position = counts[N_POSITIONS]
    counts[N_POSITIONS] = position + 1
    pair, side = signals.pair[opening[0]], signals.side[opening[0]]
    positions.pair[position], positions.opened_at_ms[position] = pair, at_ms
    positions.closed_at_ms[position], positions.state[position] = -1, OPENING
    positions.lots[position] = 0
    positions.cash_e8[position] = 0
    positions.fees_e8[position] = positions.funding_e8[position] = 0
    positions.is_closing[position] = positions.is_withdrawn[position] = False
    account.position_of[pair] = position
    account.live[counts[N_LIVE]] = position
    counts[N_LIVE] += 1
    for leg in LEGS:
        positions.caps_e8[position, leg] = opening[3 + leg]
        order_side = side if leg == 0 else -side
        _submit(
            position, BY_OPEN, at_ms, leg, order_side, opening[1 + leg], account, positions, orders
        )


@compiled_in_place
def _submit(
    position: int,
    purpose: int,
    at_ms: int,
    leg: int,
    side: int,
    lots: int,
    account: Account,
    positions: Positions,
    orders: Orders,
) -> None:
    n = account.counts[N_ORDERS]
    account.counts[N_ORDERS] = n + 1
    orders.position[n], orders.purpose[n], orders.created_at_ms[n] = position, purpose, at_ms
    orders.leg[n], orders.side[n], orders.quantity_lots[n] = leg, side, lots
    orders.filled_lots[n] = orders.n_fills[n] = 0
    orders.state[n] = ACCEPTED
    positions.working[position, leg] = n


@compiled_in_place
def _release_closed(account: Account, positions: Positions) -> None:
    """Free the slots of closed positions, and count those that are on their way."""
    n_kept, n_unsettled = 0, 0
    for n in range(account.counts[N_LIVE]):
        position = account.live[n]
        if positions.state[position] == CLOSED:
            account.position_of[positions.pair[position]] = -1
        else:
            account.live[n_kept] = position
            n_kept += 1
            n_unsettled += positions.state[position] != OPEN
    account.counts[N_LIVE], account.counts[N_UNSETTLED] = n_kept, n_unsettled
