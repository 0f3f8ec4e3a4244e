from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from shared.book.instrument import Instrument
from shared.book.sizing import SizingSettings
from shared.book.targets import IntentPlan, LiveTarget, plan_intents, release_closed
from shared.clock import instant_of_ms
from shared.events.executor import PositionsChanged, PositionStatus
from shared.events.signals import Signal, SignalsRaised
from tests.support import BAR_MS, MIDNIGHT_MS, signal

UNIT = 10**8
# Every symbol costs 10 and trades in lots of 0.001; a leg is worth 5 at least.
INSTRUMENTS = {f"{n}/USDT": Instrument(f"{n}/USDT", 2, 3, 5 * UNIT, "perpetual") for n in "ABCDEF"}
# Two slots of 500 each, 600 at most in one symbol.
SETTINGS = SizingSettings(capital_usdt=1_000, top_k=2, gross_cap=1.0, symbol_cap=0.6)
MARKS = {"A/USDT": 10.0}


def pair(names: str) -> tuple[str, str]:
    return f"{names[0]}/USDT", f"{names[1]}/USDT"


def enter(names: str, strength: float = 2.5, hedge_ratio: float = 1.0) -> Signal:
    return signal(
        "enter", pair(names), strength=strength, hedge_ratio=hedge_ratio, closes=(10.0, 10.0)
    )


def leave(names: str) -> Signal:
    return signal("exit", pair(names), closes=(10.0, 10.0))


def live(names: str, notional_y: int = 250, notional_x: int = 250) -> LiveTarget:
    return LiveTarget(*pair(names), f"before:{names}", notional_y * UNIT, notional_x * UNIT)


def plan(
    signals: Iterable[Signal],
    taken: Iterable[LiveTarget] = (),
    settings: SizingSettings = SETTINGS,
    instruments: Mapping[str, Instrument] = INSTRUMENTS,
) -> IntentPlan:
    raised = SignalsRaised.of_rows(
        signals,
        closes_at=instant_of_ms(MIDNIGHT_MS + BAR_MS),
        timeframe="5m",
        roster_closes_at=None,
        marks=MARKS,
    )
    held = {(target.y, target.x): target for target in taken}
    planned = plan_intents(held, raised, instruments, settings, "log")
    assert planned.requested.closes_at == raised.closes_at
    assert planned.requested.marks == MARKS
    assert [d.intent for d in planned.decisions if d.intent] == list(planned.requested.intents)
    return planned


def reasons(planned: IntentPlan) -> list[str]:
    return [decision.reason for decision in planned.decisions]


def test_an_entry_takes_a_slot_and_names_what_to_trade() -> None:
    planned = plan([enter("AB", hedge_ratio=1.5)])
    (intent,) = planned.requested.intents
    assert intent.model_dump() == {
        "intent_id": f"{MIDNIGHT_MS + BAR_MS}:pairs:A/USDT~B/USDT:open",
        "sleeve": "pairs",
        "y": "A/USDT",
        "x": "B/USDT",
        "action": "open",
        "position_id": intent.intent_id,
        "reason": "z_score",
        "hedge_ratio": 1.5,
        "legs": (
            {"leg": "y", "symbol": "A/USDT", "side": "buy", "quantity_lots": 20_000},
            {"leg": "x", "symbol": "B/USDT", "side": "sell", "quantity_lots": 30_000},
        ),
    }
    assert planned.live == {
        pair("AB"): LiveTarget(*pair("AB"), intent.intent_id, 200 * UNIT, 300 * UNIT)
    }
    assert reasons(planned) == ["accepted"]


def test_a_sold_spread_sells_y_and_buys_x() -> None:
    planned = plan([signal("enter", pair("AB"), side=-1, closes=(10.0, 10.0))])
    assert [leg.side for leg in planned.requested.intents[0].legs] == ["sell", "buy"]


def test_an_exit_closes_the_position_that_is_held_and_keeps_its_slot() -> None:
    planned = plan([leave("AB"), enter("CD"), enter("EF")], [live("AB")])
    (closing, opening) = planned.requested.intents
    assert closing.intent_id == f"{MIDNIGHT_MS + BAR_MS}:pairs:A/USDT~B/USDT:close"
    assert (closing.action, closing.position_id, closing.legs) == ("close", "before:AB", ())
    assert opening.y == "C/USDT"
    assert planned.live[pair("AB")].is_closing
    assert reasons(planned) == ["accepted", "accepted", "all 2 slots are taken"]


def test_a_position_is_closed_once() -> None:
    closing = plan([leave("AB")], [live("AB")]).live
    again = plan([leave("AB")], closing.values())
    assert reasons(again) == ["already closing"]
    assert again.live == closing
    assert reasons(plan([leave("AB")])) == [
        "no position: the entry was refused or is closed already"
    ]


@pytest.mark.parametrize("is_closing", [False, True])
def test_a_pair_is_not_entered_before_its_last_position_is_closed(is_closing: bool) -> None:
    held = live("AB")._replace(is_closing=is_closing)
    refused = plan([enter("AB")], [held])
    assert reasons(refused) == ["the pair's last position is not closed yet"]
    assert refused.live == {pair("AB"): held}


def test_the_strongest_entries_get_the_slots_and_names_break_ties() -> None:
    signals = [enter("EF", 2.5), enter("CD", 2.5), enter("AB", 2.1)]
    planned = plan(signals)
    assert [intent.y for intent in planned.requested.intents] == ["C/USDT", "E/USDT"]
    assert [decision.signal.y for decision in planned.decisions] == ["C/USDT", "E/USDT", "A/USDT"]
    assert plan(reversed(signals)) == planned


