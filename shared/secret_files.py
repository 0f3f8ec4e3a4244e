"""Secrets in files, as container platforms hand them out: `MNT_<SETTING>_FILE` names the file.

And what no secret may be: short, or known to everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shared.errors import SettingsError

TOKEN_CHARACTERS = 32
KEY_CHARACTERS = 16
PASSWORD_CHARACTERS = 12
"""Fewest characters of the fleet's token, of trading keys and of a database's password."""

_FEWEST_DISTINCT = 6
_KNOWN = (
    "admin", "changeit", "changeme", "default", "example", "letmein", "mntrading", "password",
    "passwd", "placeholder", "postgres", "qwerty", "replaceme", "secret", "test", "token",
    "yourapikey", "yourapisecret", "yoursecret", "123456", "abcdef", "0123456789",
)  # fmt: skip


def require_strong(name: str, secret: str, fewest: int) -> None:
    """Refuse a secret that can be guessed.

    Parameters
    ----------
    name
        Where it was given, for the message, which never shows the secret.
    secret
        To be judged.
    fewest
        Characters it must have.

    Raises
    ------
    SettingsError
        If it is shorter, has few different characters, or is made of words that examples
        and default installations use.
    """
    fault = None
    if len(secret) < fewest:
        fault = f"has {len(secret)} characters, fewer than {fewest}"
    elif len(set(secret)) < _FEWEST_DISTINCT:
        fault = "repeats a few characters"
    elif _is_known(secret):
        fault = "is a default that everybody knows"
    if fault:
        raise SettingsError(
            f"{name} {fault}: the fleet does not start on it; make a random one, for example with "
            "`python -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )


def _is_known(secret: str) -> bool:
    """Tell whether a secret consists of known words, whatever separates or ends them."""
    rest = "".join(character for character in secret.lower() if character.isalnum())
    for word in sorted(_KNOWN, key=len, reverse=True):
        rest = rest.replace(word, "")
    return len(rest) < len(secret) / 3


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
