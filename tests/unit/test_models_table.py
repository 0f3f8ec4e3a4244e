from __future__ import annotations

from io import StringIO

from rich.console import Console

from cli.models import models_table


def test_a_person_reads_stage_gates_and_the_reason_of_the_last_decision() -> None:
    gates = [
        {
            "gate": "sharpe_net",
            "value": 0.5,
            "comparison": ">=",
            "threshold": 1.0,
            "verdict": "failed",
        },
        {
            "gate": "shadow_closes",
            "value": None,
            "comparison": ">=",
            "threshold": 8064.0,
            "verdict": "missing",
        },
    ]
    model = {
        "sha256": "ab" * 32,
        "family": "lightgbm",
        "model_version": 3,
        "stage": "champion",
        "n_shadow_closes": 17,
        "promotions": [
            {
                "alias": "champion",
                "from": "2024-03-10T12:00:00Z",
                "override": True,
                "reason": "to see it trade",
                "decided_by": "ann",
                "gates": gates,
            }
        ],
    }
    old = {**model, "family": None, "stage": None, "promotions": []}
    out = StringIO()
    Console(file=out, width=220).print(models_table([model, old]))
    text = out.getvalue()
    assert "abababababab" in text
    assert "sharpe_net 0.5 >= 1 failed" in text
    assert "shadow_closes nothing >= 8064 missing" in text
    assert "to see it trade (override by ann)" in text
    assert "logistic_regression" in text
