"""Every operation of every service against its OpenAPI document, on a real record."""

from __future__ import annotations

import importlib
import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving import AUTHORISED, settings_in_environment
from tests.support import eventually

SERVICES = ("ingest", "screener", "features", "trainer", "signals", "portfolio", "executor")
EXAMPLES = 10
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
NOT_AVAILABLE = 503

_keys = itertools.count()

# MLflow's own mappers use a SQLAlchemy loader strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)


@contextmanager
def listening(service: str) -> Iterator[str]:
    """Serve a service on a port of its own, in a thread with a loop of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = importlib.import_module(f"services.{service}.main").create_app()
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def is_ready() -> bool:
            try:
                return requests.get(f"{url}/ready", timeout=5).ok
            except requests.ConnectionError:
                return False

        try:
            eventually(is_ready)
            yield url
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()


@pytest.mark.parametrize("service", SERVICES)
def test_whatever_is_sent_a_service_answers_as_its_document_says(
    service: str,
    tmp_path: Path,
    database_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_settings = [("MNT_FOLLOW__ENABLED", "false"), ("MNT_SCREENER__WINDOW_BARS", "200")]
    settings_in_environment(monkeypatch, tmp_path, database_url, redis_url, given_settings)
    with listening(service) as url:
        # Who gets in is tested elsewhere: here every request has the right token.
        config = schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}})
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
        found = list(schema.get_all_operations())
        operations = [each.ok() for each in found if isinstance(each, Ok)]
        assert len(operations) == len(found)
        assert len(operations) >= 7
        for operation in operations:
            for mode in GenerationMode:
                # Where nothing can be sent, nothing wrong can be sent either.
                with suppress(Unsatisfiable) if mode is GenerationMode.NEGATIVE else nullcontext():
                    send_whatever(operation, mode)
        requests.post(f"{url}/resume", headers=AUTHORISED, timeout=30)


def send_whatever(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode) -> None:
    """Send what the document allows, or what it does not, and judge every answer."""

    @seed(7)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case[Any]) -> None:
        headers = dict(AUTHORISED)
        if mode is GenerationMode.POSITIVE:  # a key that was used before is refused, and rightly
            headers["Idempotency-Key"] = str(next(_keys))
        answer = case.call(headers=headers, timeout=60)
        assert answer.status_code != NOT_AVAILABLE, (operation.label, answer.text)
        assert answer.status_code != requests.codes.unauthorized, operation.label
        case.validate_response(answer, checks=CHECKS)

    send()
