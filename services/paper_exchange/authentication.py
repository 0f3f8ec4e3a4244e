"""Who may speak to the venue: keys, signatures and the receive window.

A request outside its window is refused before anything else is looked at, so that a request
held up on its way can place nothing once its window has passed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from pydantic import SecretStr

from services.paper_exchange.refusals import RefusalError, illegal, missing

DEFAULT_WINDOW_MS = 5_000
MAX_WINDOW_MS = 60_000
MAX_AHEAD_MS = 1_000
"""How far a client's clock may run ahead of the venue's."""

_MAX_PARAMETERS = 64
_INTEGER = re.compile(r"[0-9]{1,18}")
_SIGNATURE = re.compile(r"(?:^|&)signature=([^&]*)")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The key and the secret of the account."""

    api_key: SecretStr
    api_secret: SecretStr


def parse_parameters(raw_query: str, body: str) -> dict[str, str]:
    """Return the parameters of a request; those of the query go before those of the body.

    Raises
    ------
    RefusalError
        -1100 if they are no UTF-8 after decoding, -1101 if one is repeated or they are too many.
    """
    parameters: dict[str, str] = {}
    for part in (body, raw_query):
        try:
            pairs = parse_qsl(
                part, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS
            )
        except UnicodeDecodeError as error:
            raise RefusalError(-1100, "Illegal characters found in a parameter.") from error
        except ValueError as error:
            raise RefusalError(-1101, "Too many parameters sent for this endpoint.") from error
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise RefusalError(-1101, f"Duplicate values for parameter '{name}' detected.")
        parameters |= pairs
    return parameters


def authenticate(
    raw_query: str, body: str, key: str | None, credentials: Credentials, now_ms: int
) -> dict[str, str]:
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

    Raises
    ------
    RefusalError
        -2014 or -2015 for the key, -1102 for a missing timestamp or signature, -1022 for a
        wrong signature, -1130 or -1131 for a bad window, -1021 for a timestamp outside it.
    """
    if not key:
        raise RefusalError(-2014, "API-key format invalid.", status=401)
    if not hmac.compare_digest(_octets(key), credentials.api_key.get_secret_value().encode()):
        raise RefusalError(-2015, "Invalid API-key, IP, or permissions for action.", status=401)
    parameters = parse_parameters(raw_query, body)
    timestamp_ms = integer(parameters, "timestamp")
    if timestamp_ms is None:
        raise missing("timestamp")
    if not parameters.get("signature"):
        raise missing("signature")
    expected = hmac.new(
        credentials.api_secret.get_secret_value().encode(),
        _octets(_SIGNATURE.sub("", raw_query) + _SIGNATURE.sub("", body)),
        hashlib.sha256,
    ).hexdigest()
    if not hmac.compare_digest(expected.encode(), _octets(parameters["signature"].lower())):
        raise RefusalError(-1022, "Signature for this request is not valid.")
    _check_window(timestamp_ms, integer(parameters, "recvWindow"), now_ms)
    return parameters


def integer(parameters: dict[str, str], name: str) -> int | None:
    """Return a parameter as a whole number, `None` when it was not sent.

    Raises
    ------
    RefusalError
        -1100 if it is no whole number of at most 18 digits.
    """
    value = parameters.get(name, "")
    if not value:
        return None
    if not _INTEGER.fullmatch(value):
        raise illegal(name, "^[0-9]{1,18}$")
    return int(value)


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
            -1021,
            f"Timestamp for this request was {MAX_AHEAD_MS}ms ahead of the server's time.",
        )
    if now_ms - timestamp_ms > window_ms:
        raise RefusalError(-1021, "Timestamp for this request is outside of the recvWindow.")
