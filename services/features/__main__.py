"""Run with `python -m services.features`."""

from services.features.main import run

run()
