"""Bring a database to the present schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from shared.database.engine import LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS, schema_of
from shared.errors import StoreError

_ADVISORY_LOCK = 0x6D6E74


def upgrade(database_url: str) -> None:
    """Apply the migrations that are missing, one process at a time, all or nothing.

    Parameters
    ----------
    database_url
        `postgresql+asyncpg://...`, as the services have it.

    Raises
    ------
    SettingsError
        As `schema_of`.
    StoreError
        If the database does not answer, or a lock is not had within the lock timeout.
    """
    schema = schema_of(database_url)
    engine = create_engine(database_url.replace("+asyncpg", "+psycopg"))
    try:
        with engine.begin() as connection:
            # Waiting for another process to finish migrating is right; waiting for a lock
            # that a running service holds is not.
            connection.execute(text(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
            connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
            if schema is not None:
                connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
            command.upgrade(configuration(connection), "head")
    except OperationalError as error:
        raise StoreError(f"the migration could not run: {error}; is the database up?") from error
    except DBAPIError as error:
        raise StoreError(f"the migration failed and changed nothing: {error}") from error
    finally:
        engine.dispose()


def configuration(connection: Connection) -> Config:
    """Return Alembic's configuration for a connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
