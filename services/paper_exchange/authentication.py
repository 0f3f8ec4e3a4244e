"""Who may speak to the venue: keys, signatures and the receive window.

A request outside its window is refused before anything else is looked at, so that a request
held up on its way can place nothing once its window has passed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from pydantic import SecretStr

from services.paper_exchange.matching import Product
from services.paper_exchange.parameters import Parameters, integer, parse_parameters
from services.paper_exchange.refusals import RefusalError, missing

DEFAULT_WINDOW_MS = 5_000
MAX_WINDOW_MS = 60_000
MAX_AHEAD_MS = 1_000
"""How far a client's clock may run ahead of the venue's."""

_OUTSIDE_WINDOW = -1021
_SIGNATURE = re.compile(r"(?:^|&)signature=([^&]*)")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The key and the secret of the account."""

    api_key: SecretStr
    api_secret: SecretStr

    def listen_key(self, product: Product) -> str:
        """Return the name of the stream that tells of the account.

        It is the same after a restart, and nobody without the secret can guess it.
        """
        return self.sign(f"listen to {product}")

    def sign(self, text: str) -> str:
        """Return the signature of a text."""
        secret = self.api_secret.get_secret_value().encode()
        return hmac.new(secret, _octets(text), hashlib.sha256).hexdigest()


def check_key(key: str | None, credentials: Credentials) -> None:
    """Refuse whoever does not have the account's key.

    Raises
    ------
    RefusalError
        -2014 or -2015.
    """
    if not key:
        raise RefusalError(-2014, "API-key format invalid.", status=401)
    if not hmac.compare_digest(_octets(key), credentials.api_key.get_secret_value().encode()):
        raise RefusalError(-2015, "Invalid API-key, IP, or permissions for action.", status=401)


def authenticate(
    raw_query: str,
    body: str,
    key: str | None,
    credentials: Credentials,
    now_ms: int,
    own_ms: int | None = None,
) -> Parameters:
    """Return the parameters of a signed request.

    Parameters
    ----------
    raw_query, body
        As they were sent, still encoded: the signature is over their characters.
    key
        Of the header `X-MBX-APIKEY`.
    credentials
        Of the account.
    now_ms
        Venue time.
    own_ms
        The time outside, where a client that signs by its own clock is understood too.

    Raises
    ------
    RefusalError
        -2014 or -2015 for the key, -1102 for a missing timestamp or signature, -1022 for a
        wrong signature, -1130 or -1131 for a bad window, -1021 for a timestamp outside it.
    """
    check_key(key, credentials)
    parameters = parse_parameters(raw_query, body)
    text = _SIGNATURE.sub("", raw_query) + _SIGNATURE.sub("", body)
    check_signature(text, parameters, credentials, now_ms, own_ms)
    return parameters


def check_signature(
    text: str,
    parameters: Parameters,
    credentials: Credentials,
    now_ms: int,
    own_ms: int | None = None,
) -> None:
    """Refuse what was not signed, or not just now.

    Parameters
    ----------
    text
        What was signed.
    parameters
        Among them `signature`, `timestamp` and maybe `recvWindow`.
    credentials, now_ms, own_ms
        As for `authenticate`.

    Raises
    ------
    RefusalError
        As `authenticate`.
    """
    timestamp_ms = integer(parameters, "timestamp")
    if timestamp_ms is None:
        raise missing("timestamp")
    if not parameters.get("signature"):
        raise missing("signature")
    expected = credentials.sign(text)
    if not hmac.compare_digest(expected.encode(), _octets(parameters["signature"].lower())):
        raise RefusalError(-1022, "Signature for this request is not valid.")
    window_ms = integer(parameters, "recvWindow")
    try:
        _check_window(timestamp_ms, window_ms, now_ms)
    except RefusalError as refusal:
        if refusal.code != _OUTSIDE_WINDOW or own_ms is None:
            raise
        _check_window(timestamp_ms, window_ms, own_ms)


def _octets(text: str) -> bytes:
    # The server hands over octets that are no UTF-8 as lone surrogates.
    return text.encode(errors="surrogateescape")


def _check_window(timestamp_ms: int, window_ms: int | None, now_ms: int) -> None:
    if window_ms is None:
        window_ms = DEFAULT_WINDOW_MS
    if window_ms > MAX_WINDOW_MS:
        raise RefusalError(-1131, f"recvWindow must be less than {MAX_WINDOW_MS}")
    if timestamp_ms >= now_ms + MAX_AHEAD_MS:
        raise RefusalError(
            _OUTSIDE_WINDOW,
            f"Timestamp for this request was {MAX_AHEAD_MS}ms ahead of the server's time.",
        )
    if now_ms - timestamp_ms > window_ms:
        raise RefusalError(
            _OUTSIDE_WINDOW, "Timestamp for this request is outside of the recvWindow."
        )
