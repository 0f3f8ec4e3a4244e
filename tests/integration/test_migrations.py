from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Table, create_engine, insert, text, update
from sqlalchemy.exc import IntegrityError

from cli.record import connect
from services.trainer.domain import Stage, may_become
from shared.clock import instant_of_ms
from shared.database import tables
from shared.database.engine import schema_of
from shared.database.migrate import configuration, upgrade
from shared.errors import SettingsError, StoreError
from shared.quant.gate_settings import ALL_GATES
from tests.serving import recording, serving, settings_in_environment

CLOSE = datetime(2024, 1, 1, tzinfo=UTC)
LINEAGE = {"source_uri": "test", "transform_id": "test/1"}
DOCUMENT = b'{"coefficients": []}'
SHA256 = hashlib.sha256(DOCUMENT).hexdigest()

BAR: dict[str, Any] = {
    "venue": "binance",
    "timeframe": "1h",
    "closes_at": CLOSE,
    "symbol": "AAA",
    "open": 2.0,
    "high": 3.0,
    "low": 1.0,
    "close": 2.0,
    "volume": 0.0,
}
DATASET: dict[str, Any] = {
    "dataset_id": "d",
    "name": "pairs",
    "from_closes_at": CLOSE,
    "to_closes_at": CLOSE,
    "n_rows": 1,
    "n_positive": 1,
    "manifest": {},
}
MODEL: dict[str, Any] = {
    "sha256": SHA256,
    "name": "pairs",
    "model_version": 1,
    "document": DOCUMENT,
    "dataset_id": "d",
    "trained_at_close": CLOSE,
    "metrics": {},
    "mlflow_run_id": "r",
}
PASSED: list[dict[str, Any]] = [
    {"gate": gate, "value": 1.0, "comparison": ">=", "threshold": 1.0, "verdict": "passed"}
    for gate in ALL_GATES
]
PROMOTION: dict[str, Any] = {
    "name": "pairs",
    "alias": "champion",
    "sha256": SHA256,
    "from_closes_at": CLOSE,
    "mode": "paper",
    "gates": PASSED,
    "gates_passed": True,
    "is_override": False,
    "decided_by": "test",
}
PLAIN: dict[str, Any] = {"gates": [], "gates_passed": False}
OVERRIDE: dict[str, Any] = {"is_override": True, "override_reason": "to see it trade", **PLAIN}
POSITION: dict[str, Any] = {
    "position_id": "p",
    "pair": "AAA~BBB",
    "symbol_y": "AAA",
    "symbol_x": "BBB",
    "state": "open",
    "opened_at": CLOSE,
    "lots_y": 5,
    "lots_x": -5,
    "cash_e8": 0,
    "fees_e8": 0,
    "funding_e8": 0,
}
ORDER: dict[str, Any] = {
    "client_order_id": "o",
    "intent_id": "i",
    "pair": "AAA~BBB",
    "leg": "y",
    "attempt": 0,
    "symbol": "AAA",
    "side": "buy",
    "quantity_lots": 5,
    "filled_lots": 0,
    "reduce_only": False,
    "created_at": CLOSE,
    "state": "accepted",
    "reason": "",
}
TRADING_STATE: dict[str, Any] = {
    "from_closes_at": CLOSE,
    "state": "reduce_only",
    "is_flattening": True,
    "reason": "all out",
    "decided_by": "test",
}
LIMITS: dict[str, Any] = {
    "from_closes_at": None,
    "capital_usdt": 1,
    "top_k": 1,
    "gross_cap": 1.0,
    "symbol_cap": 1.0,
    "reason": "a thin market",
    "decided_by": "test",
}
FEATURES: dict[str, Any] = {
    "closes_at": CLOSE,
    "y": "AAA",
    "x": "BBB",
    "status": "active",
    "roster_closes_at": datetime(2023, 12, 31, tzinfo=UTC),
    "close_y": 1.0,
    "close_x": 1.0,
    "feature_set": "f",
    "feature_values": [1.0],
}


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    engine = create_engine(database_url.replace("+asyncpg", "+psycopg"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def put(connection: Connection, table: Table, row: dict[str, Any], **changes: Any) -> None:
    connection.execute(insert(table).values(**(row | LINEAGE | changes)))


# --- the migrations -----------------------------------------------------------------------


def test_the_schema_is_the_sum_of_the_migrations(connection: Connection) -> None:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    assert compare_metadata(context, tables.metadata) == []


def test_constraints_and_indexes_are_the_sum_of_the_migrations(
    connection: Connection, empty_database_url: str
) -> None:
    # Autogenerate compares neither checks nor the condition of an index.
    engine = create_engine(empty_database_url.replace("+asyncpg", "+psycopg"))
    with engine.begin() as declared:
        tables.metadata.create_all(declared)
        expected = rules(declared)
    engine.dispose()
    assert {"bars_positive_check", "pair_positions_live_idx"} <= {name for name, _ in expected}
    assert rules(connection) == expected


def rules(connection: Connection) -> set[tuple[str, str]]:
    """Return every constraint and index as Postgres itself spells it."""
    rows = connection.execute(
        text(
            """
            SELECT conname, conrelid::regclass || ' ' || pg_get_constraintdef(oid)
            FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace
              AND conrelid <> coalesce(to_regclass('alembic_version'), 0)
            UNION
            SELECT indexname, indexdef FROM pg_indexes
            WHERE schemaname = 'public' AND tablename <> 'alembic_version'
            """
        )
    )
    return {(name, definition) for name, definition in rows}


def test_upgrading_again_changes_nothing(database_url: str, connection: Connection) -> None:
    put(connection, tables.bars, BAR)
    connection.commit()
    before = connection.execute(text("SELECT * FROM alembic_version")).all()
    objects = rules(connection)
    connection.commit()
    upgrade(database_url)
    assert connection.execute(text("SELECT * FROM alembic_version")).all() == before
    assert rules(connection) == objects
    assert connection.execute(text("SELECT count(*) FROM bars")).scalar_one() == 1


def test_a_migration_that_fails_changes_nothing(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url.replace("+asyncpg", "+psycopg"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (in_the_way int)"))
    with pytest.raises(StoreError, match="changed nothing"):
        upgrade(empty_database_url)
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        )
        assert found.scalars().all() == ["orders"]
    engine.dispose()


def test_what_services_remember_is_kept_by_a_migration_and_its_undoing(
    empty_database_url: str,
) -> None:
    trade = (
        "A/USDT", "B/USDT", -1, instant_of_ms(1_704_067_200_001), 0.1 + 0.2, 1e-17, -3.25,
        7.1e300, 10.000000000000002, 5.0, 3, 1, 0, None,
    )  # fmt: skip
    target = ("A/USDT", "B/USDT", "a position", 2**53 + 1, 7, True)
    nothing = text("SELECT targets FROM slot_memory WHERE service = 'nothing'")
    engine = create_engine(empty_database_url.replace("+asyncpg", "+psycopg"))
    with engine.begin() as connection:
        migrations = configuration(connection)
        command.upgrade(migrations, "0012")
        for name, row in (("pair_trades", trade), ("live_targets", target)):
            places = ", ".join(f":{n}" for n in range(len(row)))
            values = {str(n): value for n, value in enumerate(row)}
            connection.execute(text(f"INSERT INTO {name} VALUES ({places})"), values)
        for move, revision in (
            (command.upgrade, "0013"), (command.upgrade, "0015"),
            (command.downgrade, "0013"), (command.downgrade, "0012"),
        ):  # fmt: skip
            move(migrations, revision)
            assert connection.execute(text("SELECT * FROM pair_trades")).all() == [trade]
            assert connection.execute(text("SELECT * FROM live_targets")).all() == [target]
            if move is command.upgrade and revision == "0013":
                connection.execute(text("INSERT INTO slot_memory VALUES ('nothing', '[]')"))
            elif revision != "0012":
                empty: object = {} if revision == "0015" else []
                assert connection.execute(nothing).scalar_one() == empty
    engine.dispose()


def test_what_was_recorded_with_its_event_is_not_recorded_again(empty_database_url: str) -> None:
    cursors = text("SELECT consumer, topic, seq FROM consumer_offset ORDER BY topic")
    engine = create_engine(empty_database_url.replace("+asyncpg", "+psycopg"))
    with engine.begin() as connection:
        migrations = configuration(connection)
        command.upgrade(migrations, "0015")
        connection.execute(
            text("INSERT INTO stream_head VALUES ('bars.5m', 9), ('features.computed', 7)")
        )
        connection.execute(text("INSERT INTO consumer_offset VALUES ('features', 'bars.5m', 8)"))
        command.upgrade(migrations, "0016")
        assert connection.execute(cursors).all() == [
            ("features", "bars.5m", 8),
            ("features", "features.computed", 7),
        ]
        command.downgrade(migrations, "0015")
        assert connection.execute(cursors).all() == [("features", "bars.5m", 8)]
    engine.dispose()


def test_a_database_that_is_not_there_is_named_as_the_cause(database_url: str) -> None:
    with pytest.raises(StoreError, match="is the database up"):
        upgrade(f"{database_url}_missing")


# --- the constraints ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"low": -1.0}, "bars_positive_check"),
        ({"low": 0.0}, "bars_positive_check"),
        ({"close": 3.5}, "bars_range_check"),
        ({"open": 0.5}, "bars_range_check"),
        ({"high": float("inf")}, "bars_finite_check"),
        ({"high": float("nan")}, "bars_finite_check"),
        ({"close": float("nan")}, "bars_range_check"),
        ({"volume": -1.0}, "bars_finite_check"),
        ({"volume": float("nan")}, "bars_finite_check"),
    ],
)
def test_a_bar_that_cannot_be_is_refused(
    connection: Connection, changes: dict[str, Any], constraint: str
) -> None:
    put(connection, tables.bars, BAR, symbol="GOOD")
    with pytest.raises(IntegrityError, match=constraint):
        put(connection, tables.bars, BAR, **changes)


@pytest.fixture
def registry(connection: Connection) -> Connection:
    """Return a record in which one model is in the shadow."""
    put(connection, tables.datasets, DATASET)
    put(connection, tables.models, MODEL)
    for stage in ("candidate", "challenger"):
        put(connection, tables.promotions, PROMOTION, alias=stage, **PLAIN)
    put(connection, tables.promotions, PROMOTION, alias="shadow")
    return connection


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"gates_passed": False}, "promotions_gates_check"),
        (
            {
                "gates_passed": False,
                "is_override": True,
                "override_reason": "trust me",
                "mode": "live",
            },
            "promotions_gates_check",
        ),
        ({"is_override": True, "override_reason": ""}, "promotions_override_check"),
        ({"is_override": True, "override_reason": None}, "promotions_override_check"),
        ({"mode": "dream"}, "promotions_mode_check"),
        ({"alias": "king"}, "is shadow and cannot become king"),
        ({"sha256": "0" * 64}, "is new and cannot become champion"),
        ({"gates": []}, "promotions_evidence_check"),
        ({"gates": PASSED[:-1]}, "promotions_evidence_check"),
        ({"gates": [*PASSED[1:], {**PASSED[0], "verdict": "failed"}]}, "promotions_evidence_check"),
        ({"gates": [*PASSED[1:], {**PASSED[0], "value": 0.9}]}, "by its own numbers"),
        ({"gates": [*PASSED[1:], {**PASSED[0], "value": None}]}, "by its own numbers"),
        ({"alias": "retired"}, "promotions_evidence_check"),
        ({"sha256": None}, "promotions_model_check"),
        ({"is_rollback": True, "reason": ""}, "promotions_rollback_check"),
        (
            {
                "alias": "retired",
                **PLAIN,
                "is_rollback": True,
                "is_override": True,
                "override_reason": "back",
            },
            "promotions_rollback_check",
        ),
    ],
)
def test_a_promotion_against_the_rules_is_refused(
    registry: Connection, changes: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(IntegrityError, match=constraint):
        put(registry, tables.promotions, PROMOTION, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"alias": "retired", "gates_passed": False},
        {"gates_passed": False, "is_override": True, "override_reason": "to see it trade"},
        {"sha256": None, "is_rollback": True, "is_override": True, "override_reason": "it lost"},
    ],
)
def test_a_promotion_within_the_rules_is_taken(
    registry: Connection, changes: dict[str, Any]
) -> None:
    put(registry, tables.promotions, PROMOTION, **changes)


