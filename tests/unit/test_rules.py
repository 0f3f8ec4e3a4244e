from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import pytest
from pydantic import ValidationError

from shared.clock import instant_of_ms
from shared.columns import columns_of
from shared.events.features import FeatureRow, FeaturesComputed
from shared.events.signals import Signal
from shared.quant.compiled import interpreted
from shared.sleeves.pairs.rules import (
    PairTrade,
    SignalSettings,
    decide_signals,
    marks_of,
    size_ppm,
    thresholds_of,
)
from shared.sleeves.pairs.settings import StrategySettings
from shared.sleeves.pairs.stored_model import StoredModel
from tests.support import BAR_MS, MIDNIGHT_MS, linear_model

NAMES = ("beta", "alpha", "spread_mean", "spread_std", "z_score")
AB = ("A/USDT", "B/USDT")
Trades = dict[tuple[str, str], PairTrade]

# In price space with beta 2, alpha 1, mean 0 and deviation 0.5 a pair whose x stands at 5 has
# the held z-score (y - 11) / 0.5.
SETTINGS = SignalSettings(
    signals_from="auto",
    entry_z=2.0,
    exit_z=0.5,
    stop_z=4.0,
    max_hold_bars=10,
    cooldown_bars=3,
    missing_closes_limit=2,
    hedge_ratio_min=0.2,
    hedge_ratio_max=5.0,
    probability_threshold=0.55,
)


def row(
    z_score: float,
    pair: tuple[str, str] = AB,
    *,
    status: Literal["active", "closing_only"] = "active",
    beta: float = 2.0,
) -> FeatureRow:
    """Return the features of a pair whose held spread has this z-score too."""
    return FeatureRow(
        y=pair[0],
        x=pair[1],
        status=status,
        close_y=11.0 + 0.5 * z_score,
        close_x=5.0,
        values=(beta, 1.0, 0.0, 0.5, z_score),
    )


def features(n_bars: int, rows: Iterable[FeatureRow]) -> FeaturesComputed:
    return FeaturesComputed(
        closes_at=instant_of_ms(MIDNIGHT_MS + n_bars * BAR_MS),
        timeframe="5m",
        roster_closes_at=instant_of_ms(MIDNIGHT_MS),
        feature_names=NAMES,
        **columns_of(FeatureRow._fields, rows),
        warming_up=(),
    )


class Rule:
    """The rule with its memory, asked close by close."""

    def __init__(self, champion: StoredModel | None = None, **settings: object) -> None:
        self.settings = SignalSettings.model_validate({**SETTINGS.model_dump(), **settings})
        self.champion = champion
        self.trades: Trades = {}
        self.last_closes_at_ms: int | None = None

    def at(self, n_bars: int, *rows: FeatureRow) -> Sequence[Signal]:
        computed = features(n_bars, rows)
        before = dict(self.trades)
        raised, trades = decide_signals(
            self.trades, computed, self.settings, "price", self.champion, self.last_closes_at_ms
        )
        assert self.trades == before
        assert raised.closes_at == computed.closes_at
        assert raised.timeframe == "5m"
        assert raised.roster_closes_at == computed.roster_closes_at
        self.trades = trades
        self.last_closes_at_ms = max(computed.closes_at_ms, self.last_closes_at_ms or 0)
        return raised.rows

    def reasons(self, n_bars: int, *rows: FeatureRow) -> list[tuple[str, str]]:
        return [(signal.action, signal.reason) for signal in self.at(n_bars, *rows)]


def entered(**settings: object) -> Rule:
    """Return a rule that sold the spread of A and B at bar 1, at z = 3."""
    rule = Rule(None, **settings)
    assert rule.reasons(1, row(3.0)) == [("enter", "z_score")]
    return rule


# --- entering -------------------------------------------------------------------------------


def test_an_entry_freezes_the_spread_it_was_decided_on() -> None:
    rule = Rule()
    (entry,) = rule.at(1, row(3.0))
    assert entry._asdict() == {
        "sleeve": "pairs",
        "y": "A/USDT",
        "x": "B/USDT",
        "action": "enter",
        "side": -1,
        "reason": "z_score",
        "strength": 3.0,
        "confidence": None,
        "z_score": 3.0,
        "hedge_ratio": 2.0,
        "intercept": 1.0,
        "spread_mean": 0.0,
        "spread_std": 0.5,
        "entered_at": instant_of_ms(MIDNIGHT_MS + BAR_MS),
        "close_y": 12.5,
        "close_x": 5.0,
        "model_sha256": None,
        "size_ppm": 1_000_000,
    }
    assert rule.trades == {
        AB: PairTrade(
            y="A/USDT",
            x="B/USDT",
            side=-1,
            entered_at_ms=MIDNIGHT_MS + BAR_MS,
            hedge_ratio=2.0,
            intercept=1.0,
            spread_mean=0.0,
            spread_std=0.5,
            last_close_y=12.5,
            last_close_x=5.0,
        )
    }


