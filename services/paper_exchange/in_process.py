"""The venue in the process of whoever drives it: no socket, no clock of its own, no disk.

It is the very venue that is served: the same routes, checks, matching, weights and faults.
Only time is led by the hand, so that a simulation of hours takes seconds and comes out the
same every time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode

import orjson
from pydantic import SecretStr

from services.paper_exchange.authentication import Credentials
from services.paper_exchange.endpoints import Access, build_endpoints
from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.faults import Faults
from services.paper_exchange.gate import Answer, Gate, Request
from services.paper_exchange.market import Market
from services.paper_exchange.matching import Product
from services.paper_exchange.sources.recorded import Lockstep
from services.paper_exchange.store import Store, VenueState
from services.paper_exchange.streams import Envelope, Hub, Listener
from shared.book.execution import FillTerms
from shared.errors import ContractError
from shared.venues.faults import FaultSettings

T = TypeVar("T")


class Inbox(Listener):
    """What a listener has been told and has not read yet.

    Attributes
    ----------
    is_cut
        Whether a fault has ended it; it hears nothing any more, and another must be opened.
    """

    def __init__(self, hub: Hub) -> None:
        super().__init__(Envelope.RAW)
        self._hub = hub
        self._told: deque[str] = deque()
        self.is_cut = False

    def take(self) -> list[Any]:
        """Return what has been told since the last time; what was held back comes last."""
        self.release()
        told = [orjson.loads(text) for text in self._told]
        self._told.clear()
        return told

    def cut(self) -> None:
        """End it without a word."""
        self.is_cut = True
        self._hub.unsubscribe(self, list(self.streams))

    def _deliver(self, text: str) -> None:
        self._told.append(text)


class InProcessVenue:
    """The venue, driven by calls.

    Parameters
    ----------
    market
        All its bars; it stands at the first open, and `advance` moves it.
    terms
        What a fill costs.
    capital_e8
        The balance of each product, in 1e-8 of the quote.
    faults
        What goes wrong.
    credentials
        Of the account; signatures are checked here too.

    Notes
    -----
    Not thread-safe. `close` gives its memory back.
    """

    def __init__(
        self,
        market: Market,
        terms: FillTerms,
        capital_e8: int,
        faults: FaultSettings | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._credentials = credentials or Credentials(SecretStr("key"), SecretStr("secret"))
        listen_keys = {product: self._credentials.listen_key(product) for product in Product}
        self.faults = Faults(faults, {key: f"account {name}" for name, key in listen_keys.items()})
        self._hub = Hub(self.faults.of_message)
        self._listen_keys = listen_keys
        source = Lockstep(market)
        at_ms = source.starts_at_ms
        self._store = Store(None, VenueState(at_ms, at_ms, capital_e8, capital_e8))
        self.exchange = PaperExchange(
            source, terms, self._store, self._hub, listen_keys, self.faults, seconds=lambda: 0.0
        )
        self._gate = Gate(self.exchange, self._credentials)
        self._endpoints = {
            (each.method, each.path): each
            for each in build_endpoints(self.exchange, self._credentials)
        }

    @property
    def now_ms(self) -> int:
        """Venue time, which stands still between two calls."""
        return self.exchange.now_ms()

    def wait_until(self, now_ms: int) -> None:
        """Let venue time go by without a close; timers run out. It never goes back."""
        self.exchange.set_clock(now_ms)
        self.exchange.end_countdowns()
        self._store.commit()

    def advance(self, closes_at_ms: int) -> int:
        """Move the market to a close, and the clock at least to it; return the fills."""
        filled = self.exchange.move(closes_at_ms)
        self._store.commit()
        return filled

    def request(
        self, method: str, path: str, parameters: Mapping[str, Any] | None = None
    ) -> Answer:
        """Make a request that arrives now.

        Parameters
        ----------
        method, path
            Such as `POST` and `/fapi/v1/order`.
        parameters
            Its parameters; one that is `None` is left out. What must be signed is signed
            here, with the time that the venue shows unless a `timestamp` is among them.

        Returns
        -------
        Answer
            What it did has happened already. An answer with `is_lost` never arrives, one with
            `late_ms` so much later: to heed that is up to the caller.

        Raises
        ------
        ContractError
            If the venue has no such route.
        """
        endpoint = self._endpoints.get((method, path))
        if endpoint is None:
            raise ContractError(f"{method} {path}: the venue has no such route")
        sent = {name: value for name, value in (parameters or {}).items() if value is not None}
        query = urlencode(sent)
        if endpoint.access is Access.SIGNED:
            query = urlencode({"timestamp": self.exchange.shown_ms(), **sent})
            query += f"&signature={self._credentials.sign(query)}"
        key = self._credentials.api_key.get_secret_value()
        answer = _at_once(self._gate.answer(endpoint, Request(query, "", key)))
        self._store.commit()
        return answer

    def listen(self, streams: Iterable[str | Product]) -> Inbox:
        """Return what hears streams; a product stands for the stream of its account."""
        inbox = Inbox(self._hub)
        names = [self._listen_keys[each] if isinstance(each, Product) else each for each in streams]
        self._hub.subscribe(inbox, names)
        return inbox

    def close(self) -> None:
        """Forget everything."""
        self._store.close()


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that never waits: a recorded market has all at hand."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise ContractError("the route waits for something outside this process: drive it served")
