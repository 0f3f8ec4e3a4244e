"""Run with `python -m services.signals`."""

from services.signals.main import run

run()
