"""Run with `python -m services.paper_exchange`."""

from services.paper_exchange.main import run

run()