@pytest.mark.parametrize(
    ("z_score", "side"),
    [
        (1.99, None),
        (2.0, -1),
        (-2.0, 1),
        (3.99, -1),
        (4.0, None),  # already at the stop
        (-4.0, None),
        (0.0, None),
    ],
)
def test_a_stretched_spread_is_entered_against_its_sign(z_score: float, side: int | None) -> None:
    assert [signal.side for signal in Rule().at(1, row(z_score))] == (
        [] if side is None else [side]
    )


@pytest.mark.parametrize(("beta", "enters"), [(0.2, 1), (0.19, 0), (5.0, 1), (5.1, 0), (-2.0, 0)])
def test_a_hedge_ratio_out_of_bounds_is_not_entered(beta: float, enters: int) -> None:
    assert len(Rule().at(1, row(3.0, beta=beta))) == enters


@pytest.mark.parametrize("spread_std", [0.0, -0.5])
def test_a_spread_without_a_deviation_is_not_entered(spread_std: float) -> None:
    by_hand = row(3.0)._replace(values=(2.0, 1.0, 0.0, spread_std, 3.0))
    assert Rule().at(1, by_hand) == ()


def test_a_pair_that_left_the_roster_is_not_entered() -> None:
    assert Rule().at(1, row(3.0, status="closing_only")) == ()


def test_signals_are_in_order_of_the_pair_and_marks_in_order_of_the_symbol() -> None:
    pairs = [("C/USDT", "A/USDT"), ("B/USDT", "A/USDT")]
    rows = [row(3.0, pairs[0]), row(2.0, pairs[1])]
    assert [signal.y for signal in Rule().at(1, *rows)] == ["B/USDT", "C/USDT"]
    marks = marks_of(features(1, rows))
    assert list(marks.items()) == [
        ("A/USDT", 5.0),
        ("B/USDT", 12.0),
        ("C/USDT", 12.5),
    ]


# --- the model ------------------------------------------------------------------------------


@pytest.mark.parametrize(("probability", "enters"), [(0.56, 1), (0.54, 0)])
@pytest.mark.parametrize("signals_from", ["model", "auto"])
def test_a_champion_enters_on_its_word(signals_from: str, probability: float, enters: int) -> None:
    champion = linear_model({"z_score": 0.0}, probability)
    entries = Rule(champion, signals_from=signals_from).at(1, row(3.0))
    assert len(entries) == enters
    for entry in entries:
        assert (entry.reason, entry.model_sha256) == ("model", champion.sha256)
        assert entry.confidence == pytest.approx(probability, abs=1e-12)


def test_a_probability_at_the_threshold_enters() -> None:
    assert (
        len(Rule(linear_model({"z_score": 0.0}, 0.5), probability_threshold=0.5).at(1, row(3.0)))
        == 1
    )


def test_a_champion_does_not_enter_what_the_rule_would_not() -> None:
    assert Rule(linear_model({"z_score": 0.0}, 0.99)).at(1, row(1.9)) == ()


def test_without_a_champion_the_rule_decides_unless_the_model_must() -> None:
    assert Rule(signals_from="auto").reasons(1, row(3.0)) == [("enter", "z_score")]
    assert Rule(signals_from="model").at(1, row(3.0)) == ()


def test_the_rule_alone_does_not_ask_the_champion() -> None:
    (entry,) = Rule(linear_model({"z_score": 0.0}, 0.01), signals_from="z").at(1, row(3.0))
    assert (entry.reason, entry.confidence, entry.model_sha256) == ("z_score", None, None)


def test_an_exit_names_the_model_that_opened_the_trade() -> None:
    champion = linear_model({"z_score": 0.0}, 0.9)
    rule = Rule(champion)
    rule.at(1, row(3.0))
    rule.champion = None
    (leaving,) = rule.at(2, row(0.0))
    assert (leaving.model_sha256, leaving.confidence) == (champion.sha256, None)


