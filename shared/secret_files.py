"""Secrets in files, as container platforms hand them out: `MNT_<SETTING>_FILE` names the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shared.errors import SettingsError


def secrets_from_files(environment: Mapping[str, str], names: Iterable[str]) -> dict[str, Any]:
    """Return the secrets whose files the environment names.

    Parameters
    ----------
    environment
        Of the process.
    names
        Settings that a file may hold, such as `venue_api_key`.

    Raises
    ------
    SettingsError
        If a file cannot be read or is empty, or the secret is given by value too.
    """
    secrets = {}
    for name in names:
        by_value = f"MNT_{name.upper()}"
        by_file = f"{by_value}_FILE"
        if not environment.get(by_file):
            continue
        if environment.get(by_value):
            raise SettingsError(f"{by_value} and {by_file} are both given: unset one of them")
        secrets[name] = read_secret(Path(environment[by_file]), by_file)
    return secrets


def read_secret(path: Path, variable: str) -> str:
    """Return the secret in a file, without the white space around it.

    Parameters
    ----------
    path
        The file.
    variable
        The environment variable that names it, for the message.

    Raises
    ------
    SettingsError
        If the file cannot be read or is empty.
    """
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{variable} {path} cannot be read ({error}): name a file that the process may read"
        ) from error
    if not secret:
        raise SettingsError(f"{variable} {path} is empty: write the secret into it")
    return secret