STAGES: tuple[Stage, ...] = ("candidate", "challenger", "shadow", "champion", "retired")
PATHS: dict[Stage | None, tuple[Stage, ...]] = {
    None: (),
    "candidate": ("candidate",),
    "challenger": ("candidate", "challenger"),
    "shadow": ("candidate", "challenger", "shadow"),
    "champion": ("candidate", "challenger", "shadow", "champion"),
    "retired": ("candidate", "retired"),
}
HOWS: dict[str, dict[str, Any]] = {
    "gates": {},
    "override": OVERRIDE,
    "rollback": {"is_rollback": True, "reason": "it lost"},
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("present", PATHS)
def test_the_record_takes_exactly_the_steps_that_the_trainer_may_take(
    connection: Connection, present: Stage | None, how: str
) -> None:
    put(connection, tables.datasets, DATASET)
    put(connection, tables.models, MODEL)
    for stage in PATHS[present]:
        is_gated = stage in {"shadow", "champion"}
        put(connection, tables.promotions, PROMOTION, alias=stage, **({} if is_gated else PLAIN))
    for stage in STAGES:
        is_gated = stage in {"shadow", "champion"}
        row = {**({} if is_gated else PLAIN), **HOWS[how], "alias": stage}
        is_legal = may_become(
            present, stage, is_override=how == "override", is_rollback=how == "rollback"
        )
        if how == "rollback" and stage != "champion":
            is_legal = False  # only the champion is rolled back
        trial = connection.begin_nested()
        try:
            put(connection, tables.promotions, PROMOTION, **row)
            is_taken = True
        except IntegrityError:
            is_taken = False
        trial.rollback()
        assert is_taken == is_legal, (present, stage, how)


@pytest.mark.parametrize("stage", ["challenger", "shadow", "champion"])
def test_two_models_never_hold_one_stage(registry: Connection, stage: Stage) -> None:
    other = b"another document"
    other_sha256 = hashlib.sha256(other).hexdigest()
    put(registry, tables.models, MODEL, sha256=other_sha256, document=other, model_version=2)
    put(registry, tables.promotions, PROMOTION, alias="candidate", sha256=other_sha256, **PLAIN)
    put(registry, tables.promotions, PROMOTION, alias="challenger", sha256=other_sha256, **PLAIN)
    if stage == "champion":
        put(registry, tables.promotions, PROMOTION)
    newcomer = {"sha256": other_sha256, "alias": stage}
    if stage == "challenger":
        third = b"a third document"
        newcomer["sha256"] = hashlib.sha256(third).hexdigest()
        put(
            registry, tables.models, MODEL,
            sha256=newcomer["sha256"], document=third, model_version=3,
        )  # fmt: skip
        put(registry, tables.promotions, PROMOTION, **PLAIN, **{**newcomer, "alias": "candidate"})
    changes = PLAIN if stage == "challenger" else OVERRIDE
    with pytest.raises(IntegrityError, match=f"is {stage} already"):
        put(registry, tables.promotions, PROMOTION, **changes, **newcomer)


def test_a_model_under_another_documents_name_is_refused(registry: Connection) -> None:
    with pytest.raises(IntegrityError, match="models_identity_check"):
        put(registry, tables.models, MODEL, model_version=2, sha256="0" * 64)


def test_a_recorded_model_cannot_be_changed(registry: Connection) -> None:
    with pytest.raises(IntegrityError, match="models_identity_check"):
        registry.execute(update(tables.models).values(document=b"{}"))


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"state": "closed", "closed_at": CLOSE}, "pair_positions_flat_check"),
        (
            {"state": "closed", "closed_at": CLOSE, "lots_y": 0},
            "pair_positions_flat_check",
        ),
        ({"state": "closed", "lots_y": 0, "lots_x": 0}, "pair_positions_closed_check"),
        ({"closed_at": CLOSE}, "pair_positions_closed_check"),
        ({"state": "lost"}, "pair_positions_state_check"),
    ],
)
def test_a_position_that_cannot_be_is_refused(
    connection: Connection, changes: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(IntegrityError, match=constraint):
        put(connection, tables.pair_positions, POSITION, **changes)


def test_a_pair_has_one_live_position(connection: Connection) -> None:
    flat = {"state": "closed", "closed_at": CLOSE, "lots_y": 0, "lots_x": 0}
    put(connection, tables.pair_positions, POSITION, position_id="earlier", **flat)
    put(connection, tables.pair_positions, POSITION)
    with pytest.raises(IntegrityError, match="pair_positions_live_idx"):
        put(connection, tables.pair_positions, POSITION, position_id="second")


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"filled_lots": 6}, "orders_filled_check"),
        ({"filled_lots": -1}, "orders_filled_check"),
        ({"filled_lots": 5}, "orders_complete_check"),
        ({"state": "filled"}, "orders_complete_check"),
        ({"quantity_lots": 0, "state": "filled"}, "orders_quantity_check"),
        ({"state": "vanished"}, "orders_state_check"),
    ],
)
def test_an_order_that_cannot_be_is_refused(
    connection: Connection, changes: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(IntegrityError, match=constraint):
        put(connection, tables.orders, ORDER, **changes)


def test_the_same_attempt_at_a_leg_is_made_once(connection: Connection) -> None:
    put(connection, tables.orders, ORDER)
    with pytest.raises(IntegrityError, match="orders_intent_id_leg_attempt_key"):
        put(connection, tables.orders, ORDER, client_order_id="another")


def test_features_of_a_roster_not_yet_screened_are_refused(connection: Connection) -> None:
    connection.execute(insert(tables.feature_sets).values(feature_set="f", names=["z"]))
    put(connection, tables.features, FEATURES, y="GOOD")
    with pytest.raises(IntegrityError, match="features_no_look_ahead_check"):
        put(connection, tables.features, FEATURES, roster_closes_at=CLOSE)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"state": "asleep"}, "trading_states_state_check"),
        ({"state": "active", "is_flattening": True}, "trading_states_flattening_check"),
        ({"reason": ""}, "trading_states_reason_check"),
    ],
)
def test_a_trading_state_that_cannot_be_is_refused(
    connection: Connection, changes: dict[str, Any], constraint: str
) -> None:
    put(connection, tables.trading_states, TRADING_STATE)
    with pytest.raises(IntegrityError, match=constraint):
        put(connection, tables.trading_states, TRADING_STATE, **changes)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"top_k": 0}, "limit_changes_positive_check"),
        ({"gross_cap": -1.0}, "limit_changes_positive_check"),
        ({"reason": ""}, "limit_changes_reason_check"),
    ],
)
def test_limits_that_cannot_be_are_refused(
    connection: Connection, changes: dict[str, Any], constraint: str
) -> None:
    put(connection, tables.limit_changes, LIMITS)
    with pytest.raises(IntegrityError, match=constraint):
        put(connection, tables.limit_changes, LIMITS, **changes)


