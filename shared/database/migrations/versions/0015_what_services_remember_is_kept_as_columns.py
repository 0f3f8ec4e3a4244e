"""What signals and the portfolio remember is kept as columns: half the bytes of a close.

A list of objects repeats every name for every pair; an object of lists has it once.
"""

from __future__ import annotations

from collections.abc import Mapping

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_TRADES = {
    "y": "text",
    "x": "text",
    "side": "smallint",
    "entered_at_ms": "bigint",
    "hedge_ratio": "double precision",
    "intercept": "double precision",
    "spread_mean": "double precision",
    "spread_std": "double precision",
    "last_close_y": "double precision",
    "last_close_x": "double precision",
    "bars_held": "integer",
    "missing_closes": "integer",
    "cooldown_left": "integer",
    "model_sha256": "text",
}
_TARGETS = {
    "y": "text",
    "x": "text",
    "position_id": "text",
    "notional_y_e8": "bigint",
    "notional_x_e8": "bigint",
    "is_closing": "boolean",
}
_VIEWS = (
    ("pair_trades", "rule_memory", "trades", _TRADES),
    ("live_targets", "slot_memory", "targets", _TARGETS),
)
_MEMORIES = (
    ("rule_memory", "trades", "json"),
    ("slot_memory", "targets", "json"),
    ("shadow_closes", "trades", "jsonb"),
)


def upgrade() -> None:
    for table, column, kind in _MEMORIES:
        op.execute(
            f"""
            UPDATE {table} SET {column} = (
                SELECT coalesce({kind}_object_agg(name, entries), '{{}}') FROM (
                    SELECT field.key AS name, {kind}_agg(field.value ORDER BY place) AS entries
                    FROM {kind}_array_elements({table}.{column}) WITH ORDINALITY
                           AS listed (entry, place),
                         {kind}_each(listed.entry) AS field
                    GROUP BY field.key
                ) AS columns
            )
            """  # noqa: S608 - text of this file
        )
    for view, table, column, types in _VIEWS:
        kept = ", ".join(f"{name} {kind}[]" for name, kind in types.items())
        entries = ", ".join(f"kept.{name}" for name in types)
        op.execute(
            f"""
            CREATE OR REPLACE VIEW {view} AS
            SELECT {_shown(types)} FROM {table}, json_to_record({column}) AS kept ({kept}),
                   LATERAL unnest({entries}) AS entry ({", ".join(types)})
            """  # noqa: S608 - text of this file
        )


def downgrade() -> None:
    for table, column, kind in _MEMORIES:
        op.execute(
            f"""
            UPDATE {table} SET {column} = (
                SELECT coalesce({kind}_agg(entry ORDER BY place), '[]') FROM (
                    SELECT place, {kind}_object_agg(field.key, listed.value) AS entry
                    FROM {kind}_each({table}.{column}) AS field,
                         {kind}_array_elements(field.value) WITH ORDINALITY
                           AS listed (value, place)
                    GROUP BY place
                ) AS entries
            )
            """  # noqa: S608 - text of this file
        )
    for view, table, column, types in _VIEWS:
        kept = ", ".join(f"{name} {kind}" for name, kind in types.items())
        op.execute(
            f"""
            CREATE OR REPLACE VIEW {view} AS
            SELECT {_shown(types)} FROM {table}, json_to_recordset({column}) AS entry ({kept})
            """  # noqa: S608 - text of this file
        )


def _shown(types: Mapping[str, str]) -> str:
    shown = {name: f"entry.{name}" for name in types}
    if "entered_at_ms" in shown:
        shown["entered_at_ms"] = "to_timestamp(entry.entered_at_ms / 1000.0) AS entered_at"
    return ", ".join(shown.values())
