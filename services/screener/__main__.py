"""Run with `python -m services.screener`."""

from services.screener.main import run

run()
