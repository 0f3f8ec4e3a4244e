"""Settings of a process: the environment, prefix `MNT_`, sections joined by two underscores."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AnyHttpUrl, BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url

from shared.book.limits import RiskLimits
from shared.clock import ms_of_instant
from shared.errors import SettingsError
from shared.events.base import describe_faults
from shared.secret_files import (
    KEY_CHARACTERS,
    PASSWORD_CHARACTERS,
    TOKEN_CHARACTERS,
    read_secret,
    require_strong,
    secrets_from_files,
)
from shared.sleeves.pairs.settings import StrategySettings
from shared.venues.faults import FaultSettings
from shared.venues.settings import FollowSettings, MarketSettings

PREFIX = "MNT_"
SECTION_DELIMITER = "__"


class ReplaySettings(BaseModel, frozen=True, extra="forbid"):
    """Which recorded bars to replay; without files ingest only adopts published bars.

    Attributes
    ----------
    bars
        Parquet files, one timeframe each or several of the same venue.
    start, end
        First close released is the first after `start`, last one at or before `end`; bars
        up to `start` are history.
    """

    bars: tuple[Path, ...] = ()
    start: datetime | None = None
    end: datetime | None = None

    @property
    def start_ms(self) -> int | None:
        """Start in milliseconds since 1970."""
        return None if self.start is None else ms_of_instant(self.start)

    @property
    def end_ms(self) -> int | None:
        """End in milliseconds since 1970."""
        return None if self.end is None else ms_of_instant(self.end)


class ArtefactSettings(BaseModel, frozen=True, extra="forbid"):
    """Where research keeps its artefacts; keys are never a setting of ours.

    Attributes
    ----------
    store
        A folder, or `s3://bucket/path`.
    endpoint
        Address of an S3-compatible store; without it Amazon's.
    region
        Of the bucket.
    """

    store: str = ""
    endpoint: str = ""
    region: str = "us-east-1"


class ConsoleSettings(BaseModel, frozen=True, extra="forbid"):
    """What the console knows of its surroundings.

    Attributes
    ----------
    links
        Addresses of other pages by name, such as those of MLflow and Grafana. `mlflow` is where
        the runs of models are looked for.
    """

    links: dict[str, AnyHttpUrl] = {}


class Settings(BaseSettings, StrategySettings):
    """What a service is told when it starts.

    Attributes
    ----------
    home
        Folder with all state of an embedded fleet.
    database_url, redis_url
        Where the record and the transport are.
    database_password_file
        File with the password, where it is not part of the URL.
    host, port
        The service's REST address; anything but loopback is for containers.
    api_token_file
        File with the token of the fleet's home, which has every scope.
    venue_url, venue_api_key, venue_api_secret
        The venue; only the executor and the paper venue are given the keys.
    venue_api_key_file, venue_api_secret_file
        Files with the keys, in place of their values.
    venue_name
        Name under which bars and instruments of the venue are recorded.
    account
        Name of the trading account, part of every client order id.
    mode
        `paper`, or `live`, which nothing supports yet.
    mlflow_url
        Tracking store of the model registry.
    mlflow_artifacts
        Where MLflow keeps the files of experiments made from now on, without a server: a folder
        or, with the extra `s3`, `s3://bucket/path`.
    limits
        Of the account, below those of the portfolio.
    artefacts
        Where research keeps its artefacts.
    console
        What the console knows of its surroundings.
    market, faults, follow
        The paper venue's market, the faults it injects, and what ingest follows at the venue.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=SECTION_DELIMITER,
        extra="forbid",
        frozen=True,
    )

    home: Path = Path(".mnt")
    data: Path | None = None
    service_name: str = ""
    database_url: SecretStr = SecretStr("postgresql+asyncpg://mnt@127.0.0.1:5432/mnt")
    database_password_file: Path | None = None
    redis_url: str = "redis://127.0.0.1:6379/0"
    host: str = "127.0.0.1"
    port: int = Field(8000, gt=0, lt=65536)
    api_token_file: Path | None = None
    venue_url: str = "http://127.0.0.1:8080"
    venue_api_key: SecretStr | None = None
    venue_api_secret: SecretStr | None = None
    venue_api_key_file: Path | None = None
    venue_api_secret_file: Path | None = None
    venue_name: str = "binance"
    account: str = "paper"
    mode: Literal["paper"] = "paper"
    mlflow_url: str | None = None
    mlflow_artifacts: str | None = None
    limits: RiskLimits = RiskLimits()
    artefacts: ArtefactSettings = ArtefactSettings()
    console: ConsoleSettings = ConsoleSettings()
    market: MarketSettings = MarketSettings()
    faults: FaultSettings = FaultSettings()
    follow: FollowSettings = FollowSettings()
    replay: ReplaySettings = ReplaySettings()

    @property
    def strategy(self) -> StrategySettings:
        """The sections that decide what is traded."""
        return StrategySettings(**{name: getattr(self, name) for name in _strategy_fields()})


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read and check the settings of this process.

    Raises
    ------
    SettingsError
        If a variable with the prefix is unknown, a value is out of bounds or the file of a
        secret cannot be read.
    """
    for name in os.environ if environment is None else environment:
        if name.upper().startswith(PREFIX):
            path = name.upper().removeprefix(PREFIX).lower().replace(SECTION_DELIMITER, ".")
            _require_known(path, f"environment variable {name}")
    secrets = secrets_from_files(
        os.environ, ("database_password", "venue_api_key", "venue_api_secret")
    )
    database_password = secrets.pop("database_password", None)
    try:
        settings = Settings(**secrets)
    except ValidationError as error:
        raise SettingsError(f"settings: {describe_faults(error)}") from error
    if database_password is None:
        return settings
    return settings.model_copy(
        update={"database_url": _with_password(settings.database_url, database_password)}
    )


def refuse_weak_secrets(settings: Settings) -> None:
    """Refuse to start on a secret that is short or that everybody knows.

    Raises
    ------
    SettingsError
        If the token, the password of the database or a trading key is one, or the file of
        the token cannot be read.
    """
    if settings.api_token_file is not None:
        name = f"{PREFIX}API_TOKEN_FILE"
        require_strong(name, read_secret(settings.api_token_file, name), TOKEN_CHARACTERS)
    url = make_url(settings.database_url.get_secret_value())
    if url.password is not None:
        name = f"the password of {PREFIX}DATABASE_URL"
        require_strong(name, str(url.password), PASSWORD_CHARACTERS)
    for name in ("venue_api_key", "venue_api_secret"):
        secret: SecretStr | None = getattr(settings, name)
        if secret is not None:
            require_strong(f"{PREFIX}{name.upper()}", secret.get_secret_value(), KEY_CHARACTERS)


def environment_of(assignments: Iterable[str]) -> dict[str, str]:
    """Return the environment that `key=value` options stand for.

    Raises
    ------
    SettingsError
        If an option has no `=`, names an unknown setting or gives a value out of bounds.
    """
    assignments = tuple(assignments)
    strategy_of(assignments)
    pairs = (assignment.partition("=") for assignment in assignments)
    return {
        PREFIX + path.replace(".", SECTION_DELIMITER).upper(): value for path, _, value in pairs
    }


def strategy_of(assignments: Iterable[str]) -> StrategySettings:
    """Return the strategy settings with `key=value` options applied to the defaults.

    Parameters
    ----------
    assignments
        Such as `screener.method=p_value`.

    Raises
    ------
    SettingsError
        If an option has no `=`, names an unknown setting or gives a value out of bounds.
    """
    document: dict[str, Any] = {}
    for assignment in assignments:
        path, separator, value = assignment.partition("=")
        if not separator:
            raise SettingsError(f"--set {assignment!r}: write it as section.key=value")
        _require_known(path, f"--set {assignment}")
        section = document
        *parents, leaf = path.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = value
    try:
        return StrategySettings.model_validate(
            {key: value for key, value in document.items() if key in _strategy_fields()}
        )
    except ValidationError as error:
        raise SettingsError(f"settings: {describe_faults(error)}") from error


def setting_names() -> tuple[str, ...]:
    """Return every setting as a dotted path."""
    return tuple(_paths(Settings, ""))


def as_utc(value: str) -> datetime:
    """Parse an instant of the command line; without a zone it is UTC.

    Raises
    ------
    SettingsError
        If it is not an ISO 8601 date or time.
    """
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        raise SettingsError(
            f"{value!r} is not an instant: write it as 2024-03-01 or 2024-03-01T12:00:00Z"
        ) from None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _with_password(url: SecretStr, password: str) -> SecretStr:
    parts = make_url(url.get_secret_value())
    if parts.password is not None:
        raise SettingsError(
            f"MNT_DATABASE_URL and {PREFIX}DATABASE_PASSWORD_FILE both give a password: "
            "take it out of the URL, or unset the file"
        )
    return SecretStr(parts.set(password=password).render_as_string(hide_password=False))


def _strategy_fields() -> tuple[str, ...]:
    return tuple(StrategySettings.model_fields)


def _paths(model: type[BaseModel], prefix: str) -> Iterable[str]:
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _paths(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _require_known(path: str, where: str) -> None:
    known = setting_names()
    if path in known:
        return
    close = difflib.get_close_matches(path, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"
    raise SettingsError(f"{where}: unknown setting {path!r}; {hint}")
