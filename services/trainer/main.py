"""Trainer: datasets, models and promotions.

Consumes
    `features.computed`: event time, and the occasion of trainings, of checks of drift and of
    judging the shadow.
Publishes
    `models.promoted`: a model became challenger, shadow or champion, left the shadow, or the
    champion before came back; `drift.tripped`.
Owns
    `datasets`, `models`, `model_evidence`, `promotions`, `trials`, `trainings`,
    `drift_checks`; the MLflow registry; `registry.json` and `production_map.json`.
Serves
    `POST /train`, `/promote`, `/rollback`, `/cycles/short`, `/cycles/full`, `/jobs/{name}/run`;
    `PUT /jobs/{name}`; `GET /models`, `/runs`, `/trainings`, `/drift`, `/cycles`, `/artifacts`,
    `/jobs`, the page `/console`; the routes every service has.
"""

from __future__ import annotations

from fastapi import FastAPI

from services.trainer.api import trainer_routes
from services.trainer.handlers import Trainer
from shared.bus.consumer import Routes
from shared.service import Runtime, create_service, serve
from shared.settings import load_settings

VERSION = "1"


def create_app() -> FastAPI:
    """Build the service from its settings."""
    settings = load_settings()
    trainer = Trainer(settings)

    def build(_: Runtime) -> Routes:
        return Routes(
            handlers={"features.computed": trainer.observe},
            adopters={
                "models.promoted": trainer.refuse_foreign,
                "drift.tripped": trainer.refuse_foreign_check,
            },
            reload=trainer.reload,
            at_once=frozenset({"features.computed"}),
        )

    return create_service("trainer", VERSION, settings, build, trainer_routes(settings, trainer))


def run() -> None:
    """Serve until told to stop."""
    serve("services.trainer.main:create_app")
