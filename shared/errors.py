"""Every error the fleet raises, by what its reader should do and by what it means.

`RetryableError`, `PermanentError` and `FatalError` tell the bus what to do with a failed
handler; the classes below them tell a person what went wrong. A message names the value
that was refused and the remedy.
"""

from __future__ import annotations


class MntError(Exception):
    """The base of every error raised by this project."""


class RetryableError(MntError):
    """The same call may succeed later.

    Parameters
    ----------
    message
        What happened and what will be tried.
    retry_after
        Seconds to wait before the next try; `None` leaves the choice to the retry policy.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(MntError):
    """The same call fails again until its input is corrected."""


class FatalError(MntError):
    """The process cannot go on and must be restarted by its supervisor."""


class DataError(PermanentError):
    """Market data, a file or an array breaks a rule stated at the door."""


class ContractError(PermanentError):
    """A message is undecodable, of an unknown version, too large or of the wrong shape."""


class SettingsError(PermanentError):
    """A setting is unknown or its value is out of bounds."""


class StoreError(RetryableError):
    """The database or the broker did not answer, or refused for the moment."""


class VenueError(MntError):
    """An exchange answered with an error; subclasses say whether an order may exist."""


class VenueRejectedError(VenueError, PermanentError):
    """The venue refused the request on positive evidence: nothing was placed."""


class VenueNotReducingError(VenueRejectedError):
    """The venue refused a reduce-only order: by its count of the position it would not reduce."""


class VenueUnknownError(VenueError, RetryableError):
    """No usable answer came back: the order may or may not exist and must be queried."""


class VenueNotFoundError(VenueError, PermanentError):
    """The venue knows no order under this client order id."""