def test_a_row_without_lineage_is_refused(connection: Connection) -> None:
    with pytest.raises(IntegrityError, match='"source_uri"'):
        connection.execute(insert(tables.bars).values(**BAR, transform_id="test/1"))


# --- a schema of one's own ----------------------------------------------------------------


async def test_a_url_that_names_a_schema_puts_everything_into_it(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    within = f"{database_url}?options=-csearch_path%3Dresearch"
    await asyncio.to_thread(upgrade, within)
    await asyncio.to_thread(upgrade, within)
    settings_in_environment(monkeypatch, tmp_path, within, redis_url)
    async with serving("features") as features:
        assert (await features.get("/status"))["state"] == "running"
    async with recording(within, redis_url) as record:
        await record.put(tables.bars, BAR)
        assert await record.rows("SELECT count(*) FROM research.bars") == [(1,)]
        assert await record.rows("SELECT count(*) FROM public.bars") == [(0,)]
        # What the service wrote of itself is there too.
        assert await record.rows("SELECT count(*) FROM public.consumer_offset") == [(0,)]
        assert await record.rows("SELECT count(*) > 0 FROM research.consumer_offset") == [(True,)]
        named = "SELECT table_schema, count(*) FROM information_schema.tables WHERE table_schema "
        found = await record.rows(named + "IN ('public', 'research') GROUP BY 1 ORDER BY 1")
        assert [schema for schema, _ in found] == ["public", "research"]
        assert found[0][1] == found[1][1]
    with connect(within) as command:
        assert command.execute("SELECT count(*) AS n FROM bars").fetchone() == {"n": 1}


@pytest.mark.parametrize("options", ["-cjit=off", "-csearch_path%3Da%3Bb", "-csearch_path%3DA"])
def test_no_other_option_of_a_url_is_taken(options: str) -> None:
    with pytest.raises(SettingsError, match="only -csearch_path=NAME is known"):
        schema_of(f"postgresql+asyncpg://mnt@127.0.0.1/mnt?options={options}")
