"""The executor in simulated worlds, one for each seed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.simulation.run import Simulator

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIRST = int(os.environ.get("SIM_FIRST", "1"))
N_SEEDS = int(os.environ.get("SIM_SEEDS", "300"))
PROJECT = Path(__file__).resolve().parents[2]
ELSEWHERE = """
import asyncio, sys
from tests.simulation.run import simulator
async def main():
    async with simulator(sys.argv[1]) as simulated:
        for seed in sys.argv[2:]:
            outcome = await simulated.run(int(seed))
            if outcome.broken is not None:
                sys.exit(outcome.told())
            print(outcome.digest, file=sys.stderr)
asyncio.run(main())
"""


@asynccontextmanager
async def elsewhere(database_url: str, seeds: Iterable[int]) -> AsyncIterator[asyncio.Task[str]]:
    """Run seeds in another process; the task returns their digests, or fails with what it told."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        ELSEWHERE,
        database_url,
        *map(str, seeds),
        cwd=PROJECT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )

    async def told() -> str:
        _, told = await process.communicate()
        assert process.returncode == 0, told.decode()[-8_000:]
        return told.decode()

    try:
        yield (task := asyncio.create_task(told()))
        await task
    finally:
        if process.returncode is None:
            process.kill()


@pytest.mark.timeout(1_800)
async def test_no_seed_breaks_a_rule(simulated: Simulator, database_url: str) -> None:
    seeds = range(FIRST, FIRST + N_SEEDS)
    async with elsewhere(database_url, seeds[1::2]):
        for seed in seeds[::2]:
            outcome = await simulated.run(seed)
            assert outcome.broken is None, outcome.told()


async def test_a_seed_is_the_same_run_in_another_process_and_after_other_seeds(
    simulated: Simulator, database_url: str
) -> None:
    async with elsewhere(database_url, (4, 3)) as told:
        digests = [(await simulated.run(seed)).digest for seed in (3, 4)]
        assert (await told).split()[-2:] == digests[::-1]
    assert digests[0] != digests[1]
