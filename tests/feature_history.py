"""Features of closes, as the features service would record and publish them."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from services.features.store import COLUMNS
from shared.columns import columns_of
from shared.database.tables import feature_sets, features
from shared.events.features import FeatureRow, FeaturesComputed
from shared.sleeves.pairs.features import FeatureSettings, feature_names
from tests.serving import Record

NOON = datetime.fromisoformat("2024-03-10T12:00:00+00:00")
NAMES = feature_names(FeatureSettings())
N_SPREAD = 1 + max(
    NAMES.index(name)
    for name in ("alpha", "beta", "spread", "spread_mean", "spread_std", "z_score")
)
"""Features up to here make the rule and the labels; what comes after only the model reads."""


def at(number: int) -> datetime:
    return NOON + timedelta(minutes=5 * number)


def computed(number: int, rng: np.random.Generator, *z_scores: float) -> FeaturesComputed:
    """Return the features of a close; every close has pairs of its own, none in cool-down."""
    rows = []
    for place, z_score in enumerate(z_scores):
        values = dict(zip(NAMES, rng.normal(size=len(NAMES)).tolist(), strict=True))
        values |= {"beta": 1.0, "alpha": 0.0, "z_score": z_score, "spread": 0.01 * z_score}
        values |= {"spread_mean": 0.0, "spread_std": 0.01}
        rows.append(
            FeatureRow(
                y=f"Y{number}{'abc'[place]}/USDT",
                x="X/USDT",
                status="active",
                close_y=float(np.exp(0.01 * z_score)),
                close_x=1.0,
                values=tuple(values[name] for name in NAMES),
            )
        )
    return FeaturesComputed(
        closes_at=at(number),
        timeframe="5m",
        roster_closes_at=at(-12),
        feature_names=NAMES,
        **columns_of(FeatureRow._fields, rows),
        warming_up=(),
    )


async def publish_history(
    record: Record, numbers: range, shift: float = 0.0, y: str = "S/USDT"
) -> None:
    """Record and publish features of one pair whose spread swings, for the trainer to learn.

    `shift` moves every feature that is neither price nor spread.
    """
    rng = np.random.default_rng(numbers.start)
    await record.put(feature_sets, {"feature_set": "swings", "names": list(NAMES)})
    for number in numbers:
        z_score = 2.5 * float(np.sin(number * (1 + 0.2 * np.sin(number / 9))))
        event = computed(number, rng, z_score)
        values = (*event.rows[0].values[:N_SPREAD], *(
            value + shift for value in event.rows[0].values[N_SPREAD:]
        ))  # fmt: skip
        event = event.model_copy(update={"y": (y,), "values": (values,)})
        await record.put(
            features,
            {
                "closes_at": event.closes_at,
                **dict(zip(COLUMNS, event.rows[0], strict=True)),
                "roster_closes_at": event.roster_closes_at,
                "feature_set": "swings",
            },
        )
        await record.publish("features.computed", event)
