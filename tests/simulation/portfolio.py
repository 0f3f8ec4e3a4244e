"""The portfolio of a run: what it wants at each close, and what it says twice."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.bus import log
from shared.bus.log import LogEntry
from shared.clock import instant_of_ms
from shared.events.portfolio import OrderLeg, OrdersRequested, SubmitOrder
from tests.simulation.world import INSTRUMENTS, N_FAULTY, World, close_ms

TOPIC = "orders.requested"
LINEAGE = {"source_uri": "simulation", "transform_id": "simulation/1"}
_PAIRS = (("AAA", "BBB"), ("CCC", "DDD"), ("AAA", "CCC"))


class Portfolio:
    """Decides at every close, by its seed alone; it never crashes.

    Parameters
    ----------
    world
        Whose market it looks at.
    connection
        Where it publishes.
    """

    def __init__(self, world: World, connection: AsyncConnection) -> None:
        self._world = world
        self._connection = connection
        self._random = world.chance("portfolio")
        self._held: dict[tuple[str, str], str] = {}
        self._opened: list[SubmitOrder] = []
        self._said: list[OrdersRequested] = []
        self._next = 0
        self.is_leaving = self._random.random() < 0.5

    async def publish_due(self) -> list[LogEntry]:
        """Publish what closes that have passed ask for."""
        entries = []
        while self._next < self._world.n_closed:
            event = self._decide(self._next)
            self._next += 1
            entries.append(await self._append(event))
            self._said.append(event)
            if not self._world.is_healed and self._random.random() < 0.25:
                entries.append(await self._append(self._random.choice(self._said)))
        return entries

    async def _append(self, event: OrdersRequested) -> LogEntry:
        return await log.append(self._connection, TOPIC, event, **LINEAGE)

    def _decide(self, number: int) -> OrdersRequested:
        intents = []
        for pair in _PAIRS:
            draw = self._random.random()
            if number >= N_FAULTY:
                continue
            if pair not in self._held and draw < 0.4:
                intents.append(self._opening(number, *pair))
                self._held[pair] = intents[-1].position_id
                self._opened.append(intents[-1])
            elif pair in self._held and draw < 0.3:
                intents.append(self._closing(number, pair, self._held.pop(pair)))
        if number == N_FAULTY + 2 and self.is_leaving:
            intents = [
                _intent(
                    number, opened.y, opened.x, "close", f"{opened.position_id}:leave"
                ).model_copy(update={"position_id": opened.position_id})
                for opened in self._opened
            ]
        return OrdersRequested(
            closes_at=instant_of_ms(close_ms(number)),
            timeframe="5m",
            intents=tuple(intents),
            marks={each.symbol: self._price(each.symbol, number) for each in INSTRUMENTS},
        )

    def _price(self, symbol: str, number: int) -> float:
        listing = self._world.venue.exchange.market.listings[symbol.replace("/", "")]
        price = listing.last_price(close_ms(number))
        assert price is not None
        return price

    def _opening(self, number: int, y: str, x: str) -> SubmitOrder:
        notional = self._random.choice((6.0, 50.0, 800.0, 5_000.0))
        side = self._random.choice((1, -1))
        legs = []
        for leg, name, sign in (("y", y, side), ("x", x, -side)):
            symbol = f"{name}/USDT"
            lots = max(1, int(1_000 * notional / self._price(symbol, number)))
            legs.append(
                OrderLeg.model_validate(
                    {
                        "leg": leg,
                        "symbol": symbol,
                        "side": "buy" if sign > 0 else "sell",
                        "quantity_lots": lots,
                    }
                )
            )
        intent = _intent(number, f"{y}/USDT", f"{x}/USDT", "open")
        return intent.model_copy(update={"legs": tuple(legs)})

    def _closing(self, number: int, pair: tuple[str, str], position_id: str) -> SubmitOrder:
        y, x = (f"{name}/USDT" for name in pair)
        return _intent(number, y, x, "close").model_copy(update={"position_id": position_id})


def _intent(number: int, y: str, x: str, action: str, intent_id: str = "") -> SubmitOrder:
    intent_id = intent_id or f"{close_ms(number)}:pairs:{y}~{x}:{action}"
    return SubmitOrder.model_validate(
        {
            "intent_id": intent_id,
            "sleeve": "pairs",
            "y": y,
            "x": x,
            "action": action,
            "position_id": intent_id,
            "reason": "z_score",
            "hedge_ratio": 1.0,
            "legs": (),
        }
    )