# --- leaving --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry_z", "z_score", "reason"),
    [
        (3.0, 0.6, None),
        (3.0, 0.5, "reverted"),
        (3.0, -2.0, "reverted"),  # beyond the mean is home
        (3.0, 3.9, None),
        (3.0, 4.0, "stopped"),
        (-3.0, -0.6, None),
        (-3.0, -0.5, "reverted"),
        (-3.0, 2.0, "reverted"),
        (-3.0, -4.0, "stopped"),
    ],
)
def test_a_trade_is_left_when_its_spread_is_home_or_at_the_stop(
    entry_z: float, z_score: float, reason: str | None
) -> None:
    rule = Rule()
    rule.at(1, row(entry_z))
    assert rule.reasons(2, row(z_score)) == ([] if reason is None else [("exit", reason)])


def test_an_exit_looks_at_the_spread_that_is_held() -> None:
    # The rolling ratio has moved and its z-score has come home; the held spread has not.
    rule = entered()
    moved = row(3.0)._replace(values=(2.3, 1.0, 0.0, 0.5, 0.0))
    assert rule.at(2, moved) == ()
    (leaving,) = rule.at(3, row(0.4)._replace(values=(2.3, 1.0, 0.0, 0.5, 3.0)))
    assert (leaving.hedge_ratio, leaving.spread_std) == (2.0, 0.5)
    assert (leaving.z_score, leaving.strength) == pytest.approx((0.4, 0.4), abs=1e-9)
    assert (leaving.close_y, leaving.close_x) == (11.2, 5.0)
    assert leaving.entered_at == instant_of_ms(MIDNIGHT_MS + BAR_MS)


def test_the_held_spread_is_taken_in_its_space() -> None:
    # y = e^4 and x = e gives a spread of 4 - (2 + 1) = 1 in logarithms, which is z = 2.
    at_entry = row(2.0)._replace(close_y=math.exp(4.0), close_x=math.exp(1.0))
    home = at_entry._replace(close_y=math.exp(3.2))
    _, trades = decide_signals({}, features(1, [at_entry]), SETTINGS, "log", None, None)
    held, trades = decide_signals(trades, features(2, [at_entry]), SETTINGS, "log", None, None)
    assert held.rows == ()
    left, _ = decide_signals(trades, features(3, [home]), SETTINGS, "log", None, None)
    assert [signal.z_score for signal in left.rows] == [pytest.approx(0.4, abs=1e-9)]


def test_a_pair_that_left_the_roster_is_still_followed_out() -> None:
    assert entered().reasons(2, row(0.0, status="closing_only")) == [("exit", "reverted")]


def test_a_trade_is_left_after_its_longest_hold() -> None:
    rule = entered(max_hold_bars=3)
    assert rule.at(2, row(3.0)) == rule.at(3, row(3.0)) == ()
    assert rule.reasons(4, row(3.0)) == [("exit", "held_too_long")]


def test_a_trade_without_features_is_left_at_its_last_prices() -> None:
    rule = entered()
    assert rule.at(2) == ()
    (leaving,) = rule.at(3)
    assert (leaving.reason, leaving.close_y, leaving.z_score) == ("features_missing", 12.5, 3.0)


def test_features_that_come_back_end_the_count_of_missing_ones() -> None:
    rule = entered()
    for n_bars in (2, 4, 6):
        assert rule.at(n_bars) == rule.at(n_bars + 1, row(3.0)) == ()


