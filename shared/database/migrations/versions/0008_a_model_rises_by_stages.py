"""A model rises by stages, each promotion with its gates; trials, shadows and tripwires."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Which stage may follow which by itself; a person may lift a model to shadow or champion from
# anywhere, and a rollback brings a retired champion back. Both are marked as what they are.
STAGES = """
CREATE FUNCTION promotions_stage() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    present text;
    holder text;
    gate jsonb;
BEGIN
    IF NEW.sha256 IS NULL THEN
        RETURN NEW;
    END IF;
    SELECT alias INTO present FROM promotions WHERE sha256 = NEW.sha256
        ORDER BY promotion_id DESC LIMIT 1;
    present := coalesce(present, 'new');
    IF NOT (
        (present || '>' || NEW.alias) IN (
            'new>candidate', 'candidate>challenger', 'challenger>shadow', 'shadow>champion',
            'candidate>retired', 'challenger>retired', 'shadow>retired', 'champion>retired')
        OR (NEW.is_override AND present <> 'new' AND NEW.alias IN ('shadow', 'champion')
            AND NOT (present = 'champion' AND NEW.alias = 'shadow'))
        OR (NEW.is_rollback AND present = 'retired' AND NEW.alias = 'champion')
    ) THEN
        RAISE EXCEPTION 'model % is % and cannot become %: promote it stage by stage, or override',
            left(NEW.sha256, 12), present, NEW.alias
            USING ERRCODE = 'check_violation', CONSTRAINT = 'promotions_stage';
    END IF;
    IF NEW.alias IN ('challenger', 'shadow', 'champion') THEN
        SELECT p.sha256 INTO holder FROM promotions p
            WHERE p.name = NEW.name AND p.alias = NEW.alias AND p.sha256 <> NEW.sha256
              AND p.promotion_id = (SELECT max(q.promotion_id) FROM promotions q
                                    WHERE q.sha256 = p.sha256)
            LIMIT 1;
        IF holder IS NOT NULL THEN
            RAISE EXCEPTION 'model % is % already: retire it before % takes its place',
                left(holder, 12), NEW.alias, left(NEW.sha256, 12)
                USING ERRCODE = 'check_violation', CONSTRAINT = 'promotions_stage';
        END IF;
    END IF;
    FOR gate IN SELECT * FROM jsonb_array_elements(NEW.gates) LOOP
        IF gate->>'verdict' = 'passed' AND NOT coalesce(CASE gate->>'comparison'
            WHEN '>=' THEN (gate->>'value')::float8 >= (gate->>'threshold')::float8
            WHEN '<=' THEN (gate->>'value')::float8 <= (gate->>'threshold')::float8
            WHEN '>' THEN (gate->>'value')::float8 > (gate->>'threshold')::float8
        END, false) THEN
            RAISE EXCEPTION 'gate % of model % is not passed by its own numbers: judge it anew',
                gate->>'gate', left(NEW.sha256, 12)
                USING ERRCODE = 'check_violation', CONSTRAINT = 'promotions_stage';
        END IF;
    END LOOP;
    RETURN NEW;
