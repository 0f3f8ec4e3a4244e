"""Run with `python -m services.executor`."""

from services.executor.main import run

run()
