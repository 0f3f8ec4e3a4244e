"""Settings of the paper venue: the fleet's own variables, and only those it needs.

The sections are the fleet's models, so a default is written down once. The fleet's complete
settings are not read here: they stand on the whole strategy, and a venue knows none.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableSettingError

from shared.book.execution import FillTerms
from shared.book.sizing import SizingSettings
from shared.clock import ms_of_instant
from shared.errors import SettingsError
from shared.quant.bar_checks import BarCheckSettings
from shared.secret_files import (
    KEY_CHARACTERS,
    TOKEN_CHARACTERS,
    read_secret,
    require_strong,
    secrets_from_files,
)
from shared.venues.faults import FaultSettings
from shared.venues.settings import MarketSettings

_PREFIX = "MNT_"
_DELIMITER = "__"


class Recording(BaseModel, frozen=True, extra="ignore"):
    """The market of a replay, which ingest moves.

    Attributes
    ----------
    bars
        Parquet files; without any the market is that of `Settings.market`.
    end
        Bars that close after it do not exist.
    """

    bars: tuple[Path, ...] = ()
    end: AwareDatetime | None = None

    @property
    def end_ms(self) -> int | None:
        """End in milliseconds since 1970."""
        return None if self.end is None else ms_of_instant(self.end)


class Settings(BaseSettings):
    """What the paper venue is told when it starts.

    Attributes
    ----------
    home
        Folder with all state of an embedded fleet; the venue's store lies in it.
    host, port
        Address of the venue; anything but loopback is for containers.
    api_token_file
        File with the bearer token of control routes; without it they refuse.
    venue_api_key, venue_api_secret
        Credentials of the one account. There is no default.
    trade_timeframe
        The bars that orders fill against.
    ingest
        Bounds of the bar checks, so that the market is the bars the fleet sees.
    portfolio
        Its `capital_usdt` is the balance the account starts with.
    execution
        What a fill costs.
    replay
        A recorded market in lockstep; while it names files nothing else counts.
    market
        The market that moves by itself.
    faults
        What goes wrong on purpose; nothing by default.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_DELIMITER, extra="ignore", frozen=True
    )

    home: Path = Path(".mnt")
    host: str = "127.0.0.1"
    port: int = Field(8080, gt=0, lt=65536)
    api_token_file: Path | None = None
    venue_api_key: Annotated[SecretStr, Field(min_length=1)]
    venue_api_secret: Annotated[SecretStr, Field(min_length=1)]
    trade_timeframe: Literal["5m", "15m", "1h"] = "5m"
    ingest: BarCheckSettings = BarCheckSettings()
    portfolio: SizingSettings = SizingSettings()
    execution: FillTerms = FillTerms()
    replay: Recording = Recording()
    market: MarketSettings = MarketSettings()
    faults: FaultSettings = FaultSettings()

    @property
    def store_file(self) -> Path:
        """The venue's own durable store, which the fleet never opens."""
        return self.home / "data" / "paper_exchange" / "venue.sqlite3"


def load_settings() -> Settings:
    """Read and check the environment of this process.

    Raises
    ------
    SettingsError
        If a credential is missing or a value is out of bounds.
    """
    try:
        return Settings(**secrets_from_files(os.environ, ("venue_api_key", "venue_api_secret")))
    except ValidationError as error:
        # The values stay out of the message: one of them may be a secret.
        faults = [
            f"{_PREFIX}{_DELIMITER.join(map(str, fault['loc'])).upper()}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("; ".join(faults)) from error
    except UnreadableSettingError as error:
        raise SettingsError(f"{error}: write lists as JSON") from error


def refuse_weak_secrets(settings: Settings) -> None:
    """Refuse to start on a secret that is short or that everybody knows.

    Raises
    ------
    SettingsError
        If the token or a credential of the account is one.
    """
    if settings.api_token_file is not None:
        name = f"{_PREFIX}API_TOKEN_FILE"
        require_strong(name, read_token(settings.api_token_file), TOKEN_CHARACTERS)
    for name, secret in (
        (f"{_PREFIX}VENUE_API_KEY", settings.venue_api_key),
        (f"{_PREFIX}VENUE_API_SECRET", settings.venue_api_secret),
    ):
        require_strong(name, secret.get_secret_value(), KEY_CHARACTERS)


def read_token(path: Path | None) -> str:
    """Return the bearer token, empty when no file is named.

    Raises
    ------
    SettingsError
        If the named file cannot be read or is empty.
    """
    return "" if path is None else read_secret(path, "MNT_API_TOKEN_FILE")
