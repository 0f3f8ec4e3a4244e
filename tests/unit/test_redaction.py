from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
import structlog

from shared.redaction import RedactingFormatter, redact, redact_event
from shared.service import configure_logging

SECRET = "s3cr3t-of-the-test-0123456789abcdef"


@pytest.mark.parametrize(
    "words",
    [
        f"Authorization: Bearer {SECRET}",
        f"sent 'bearer {SECRET}' to it",
        f"postgresql+asyncpg://mnt:{SECRET}@db:5432/mnt refused",
        f"redis://:{SECRET}@127.0.0.1/0",
        f"https://user:{SECRET}@host/path?x=1",
        f"GET /fapi/v1/order?symbol=X&signature={SECRET}&x=1",
        f'{{"apiKey": "k", "secret": "{SECRET}"}}',
        f"MNT_VENUE_API_SECRET={SECRET}",
        f"token mnt_{SECRET} is known",
        f"password='{SECRET}'",
        f"listenKey={SECRET}",
    ],
)
def test_a_secret_in_a_text_is_taken_out(words: str) -> None:
    redacted = redact(words)
    assert SECRET not in redacted
    assert "[redacted]" in redacted
    assert redact(redacted) == redacted


@pytest.mark.parametrize(
    "words",
    [
        "the token is not known here: send 'Authorization: Bearer <token>'",
        "postgresql://127.0.0.1:5432/mnt did not answer",
        "BTC/USDT~ETH/USDT z_score=2.5 at 12:00:00",
        "key-1 was used before",
        "bars:1h http://127.0.0.1:8000/docs",
    ],
)
def test_what_is_no_secret_stays(words: str) -> None:
    assert redact(words) == words


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db_password",
        "token",
        "api_token",
        "apiKey",
        "api_key",
        "venue_api_secret",
        "Authorization",
        "X-MBX-APIKEY",
        "signature",
        "listen_key",
    ],
)
def test_a_value_is_taken_out_by_its_name_however_deep_it_lies(name: str) -> None:
    event = {"event": "sent", "headers": [{name: SECRET, "n": 1}], name: SECRET}
    redacted = dict(redact_event(None, "info", event))
    assert redacted[name] == "[redacted]"
    assert redacted["headers"] == [{name: "[redacted]", "n": 1}]


@pytest.mark.parametrize("name", ["token_id", "n_tokens_used", "keys", "secrets_folder", "path"])
def test_a_name_that_only_resembles_one_of_a_secret_keeps_its_value(name: str) -> None:
    assert dict(redact_event(None, "info", {name: "shown"})) == {name: "shown"}


def test_numbers_stay_numbers_and_exceptions_are_redacted() -> None:
    event = {"n": 1, "x": 2.5, "is": True, "none": None, "error": ValueError(f"secret={SECRET}")}
    assert dict(redact_event(None, "info", event)) == {
        "n": 1,
        "x": 2.5,
        "is": True,
        "none": None,
        "error": "secret=[redacted]",
    }


def test_the_log_of_a_service_holds_no_secret_not_even_in_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("test")
    try:
        url = f"redis://:{SECRET}@host"
        structlog.get_logger().info("asked", url=url, api_token=SECRET, header=f"Bearer {SECRET}")
        try:
            raise ConnectionError(url)
        except ConnectionError:
            structlog.get_logger().exception("failed")
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["asked", "failed"]
    assert SECRET not in "".join(lines)


def test_what_libraries_log_is_redacted_with_its_traceback() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 1, "to %s", (f"a://u:{SECRET}@h",), None)
    try:
        raise ConnectionError(f"token={SECRET}")
    except ConnectionError:
        record.exc_info = sys.exc_info()
    line = RedactingFormatter("%(message)s").format(record)
    assert SECRET not in line
    assert "Traceback" in line


def test_a_service_logs_what_libraries_say_through_it() -> None:
    code = (
        "import logging, logging.config; from shared.service import _LIBRARY_LOGGING as c; "
        f"logging.config.dictConfig(c); logging.getLogger('uvicorn.error').error('Bearer {SECRET}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "ERROR uvicorn.error Bearer [redacted]"