def test_exits_are_handled_in_order_of_the_pair_before_any_entry() -> None:
    planned = plan([enter("EF", 9.0), leave("CD"), leave("AB")], [live("AB"), live("CD")])
    assert [d.signal.y for d in planned.decisions] == ["A/USDT", "C/USDT", "E/USDT"]


@pytest.mark.parametrize(
    ("held", "allowed"),
    [
        (live("AC", notional_y=350), True),  # 350 + 250 are the cap of 600
        (live("AC", notional_y=351), False),
        (live("CA", notional_x=350), True),
        (live("CA", notional_x=351), False),
        (live("BC", notional_y=351), False),
        (live("CD", notional_y=400, notional_x=50), True),
    ],
)
def test_a_symbol_is_capped_over_all_pairs_and_legs(held: LiveTarget, allowed: bool) -> None:
    settings = SETTINGS.model_copy(update={"gross_cap": 2.0, "top_k": 4})
    planned = plan([enter("AB")], [held], settings)
    capped = "B/USDT" if held.y == "B/USDT" else "A/USDT"
    refusal = f"{capped}: symbol cap of {600 * UNIT}e-8 would be exceeded"
    assert reasons(planned) == (["accepted"] if allowed else [refusal])


@pytest.mark.parametrize(("notional", "allowed"), [(250, True), (251, False)])
def test_the_book_is_capped_over_all_pairs(notional: int, allowed: bool) -> None:
    planned = plan([enter("AB")], [live("CD", notional_y=notional)])
    refusal = f"gross cap of {1_000 * UNIT}e-8 would be exceeded"
    assert reasons(planned) == (["accepted"] if allowed else [refusal])


def test_an_entry_of_a_close_leaves_less_of_the_cap_to_the_next() -> None:
    # 250 for each of four slots beside 600 held from when there was more for each.
    settings = SETTINGS.model_copy(update={"top_k": 4})
    planned = plan([enter("AB"), enter("EF")], [live("CD", 400, 200)], settings)
    assert reasons(planned) == ["accepted", f"gross cap of {1_000 * UNIT}e-8 would be exceeded"]


def test_a_leg_below_the_minimum_of_the_venue_is_refused_with_its_pair() -> None:
    refused = plan([enter("AB", hedge_ratio=0.005)])
    # 500 at 1 : 0.005 leave 2.487 for B, in lots of 0.01.
    assert reasons(refused) == [
        f"B/USDT: leg of {248 * 10**6}e-8 is below the venue's minimum of {5 * UNIT}e-8"
    ]
    assert refused.live == {}


def test_a_leg_of_no_lots_is_refused_where_the_venue_has_no_minimum() -> None:
    free = {symbol: Instrument(symbol, 2, 3, 0, "perpetual") for symbol in INSTRUMENTS}
    (reason,) = reasons(plan([enter("AB", hedge_ratio=1e-6)], instruments=free))
    assert reason == "B/USDT: leg of 0e-8 is below the venue's minimum of 0e-8"


def test_a_symbol_without_an_instrument_is_not_traded() -> None:
    known = {symbol: INSTRUMENTS[symbol] for symbol in pair("AC")}
    assert reasons(plan([enter("AB")], instruments=known)) == ["no instrument B/USDT"]
    assert reasons(plan([enter("EF")], instruments=known)) == ["no instrument E/USDT, F/USDT"]


@pytest.mark.parametrize("hedge_ratio", [0.0, -0.5, -1.0])
def test_a_hedge_ratio_that_is_not_positive_is_refused(hedge_ratio: float) -> None:
    refused = plan([enter("AB", hedge_ratio=hedge_ratio)])
    assert reasons(refused) == [f"hedge ratio {hedge_ratio} is not positive"]
    assert refused.requested.intents == ()


def test_what_is_planned_with_is_left_as_it_was() -> None:
    taken = {pair("AB"): live("AB")}
    raised = SignalsRaised.of_rows(
        (leave("AB"), enter("CD")),
        closes_at=instant_of_ms(MIDNIGHT_MS),
        timeframe="5m",
        roster_closes_at=None,
        marks={},
    )
    plan_intents(taken, raised, INSTRUMENTS, SETTINGS, "log")
    assert taken == {pair("AB"): live("AB")}


def test_a_slot_is_free_again_when_its_own_position_is_reported_closed() -> None:
    taken = {pair("AB"): live("AB"), pair("CD"): live("CD")}

    def changed(position_id: str, state: str) -> PositionsChanged:
        status = PositionStatus(
            position_id=position_id,
            pair="A/USDT~B/USDT",
            state=state,
            lots_y=0,
            lots_x=0,
            cash_e8=0,
        )
        return PositionsChanged(
            closes_at=instant_of_ms(MIDNIGHT_MS),
            cash_e8=0,
            equity_e8=0,
            gross_e8=0,
            positions=(status,),
        )

    assert release_closed(taken, changed("before:AB", "closing")) == taken
    assert release_closed(taken, changed("an older one of the pair", "closed")) == taken
    assert release_closed(taken, changed("before:AB", "closed")) == {pair("CD"): live("CD")}


def test_an_entry_of_half_the_size_gets_half_the_gross_and_leaves_the_rest_of_the_caps() -> None:
    whole, half = enter("AB"), enter("AB")._replace(size_ppm=500_000)
    sizes = []
    for entry in (whole, half):
        (intent,) = plan([entry]).requested.intents
        sizes.append([leg.quantity_lots for leg in intent.legs])
    # 250 of each at 10 in lots of 0.001, and 125.
    assert sizes == [[25_000, 25_000], [12_500, 12_500]]
    tiny = enter("AB")._replace(size_ppm=1)
    assert "below the venue's minimum" in reasons(plan([tiny]))[0]
