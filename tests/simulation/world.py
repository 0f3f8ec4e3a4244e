"""The world around the services: virtual time, a market, a faulty venue, and one seed for all.

Everything that leaves a process passes `World.side_effect`, and any of them may be the last
thing that the process does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from services.paper_exchange.candles import Candle, Candles
from services.paper_exchange.in_process import InProcessVenue
from services.paper_exchange.market import Listing, Market
from services.paper_exchange.matching import Product
from shared.book.execution import FillTerms
from shared.book.instrument import Instrument
from shared.venues.faults import FaultSettings, OrderFaults, RequestFaults

BAR_MS = 300_000
MIDNIGHT_MS = 1_704_067_200_000
N_BARS = 60
N_FAULTY = 5
"""Closes until everything works; by then it has been 08:00, an instant of funding."""
N_CLOSES = 13
COMMITS_BREAK = 4
"""So much likelier than at a statement is it that the connection breaks at a commit."""
STRANGER = "not-ours"
FIRST_OPEN_MS = MIDNIGHT_MS + 8 * 3_600_000 - 3 * BAR_MS
INSTRUMENTS = tuple(
    Instrument(f"{name}/USDT", 2, 3, 500_000_000, "perpetual")
    for name in ("AAA", "BBB", "CCC", "DDD")
)
_PRICES = (100.0, 40.0, 250.0, 15.0)


class CrashError(BaseException):
    """The process ended here; nothing in it may catch that."""


class InvariantError(BaseException):
    """What must never be has been; nothing in the process may catch that either."""


def close_ms(number: int) -> int:
    """Return when the bar of a number closes."""
    return FIRST_OPEN_MS + (number + 1) * BAR_MS


@dataclass(slots=True)
class Process:
    """A process that lives until it has had so many side effects."""

    name: str
    until_crash: int
    is_dead: bool = False


class World:
    """Time, chance and the venue of one run.

    Parameters
    ----------
    seed
        Decides everything.
    terms, capital_e8
        Of the venue.
    market
        Of the venue; one is made of the seed where none is given.
    crash_every
        Side effects between two crashes of a process; one of these is drawn.
    """

    def __init__(
        self,
        seed: int,
        terms: FillTerms,
        capital_e8: int,
        market: Market | None = None,
        crash_every: Sequence[int] = (150, 400, 1_000),
    ) -> None:
        self.seed = seed
        self.events: list[str] = []
        self.n_crashes = 0
        self.is_healed = False
        self.running = Process("", 0)
        self._random = self.chance("world")
        self._adjusting = self.chance("adjustments")
        self._crash_every = self._random.choice(crash_every)
        self._breaks = self._random.choice((0.0, 0.003, 0.01))
        self._standing_at_ms = FIRST_OPEN_MS
        self._stranger_at_ms = self._random.randint(FIRST_OPEN_MS, close_ms(N_FAULTY))
        self.has_stranger = self._random.random() < 0.25
        self._has_traded = False
        self.venue = InProcessVenue(
            market or _market(self.chance("market")), terms, capital_e8, self._faults()
        )
        self._begin()

    def _begin(self) -> None:
        """Let the first bar close."""
        self.pass_time(BAR_MS)

    def chance(self, purpose: str) -> Random:
        """Return a generator of its own for a purpose, so that none disturbs another."""
        return Random(f"{self.seed} {purpose}")

    # --- time -----------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """Venue time, the only time there is."""
        return self.venue.now_ms

    def seconds(self) -> float:
        """Return the process's clock."""
        return self.now_ms / 1_000

    @property
    def n_closed(self) -> int:
        """How many bars have closed."""
        return (self.now_ms - FIRST_OPEN_MS) // BAR_MS

    def pass_time(self, ms: int) -> None:
        """Let time go by, and the market with it."""
        until_ms = self.now_ms + ms
        while self._standing_at_ms + BAR_MS <= until_ms:
            self._standing_at_ms += BAR_MS
            if self.n_closed < N_BARS:
                n_fills = self.venue.advance(self._standing_at_ms)
                self.note(f"close {self.n_closed - 1}, {n_fills} fills")
        self.venue.wait_until(until_ms)
        if self.has_stranger and not self._has_traded and self.now_ms >= self._stranger_at_ms:
            self._trade_as_stranger()
        if not self.is_healed and self.now_ms >= close_ms(N_FAULTY):
            self.heal()

    def heal(self) -> None:
        """Let everything work from now on."""
        self.is_healed = True
        self.venue.faults.change(FaultSettings(seed=self.seed))
        self.note("healed")

    def _trade_as_stranger(self) -> None:
        """Trade on the account as somebody else who has its keys."""
        asked = {
            "symbol": self._random.choice(INSTRUMENTS).symbol.replace("/", ""),
            "side": self._random.choice(("BUY", "SELL")),
            "type": "MARKET",
            "quantity": "3",
            "newClientOrderId": STRANGER,
        }
        answer = self.venue.request("POST", "/fapi/v1/order", asked)
        # Whatever the answer was: who trades both ways has adjustments both ways.
        placed = self.venue.exchange.store.orders(Product.USDM, asked["symbol"], 0, None, None, 99)
        self._has_traded = any(order.client_order_id == STRANGER for order in placed)
        self.note(f"a stranger trades: {answer.status}")

    # --- what goes wrong ------------------------------------------------------------------

    def begin_process(self, name: str = "", times_as_often: float = 1.0) -> Process:
        """Let a process live and run, until a side effect of its that is drawn now."""
        odds = times_as_often / self._crash_every
        self.running = Process(name, 1 + int(self._random.expovariate(odds)))
        return self.running

    def side_effect(self, name: str) -> None:
        """Stand between two side effects of the process, where it may end.

        Raises
        ------
        CrashError
            If it ends here, or has ended.
        """
        process = self.running
        if process.is_dead:
            raise CrashError
        if self.is_healed:
            return
        process.until_crash -= 1
        if process.until_crash <= 0:
            process.is_dead = True
            self.n_crashes += 1
            self.note(f"crash {process.name} at {name}".replace("  ", " "))
            raise CrashError

    def break_connection(self, name: str) -> None:
        """Stand where the connection to the database may break.

        Raises
        ------
        OSError
            If it does.
        """
        odds = self._breaks * (COMMITS_BREAK if name.startswith("commit") else 1)
        if not self.is_healed and self._random.random() < odds:
            self.note(f"database lost at {name}")
            raise OSError(f"the connection was lost at {name}")

    def lose_adjustment(self) -> None:
        """Stand after a commit that brought the book to the venue, whose answer may be lost.

        Raises
        ------
        OSError
            If it is.
        """
        is_exposed = self.has_stranger and not self.is_healed
        if is_exposed and self._adjusting.random() < 0.5:
            self.note("database lost after an adjustment")
            raise OSError("the connection was lost after an adjustment")

    def _faults(self) -> FaultSettings:
        """Return what the venue does wrong: a few kinds of faults in each run, some often."""
        random = self.chance("faults")

        def odds() -> float:
            return random.choice((0.0, 0.0, 0.0, 0.0, 0.02, 0.05, 0.1))

        def requests() -> dict[str, float]:
            chosen = {
                name: odds()
                for name in ("disconnect", "server_error", "html", "lost_answer", "late_answer")
            }
            return chosen | {"rate_limit": odds() / 4, "ban": odds() / 30}

        return FaultSettings(
            seed=self.seed,
            orders=OrderFaults(
                **requests(), reject=random.choice((0.0, 0.1, 0.3)), min_notional=odds()
            ),
            cancels=RequestFaults(**requests()),
            queries=RequestFaults(**{name: odd / 2 for name, odd in requests().items()}),
            account=RequestFaults(**requests()),
            market=RequestFaults(**{name: odd / 3 for name, odd in requests().items()}),
            late_seconds=random.choice((1.0, 5.0, 30.0)),
            ban_seconds=random.choice((5, 60)),
            partial_fill=random.choice((0.0, 0.3, 0.8)),
            invisible_order=random.choice((0.0, 0.3, 1.0)),
            clock_skew_ms=random.choice((0, 0, -40_000, 700_000)),
        )

    # --- what happened --------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Put an event on the log."""
        self.events.append(f"{self.now_ms - FIRST_OPEN_MS:>9} {text}")

    def require(self, is_true: object, rule: str, *told: Callable[[], object] | object) -> None:
        """Hold a rule.

        Raises
        ------
        InvariantError
            If it is broken.
        """
        if not is_true:
            raise InvariantError(f"{rule}: {', '.join(map(str, told))}")

    @property
    def digest(self) -> str:
        """The fingerprint of everything that happened."""
        return hashlib.sha256("\n".join(self.events).encode()).hexdigest()


def _market(random: Random) -> Market:
    """Return bars whose prices wander and whose volumes are now and then too small."""
    listings = {}
    for instrument, start in zip(INSTRUMENTS, _PRICES, strict=True):
        candles, price = [], start
        for number in range(N_BARS):
            opened, price = price, round(price * (1 + random.uniform(-0.004, 0.004)), 2)
            volume = random.choice((20.0, 300.0, 3_000.0)) * 1_000 / start
            high, low = max(opened, price), min(opened, price)
            candles.append(
                Candle(
                    close_ms(number) - BAR_MS, close_ms(number), opened, high, low, price, volume
                )
            )
        name = instrument.symbol.replace("/", "")
        listings[name] = Listing(name, instrument, BAR_MS, Candles.of(candles))
    closes = listings["AAAUSDT"].bars.closes_at_ms
    return Market(listings, closes, BAR_MS)
