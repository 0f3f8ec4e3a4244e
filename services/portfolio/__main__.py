"""Run with `python -m services.portfolio`."""

from services.portfolio.main import run

run()
