"""Run with `python -m services.trainer`."""

from services.trainer.main import run

run()
