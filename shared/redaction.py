"""Takes secrets out of what is logged, shown or recorded for people."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, MutableMapping
from typing import Any

REDACTED = "[redacted]"

_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:password|passphrase|secret|token|api_?key|apikey|authorization|signature"
    r"|credentials|listen_?key|cookie|x-mbx-apikey)s?$",
    re.IGNORECASE,
)
_IN_TEXT = (
    # The scheme is kept, so that a reader sees which kind of credential it was.
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {REDACTED}"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/]+@"), rf"\1:{REDACTED}@"),
    (re.compile(r"\bmnt_[A-Za-z0-9_-]{20,}"), REDACTED),
    (
        re.compile(
            r"(?i)((?:password|passphrase|secret|token|api_?key|signature|listen_?key)"
            r"[\"']?\s*[=:]\s*[\"']?)(?!\[redacted)[^\s\"'&,;)}\]]+"
        ),
        rf"\1{REDACTED}",
    ),
)


def redact(text: str) -> str:
    """Return a text without bearer tokens, passwords of URLs and assignments to secret names.

    Examples
    --------
    >>> redact("connect to postgresql://mnt:hush@db/mnt failed")
    'connect to postgresql://mnt:[redacted]@db/mnt failed'
    """
    for pattern, replacement in _IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def redact_event(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> Mapping[str, Any]:
    """Redact a structlog event: by the names of its keys, and within every text in it."""
    return {key: _redacted(key, value) for key, value in event.items()}


class RedactingFormatter(logging.Formatter):
    """Formats what libraries log by themselves, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, redacted."""
        return redact(super().format(record))


def _redacted(name: str, value: Any) -> Any:
    if value is not None and _SECRET_NAME.search(name):
        return REDACTED
    if isinstance(value, Mapping):
        return {key: _redacted(str(key), each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", each) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact(str(value))