END $$
"""

_BACKTEST = (
    "out_of_sample",
    "sharpe_net",
    "max_drawdown",
    "deflated_sharpe",
    "overfitting_probability",
    "sharpe_over_z_rule",
)
_SHADOW = ("shadow_closes", "shadow_excess_return")


def _passed(*gates: str) -> str:
    elements = ", ".join(f'{{"gate": "{gate}", "verdict": "passed"}}' for gate in gates)
    return f"gates @> '[{elements}]'::jsonb"


def _lineage() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column(
            "ingested_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
    )


def upgrade() -> None:
    op.add_column(
        "promotions",
        sa.Column("gates", JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
    )
    op.add_column("promotions", sa.Column("reason", sa.Text()))
    for name in ("alias", "gates", "rollback"):
        op.drop_constraint(op.f(f"promotions_{name}_check"), "promotions")
    # Promotions of before had no gates at all: every one was an override or a challenger.
    op.execute(
        "UPDATE promotions SET gates_passed = false, is_override = true, "
        "override_reason = coalesce(override_reason, 'promoted before gates were recorded') "
        "WHERE gates_passed"
    )
    op.create_check_constraint(
        op.f("promotions_alias_check"),
        "promotions",
        "alias IN ('candidate', 'challenger', 'shadow', 'champion', 'retired')",
    )
    op.create_check_constraint(
        op.f("promotions_gates_check"),
        "promotions",
        "alias NOT IN ('shadow', 'champion') OR gates_passed OR (is_override AND mode = 'paper') "
        "OR is_rollback",
    )
    op.create_check_constraint(
        op.f("promotions_evidence_check"),
        "promotions",
        f"NOT gates_passed OR (alias = 'shadow' AND {_passed(*_BACKTEST)}) "
        f"OR (alias = 'champion' AND {_passed(*_BACKTEST, *_SHADOW)})",
    )
    op.create_check_constraint(
        op.f("promotions_rollback_check"),
        "promotions",
        "NOT is_rollback OR (alias = 'champion' AND length(coalesce(override_reason, reason, '')) "
        "> 0)",
    )
    op.create_index(
        op.f("promotions_sha256_promotion_id_idx"), "promotions", ["sha256", "promotion_id"]
    )
    # Whoever was champion and is no longer has been retired since.
    op.execute(
        """
        INSERT INTO promotions (name, alias, sha256, from_closes_at, mode, gates_passed,
                                is_override, reason, decided_by, source_uri, transform_id)
        SELECT name, 'retired', sha256, from_closes_at, mode, false, false,
               'no longer the newest of its alias', 'migration', source_uri, transform_id
        FROM promotions p
        WHERE sha256 IS NOT NULL
          AND promotion_id = (SELECT max(promotion_id) FROM promotions q
                              WHERE q.sha256 = p.sha256)
          AND promotion_id < (SELECT max(promotion_id) FROM promotions q
                              WHERE q.name = p.name AND q.alias = p.alias)
        """
    )
    op.execute(STAGES)
    op.execute(
        "CREATE TRIGGER promotions_stage BEFORE INSERT ON promotions "
        "FOR EACH ROW EXECUTE FUNCTION promotions_stage()"
    )
    op.create_table(
        "trials",
        sa.Column("trial_id", sa.Text(), nullable=False),
        sa.Column("made", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("parameters", JSONB(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("loss", sa.Double()),
        sa.Column("sharpe_ratio", sa.Double()),
        *_lineage(),
        sa.PrimaryKeyConstraint("trial_id", name=op.f("trials_pkey")),
    )
    op.create_table(
        "model_evidence",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("measured_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("evidence", JSONB(), nullable=False),
        *_lineage(),
        sa.PrimaryKeyConstraint("sha256", name=op.f("model_evidence_pkey")),
        sa.ForeignKeyConstraint(
            ["sha256"], ["models.sha256"], name=op.f("model_evidence_sha256_fkey")
        ),
    )
    op.create_table(
        "shadow_closes",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("n_rows", sa.Integer(), nullable=False),
        sa.Column("signals", JSONB(), nullable=False),
        sa.Column("trades", JSONB(), nullable=False),
        *_lineage(),
        sa.PrimaryKeyConstraint("sha256", "closes_at", name=op.f("shadow_closes_pkey")),
        sa.ForeignKeyConstraint(
            ["sha256"], ["models.sha256"], name=op.f("shadow_closes_sha256_fkey")
        ),
        sa.CheckConstraint("n_rows >= 0", name=op.f("shadow_closes_rows_check")),
    )
    op.create_table(
        "drift_checks",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("features", JSONB(), nullable=False),
        sa.Column("calibration_gap", sa.Double()),
        sa.Column("is_tripped", sa.Boolean(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("reasons", JSONB(), nullable=False),
        *_lineage(),
        sa.PrimaryKeyConstraint("sha256", "closes_at", name=op.f("drift_checks_pkey")),
        sa.ForeignKeyConstraint(
            ["sha256"], ["models.sha256"], name=op.f("drift_checks_sha256_fkey")
        ),
        sa.CheckConstraint(
            "is_tripped = (jsonb_array_length(reasons) > 0)",
            name=op.f("drift_checks_reasons_check"),
        ),
    )
