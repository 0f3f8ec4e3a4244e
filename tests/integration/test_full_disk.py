from __future__ import annotations

import pytest
from sqlalchemy import text

from shared.database.engine import DISK_FULL, create_engine, transaction
from shared.errors import StoreError


async def test_a_full_disk_of_the_database_is_named_with_its_remedy(database_url: str) -> None:
    engine = create_engine(database_url, application="test")
    refusal = f"DO $$ BEGIN RAISE 'No space left on device' USING ERRCODE = '{DISK_FULL}'; END $$"
    with pytest.raises(StoreError, match=r"(?s)No space left on device.*make room on it"):
        async with transaction(engine) as connection:
            await connection.execute(text(refusal))
    await engine.dispose()
