"""A paper venue for tests: recorded bars written on the spot, and a server in the test's loop."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import aiohttp
import pyarrow as pa
import pyarrow.parquet as pq
import yarl
from aiohttp import web
from pydantic import SecretStr

from services.paper_exchange.main import create_app
from services.paper_exchange.settings import Recording, Settings
from shared.book.execution import FillTerms
from shared.venues.gateway import VenueGateway
from shared.venues.paper_control import PaperControl
from shared.venues.settings import MarketSettings

BAR_MS = 300_000
FIRST_CLOSE_MS = 1_704_067_500_000  # 2024-01-01T00:05Z
TOKEN = "a token of the test, which is long enough"
KEY = "an account key of the test"
SECRET = "an account secret of the test"


class RecordedBar(NamedTuple):
    symbol: str
    number: int  # 0 closes at FIRST_CLOSE_MS
    open: float
    close: float
    volume: float = 1000.0


def close_ms(number: int) -> int:
    """Return the close of the bar of a number."""
    return FIRST_CLOSE_MS + number * BAR_MS


def open_ms(number: int) -> int:
    """Return the open of the bar of a number."""
    return close_ms(number) - BAR_MS


def calm_bars(n: int = 12) -> list[RecordedBar]:
    """Return bars of two symbols; bar i opens at 100 + i and 5000 + 10 i, closes 0.5 higher."""
    return [
        RecordedBar(symbol, i, base + i * step, base + i * step + 0.5)
        for i in range(n)
        for symbol, base, step in (("AAA/USDT", 100.0, 1.0), ("BBB/USDT", 5000.0, 10.0))
    ]


def write_bars(file: Path, bars: Iterable[RecordedBar]) -> Path:
    """Write bars as a recording."""
    rows = list(bars)
    pq.write_table(
        pa.table(
            {
                "ts": pa.array([open_ms(bar.number) for bar in rows], pa.int64()),
                "symbol": [bar.symbol for bar in rows],
                "exchange": ["binance"] * len(rows),
                "open": [bar.open for bar in rows],
                "high": [max(bar.open, bar.close) for bar in rows],
                "low": [min(bar.open, bar.close) for bar in rows],
                "close": [bar.close for bar in rows],
                "volume": [bar.volume for bar in rows],
            }
        ),
        file,
    )
    return file


def settings_in(
    home: Path, bars: Iterable[RecordedBar] | None = None, terms: FillTerms | None = None
) -> Settings:
    """Return the settings of a venue in a folder, and put its token and its bars there."""
    token_file = home / "token"
    token_file.write_text(TOKEN + "\n")
    recording = write_bars(home / "bars.parquet", calm_bars() if bars is None else bars)
    return Settings(
        home=home,
        port=1,
        api_token_file=token_file,
        venue_api_key=SecretStr(KEY),
        venue_api_secret=SecretStr(SECRET),
        replay=Recording(bars=(recording,)),
        execution=terms or FillTerms(),
    )


def moving_in(home: Path, market: MarketSettings, terms: FillTerms | None = None) -> Settings:
    """Return the settings of a venue whose market moves by itself."""
    settings = settings_in(home, terms=terms)
    return settings.model_copy(update={"replay": Recording(), "market": market})


@asynccontextmanager
async def serving(settings: Settings, port: int = 0) -> AsyncIterator[str]:
    """Serve a venue on a port, by default a free one; yields its URL."""
    runner = web.AppRunner(create_app(settings))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[VenueGateway]:
    """Connect the gateway to a venue."""
    gateway = await VenueGateway.connect(url, KEY, SECRET)
    try:
        yield gateway
    finally:
        await gateway.close()


def rewritten(urls: Any, venue_url: str) -> Any:
    """Return ccxt's addresses with scheme and host of a venue.

    `stream.binance.com` becomes the path `/stream`: ccxt knows a spot stream by that word.
    """
    if isinstance(urls, dict):
        return {name: rewritten(url, venue_url) for name, url in urls.items()}
    address = urlsplit(urls)
    scheme = "ws" if address.scheme.startswith("ws") else "http"
    prefix = "/stream" if (address.hostname or "").startswith("stream.") else ""
    return f"{scheme}://{urlsplit(venue_url).netloc}{prefix}{address.path}"


@asynccontextmanager
async def ccxt_client(
    kind: Callable[[dict[str, Any]], Any], url: str, **options: Any
) -> AsyncIterator[Any]:
    """Yield an unmodified client of ccxt whose addresses lead to a venue."""
    client = kind({"apiKey": KEY, "secret": SECRET, "enableRateLimit": False, "options": options})
    client.urls["api"] = rewritten(client.urls["api"], url)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def controlled(url: str) -> AsyncIterator[PaperControl]:
    """Control a venue."""
    control = PaperControl(url, TOKEN)
    try:
        yield control
    finally:
        await control.close()


class RawClient:
    """Requests as a careless client would send them."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._session.get(self._url + path) as response:
            return response.status, await response.json()

    async def send(
        self,
        method: str,
        path: str,
        parameters: dict[str, Any],
        *,
        key: str | None = KEY,
        secret: str = SECRET,
        time_shift_ms: int = 0,
    ) -> tuple[int, Any]:
        """Send a signed request; a parameter that is None is left out, the timestamp too."""
        _, clock = await self.get("/fapi/v1/time")
        stamped = {"timestamp": clock["serverTime"] + time_shift_ms, **parameters}
        query = urlencode({name: v for name, v in stamped.items() if v is not None})
        signature = hmac.new(secret.encode(), query.encode(), hashlib.sha256).hexdigest()
        return await self.request(method, f"{path}?{query}&signature={signature}", key)

    async def request(
        self,
        method: str,
        path: str,
        key: str | None = KEY,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        sent = dict(headers or {}) | ({} if key is None else {"X-MBX-APIKEY": key})
        url = yarl.URL(self._url + path, encoded=True)
        async with self._session.request(method, url, headers=sent, data=data) as response:
            return response.status, await response.json()

    async def text(self, path: str) -> str:
        async with self._session.get(self._url + path) as response:
            return await response.text()


@asynccontextmanager
async def raw_client(url: str) -> AsyncIterator[RawClient]:
    """Yield a raw client of a venue."""
    async with aiohttp.ClientSession() as session:
        yield RawClient(url, session)
