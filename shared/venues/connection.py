"""The one way in which ccxt is set up and called, and what an error of it proves.

Every address ccxt knows is moved to the venue's, so that no other host is ever called. What
an answer proves is decided by the venue's own error code; everything that proves nothing is
*unknown*.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from shared.errors import (
    VenueError,
    VenueNotFoundError,
    VenueNotReducingError,
    VenueRejectedError,
    VenueUnknownError,
)

TIMEOUT_MS = 10_000

_NOT_FOUND = frozenset({-2011, -2013})
_OUTSIDE_WINDOW = frozenset({-1021, -5028})
# -1000, -1001, -1006, -1007: the venue itself does not know. -1003, -1008, -1015: it was
# too busy to look. -1021, -5028: nothing was placed, but nothing is wrong with the order
# either; asking for it and then sending it again is the way out, unwinding the other leg is
# not. -4116: an order of this id works there, so it is anything but rejected.
_NO_VERDICT = frozenset({-1000, -1001, -1003, -1006, -1007, -1008, -1015, -4116}) | _OUTSIDE_WINDOW
_RETRY_AFTER_SECONDS = {-1003: 10.0, -1008: 1.0, -1015: 10.0}
_SERVER_ERROR = 500
_DOCUMENT = re.compile(r"\{.*\}", re.DOTALL)


_WOULD_NOT_REDUCE = -2022


class OutsideWindowError(VenueUnknownError):
    """The venue's clock says that the request came too late or too early."""


def open_exchange(kind: Any, base_url: str, **config: Any) -> Any:
    """Return a client of ccxt that calls one venue and nothing else.

    Parameters
    ----------
    kind
        A class of ccxt, such as `ccxt.async_support.binanceusdm`. Whoever needs it imports
        it, and pays for it: ccxt takes half a second and 100 MB.
    base_url
        Scheme, host and port of the venue; websockets go to the same host and port.
    **config
        What ccxt is told beside the time limit and what to leave out.
    """
    from ccxt.base.errors import ExchangeNotAvailable

    class Client(kind):  # type: ignore[misc]
        """ccxt's client, to which a failing server's answer proves nothing."""

        def handle_errors(self, code: int, reason: str, url: str, *answer: Any) -> Any:
            if code >= _SERVER_ERROR:
                raise ExchangeNotAvailable(f"{self.id} {url} answered {code} {reason}")
            return super().handle_errors(code, reason, url, *answer)

    options = {
        "fetchMarkets": {"types": ["linear"]},
        "fetchCurrencies": False,
        "fetchMargins": False,
        **config.pop("options", {}),
    }
    exchange = Client(
        {"enableRateLimit": False, "timeout": TIMEOUT_MS, "options": options, **config}
    )
    exchange.urls["api"] = moved_to(exchange.urls["api"], base_url.rstrip("/"))
    return exchange


def moved_to(urls: Any, base_url: str) -> Any:
    """Return addresses of ccxt on another host, each with its path and kind of connection."""
    if isinstance(urls, dict):
        return {name: moved_to(url, base_url) for name, url in urls.items()}
    parts = urlsplit(urls)
    if parts.scheme in {"ws", "wss"}:
        base_url = re.sub("^http", "ws", base_url)
    return base_url + parts.path


async def ask(
    doing: str, call: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any
) -> Any:
    """Make a call of ccxt.

    Parameters
    ----------
    doing
        In words, for the message of an error.
    call, *arguments, **named
        The call.

    Raises
    ------
    VenueRejectedError, VenueNotFoundError
        If the venue refused, on its own word.
    VenueUnknownError
        On anything else than a usable answer.
    """
    from ccxt.base.errors import BaseError

    try:
        return await call(*arguments, **named)
    except BaseError as error:
        raise meaning_of(doing, error) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # ccxt stumbles over answers that are no JSON object or lack what it looks for.
        raise VenueUnknownError(
            f"{doing}: the answer is unreadable ({type(error).__name__}: {error})"
        ) from error


def meaning_of(doing: str, error: Exception) -> VenueError:
    """Return what an error of ccxt proves.

    Parameters
    ----------
    doing
        What was tried, in words.
    error
        What ccxt raised.
    """
    from ccxt.base import errors as ccxt_errors

    code, message = verdict_in(str(error))
    described = f"{doing}: {type(error).__name__} {message}"
    if code in _NOT_FOUND:
        return VenueNotFoundError(described)
    if code == _WOULD_NOT_REDUCE:
        return VenueNotReducingError(described)
    if code in _OUTSIDE_WINDOW:
        return OutsideWindowError(described)
    if code in _NO_VERDICT:
        return VenueUnknownError(described, retry_after=_RETRY_AFTER_SECONDS.get(code))
    if isinstance(error, ccxt_errors.RateLimitExceeded | ccxt_errors.DDoSProtection):
        return VenueUnknownError(described, retry_after=_RETRY_AFTER_SECONDS[-1003])
    # Refusals that ccxt makes before it sends, or tells by the venue's words alone.
    in_words = (
        ccxt_errors.ArgumentsRequired,
        ccxt_errors.BadRequest,
        ccxt_errors.InsufficientFunds,
        ccxt_errors.InvalidOrder,
        ccxt_errors.NotSupported,
        ccxt_errors.OperationRejected,
        ccxt_errors.PermissionDenied,
    )
    if code is not None or isinstance(error, in_words):
        return VenueRejectedError(described)
    return VenueUnknownError(described)


def verdict_in(text: str) -> tuple[int | None, str]:
    """Return the venue's code and message from the text of an error; no code, no verdict."""
    found = _DOCUMENT.search(text)
    if found is not None:
        try:
            document = json.loads(found[0])
        except ValueError:
            return None, text[:300]
        code = document.get("code")
        if isinstance(code, int) and code < 0:
            return code, f"{code} {document.get('msg', '')}"
    return None, text[:300]
