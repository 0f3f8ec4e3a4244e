"""Parameters of a request, as they come and as they are meant."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from services.paper_exchange.refusals import RefusalError, illegal

Parameters = dict[str, str]

_MAX_PARAMETERS = 64
_INTEGER = re.compile(r"[0-9]{1,18}")


def parse_parameters(raw_query: str, body: str) -> Parameters:
    """Return the parameters of a request; those of the query go before those of the body.

    Raises
    ------
    RefusalError
        -1100 if they are no UTF-8 after decoding, -1101 if one is repeated or they are too many.
    """
    parameters: Parameters = {}
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


def integer(parameters: Parameters, name: str) -> int | None:
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


def limit_of(parameters: Parameters, default: int, most: int) -> int:
    """Return how many things are asked for, at most so many as there may be.

    Raises
    ------
    RefusalError
        -1130 if none are.
    """
    limit = integer(parameters, "limit")
    if limit == 0:
        raise RefusalError(-1130, "Data sent for parameter 'limit' is not valid.")
    return default if limit is None else min(limit, most)