@pytest.mark.parametrize(("cooldown_bars", "enters_after"), [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_a_pair_is_left_alone_for_its_cooldown(cooldown_bars: int, enters_after: int) -> None:
    rule = entered(cooldown_bars=cooldown_bars)
    assert rule.reasons(2, row(0.0)) == [("exit", "reverted")]
    found = [n for n in range(1, 5) if rule.reasons(2 + n, row(3.0))]
    assert found[0] == enters_after


def test_the_cooldown_passes_without_features_and_is_then_forgotten() -> None:
    rule = entered()
    rule.at(2, row(0.0))
    for n_bars in (3, 4, 5):
        assert AB in rule.trades
        rule.at(n_bars)
    assert rule.trades == {}


def test_one_pair_does_not_touch_another() -> None:
    rule = entered()
    other = ("C/USDT", "D/USDT")
    rule.at(2, row(3.0), row(-3.0, other))
    assert rule.reasons(3, row(0.0), row(-3.0, other)) == [("exit", "reverted")]
    assert {key: trade.side for key, trade in rule.trades.items()} == {AB: 0, other: 1}
    assert rule.trades[other].bars_held == 1


# --- a close in several events ----------------------------------------------------------------


def test_more_features_of_the_same_close_are_no_further_bar() -> None:
    rule = entered(max_hold_bars=2)
    for _ in range(5):
        assert rule.at(1, row(3.0)) == rule.at(1) == ()
    assert rule.trades[AB].bars_held == 0
    assert rule.at(2, row(3.0)) == rule.at(2) == rule.at(2) == ()
    assert rule.trades[AB].bars_held == 1
    assert rule.reasons(3, row(3.0)) == [("exit", "held_too_long")]


def test_a_row_that_comes_in_a_later_event_of_its_close_was_not_missing() -> None:
    rule = entered()
    for n_bars in range(2, 8):
        assert rule.at(n_bars) == rule.at(n_bars, row(3.0)) == ()
    assert rule.trades[AB].missing_closes == 0
    assert rule.at(8) == ()
    assert rule.reasons(8, row(0.0)) == [("exit", "reverted")]


def test_a_close_in_several_events_shortens_no_cooldown() -> None:
    for cooldown_bars, first in ((0, 3), (3, 5)):
        rule = entered(cooldown_bars=cooldown_bars)
        rule.at(2, row(0.0))
        events = [(n_bars, rule.at(n_bars, row(3.0))) for n_bars in (2, 2, 3, 3, 4, 4, 5, 5)]
        assert [n_bars for n_bars, signals in events if signals] == [first]


def test_a_pair_completed_by_a_later_event_is_entered_at_that_close() -> None:
    rule = Rule()
    assert rule.at(1, row(1.0)) == ()
    assert len(rule.at(1, row(3.0, ("C/USDT", "D/USDT")))) == 1


def test_features_of_an_earlier_close_decide_nothing() -> None:
    rule = entered()
    rule.at(2, row(3.0))
    before = dict(rule.trades)
    assert rule.at(1, row(0.0), row(3.0, ("C/USDT", "D/USDT"))) == ()
    assert rule.trades == before


@pytest.mark.parametrize(
    "settings", [{"exit_z": 2.0}, {"entry_z": 4.0}, {"stop_z": 2.0}, {"max_hold_bars": 0}]
)
def test_thresholds_out_of_order_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SignalSettings.model_validate({**SETTINGS.model_dump(), **settings})


# --- size by half-life --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("half_life_bars", "size"),
    [(0.0, 1_000_000), (20.0, 1_000_000), (40.0, 500_000), (60.0, 333_333), (1e12, 1)],
)
def test_a_slower_pair_is_entered_with_less_and_none_with_more(
    half_life_bars: float, size: int
) -> None:
    limits = thresholds_of(SETTINGS.model_copy(update={"half_life_reference_bars": 20.0}))
    assert size_ppm(half_life_bars, limits) == size
    assert interpreted(size_ppm)(half_life_bars, limits) == size
    assert size_ppm(half_life_bars, thresholds_of(SETTINGS)) == 1_000_000


def test_an_entry_tells_its_size_and_an_exit_is_whole() -> None:
    settings = SETTINGS.model_copy(update={"half_life_reference_bars": 20.0})
    trades: Trades = {}
    sizes = []
    for n_bars, z_score in enumerate((2.5, 0.0)):
        computed = features(n_bars, [row(z_score)])
        computed = computed.model_copy(
            update={
                "feature_names": (*NAMES, "half_life_bars"),
                "values": tuple((*values, 40.0) for values in computed.values),
            }
        )
        raised, trades = decide_signals(trades, computed, settings, "price", None, None)
        sizes += [(signal.action, signal.size_ppm) for signal in raised.rows]
    assert sizes == [("enter", 500_000), ("exit", 1_000_000)]


def test_a_run_without_a_reference_is_named_as_before_there_was_one() -> None:
    default = StrategySettings()
    assert "half_life_reference_bars" not in default.model_dump_json()
    other = default.model_copy(update={"signals": SignalSettings(half_life_reference_bars=20.0)})
    assert other.run_id(None) != default.run_id(None)
    assert StrategySettings.model_validate_json(other.model_dump_json()) == other
