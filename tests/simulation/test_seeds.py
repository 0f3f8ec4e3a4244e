"""The executor in simulated worlds, one for each seed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.simulation.run import Simulator

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIRST = int(os.environ.get("SIM_FIRST", "1"))
N_SEEDS = int(os.environ.get("SIM_SEEDS", "60"))
PROJECT = Path(__file__).resolve().parents[2]
ELSEWHERE = """
import asyncio, sys
from tests.simulation.run import simulator
async def main():
    async with simulator(sys.argv[1]) as simulated:
        for seed in sys.argv[2:]:
            print((await simulated.run(int(seed))).digest, file=sys.stderr)
asyncio.run(main())
"""


async def test_no_seed_breaks_a_rule(simulated: Simulator) -> None:
    for seed in range(FIRST, FIRST + N_SEEDS):
        outcome = await simulated.run(seed)
        assert outcome.broken is None, outcome.told()


async def test_a_seed_is_the_same_run_in_another_process_and_after_other_seeds(
    simulated: Simulator, database_url: str
) -> None:
    digests = [(await simulated.run(seed)).digest for seed in (3, 4)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        ELSEWHERE,
        database_url,
        *("4", "3"),
        cwd=PROJECT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    assert told.decode().split()[-2:] == digests[::-1]
    assert digests[0] != digests[1]
