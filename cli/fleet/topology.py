"""Which processes make up a fleet on one machine, and who needs whom."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

from cli.fleet.embedded import (
    POSTGRES,
    VALKEY,
    postgres_spec,
    postgres_url,
    redis_url,
    valkey_spec,
)
from cli.fleet.home import FleetHome
from cli.fleet.process import ProcessSpec, http_probe
from shared.errors import SettingsError

SERVICES = (
    "ingest",
    "screener",
    "features",
    "trainer",
    "signals",
    "portfolio",
    "executor",
    "paper_exchange",
)
PAPER_EXCHANGE = "paper_exchange"
MLFLOW = "mlflow"
VENUE_CLIENTS = frozenset({"ingest", "executor"})
KEY_HOLDERS = frozenset({"executor", PAPER_EXCHANGE})
"""The only processes that are told the keys of the trading account."""
KEYS = frozenset(
    f"MNT_VENUE_API_{part}{suffix}" for part in ("KEY", "SECRET") for suffix in ("", "_FILE")
)

DATABASE_URL = "MNT_DATABASE_URL"
REDIS_URL = "MNT_REDIS_URL"


def take_keys(home: FleetHome) -> dict[str, str]:
    """Take the trading keys out of this process's environment, which its children inherit.

    Without any, the account of the home's own paper venue gets keys of its own.
    """
    given = {name: value for name in KEYS if (value := os.environ.pop(name, ""))}
    if given:
        return given
    return {
        "MNT_VENUE_API_KEY": home.secret("venue-key"),
        "MNT_VENUE_API_SECRET": home.secret("venue-secret"),
    }


def server_specs(home: FleetHome, settings_env: Mapping[str, str]) -> list[ProcessSpec]:
    """Return the servers to run here: each one for which the settings name no other.

    Parameters
    ----------
    home
        Where their data is kept.
    settings_env
        Settings of the fleet; `MNT_DATABASE_URL` and `MNT_REDIS_URL` name servers that exist.
    """
    servers = []
    if not settings_env.get(REDIS_URL):
        servers.append(valkey_spec(home))
    if not settings_env.get(DATABASE_URL):
        servers.append(postgres_spec(home))
    return servers


def service_specs(
    home: FleetHome, settings_env: Mapping[str, str], services: Sequence[str] = SERVICES
) -> list[ProcessSpec]:
    """Return the services, each a Python process of its own that depends on the servers run here.

    Parameters
    ----------
    home
        Where the fleet lives.
    settings_env
        Environment of every service; what it names goes before what is worked out here.
    services
        Those to run, of `SERVICES`, and `MLFLOW` for its server.

    Raises
    ------
    SettingsError
        If a service is unknown.
    """
    if unknown := set(services) - {*SERVICES, MLFLOW}:
        raise SettingsError(f"unknown services {sorted(unknown)}: choose from {list(SERVICES)}")
    env = {
        "MNT_HOME": str(home.path),
        "MNT_API_TOKEN_FILE": str(home.token_file),
        # One thread a process: eight services with a pool of threads each fight for the cores.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        **settings_env,
    }
    servers = []
    if not env.get(REDIS_URL):
        servers.append(VALKEY)
        env[REDIS_URL] = redis_url(home)
    if not env.get(DATABASE_URL):
        servers.append(POSTGRES)
        env[DATABASE_URL] = postgres_url(home)
    home.token()  # made here once, rather than by whichever service reads it first
    return [
        _mlflow_spec(home) if name == MLFLOW else _service_spec(home, name, env, servers, services)
        for name in services
    ]


def _mlflow_spec(home: FleetHome) -> ProcessSpec:
    """Return MLflow's server for people, on the store that the trainer writes directly."""
    port = home.claim_port(MLFLOW)
    folder = home.path / "mlflow"
    folder.mkdir(exist_ok=True)
    options = {
        "host": "127.0.0.1",
        "port": str(port),
        "workers": "1",
        "backend-store-uri": f"sqlite:///{folder / 'mlflow.db'}",
        "artifacts-destination": str(folder / "artifacts"),
    }
    return ProcessSpec(
        name=MLFLOW,
        argv=(
            sys.executable,
            *("-m", "mlflow", "server"),
            *(word for key, value in options.items() for word in (f"--{key}", value)),
        ),
        # Its job runners are fifteen processes and two gigabytes that nothing here uses.
        env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        port=port,
        readiness=http_probe(f"http://127.0.0.1:{port}/health"),
        liveness=http_probe(f"http://127.0.0.1:{port}/health"),
    )


def _service_spec(
    home: FleetHome,
    name: str,
    env: Mapping[str, str],
    servers: Sequence[str],
    services: Sequence[str],
) -> ProcessSpec:
    port = home.claim_port(name)
    own = {"MNT_SERVICE_NAME": name, "MNT_PORT": str(port)}
    if name in VENUE_CLIENTS and PAPER_EXCHANGE in services:
        venue_port = home.claim_port(PAPER_EXCHANGE)
        own["MNT_VENUE_URL"] = env.get("MNT_VENUE_URL", f"http://127.0.0.1:{venue_port}")
    if name == "trainer":
        own["MNT_CONSOLE__LINKS"] = env.get("MNT_CONSOLE__LINKS") or _links(home, services)
    needs_venue = name == "executor" and PAPER_EXCHANGE in services
    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-m", f"services.{name}"),
        env={k: v for k, v in {**env, **own}.items() if k not in KEYS or name in KEY_HOLDERS},
        port=port,
        readiness=http_probe(f"http://127.0.0.1:{port}/ready"),
        liveness=http_probe(f"http://127.0.0.1:{port}/health"),
        depends_on=(*servers, *([PAPER_EXCHANGE] if needs_venue else [])),
    )


def _links(home: FleetHome, services: Sequence[str]) -> str:
    """Return the pages of the processes run here, as the console's setting has them."""
    pages = {name: f"http://127.0.0.1:{home.claim_port(name)}" for name in services}
    return json.dumps(
        {
            name: url if name in {MLFLOW, PAPER_EXCHANGE} else f"{url}/docs"
            for name, url in pages.items()
        }
    )
