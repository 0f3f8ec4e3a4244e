from __future__ import annotations

import numpy as np
import pytest

from shared.errors import DataError
from shared.quant.model_families import Between, OneOf, Parameters, Space
from shared.quant.trials import Outcome, Trial, TrialLedger, search_parameters

SPACE: Space = {
    "x": Between(-4.0, 4.0),
    "n": Between(1, 100, is_log=True),
    "kind": OneOf(("a", "b")),
}
DEFAULTS: Parameters = {"x": -3.0, "n": 50, "kind": "a"}


def bowl(parameters: Parameters) -> Outcome:
    x, n = float(parameters["x"]), float(parameters["n"])
    return Outcome((x - 1) ** 2 + (parameters["kind"] == "a") + n / 1000, sharpe_ratio=x)


def search(ledger: TrialLedger, n_trials: int = 40, seed: int = 1) -> Trial:
    return search_parameters(
        "bowl",
        SPACE,
        DEFAULTS,
        bowl,
        dataset_id="d",
        n_trials=n_trials,
        seed=seed,
        ledger=ledger,
    )


def test_a_search_finds_the_bottom_and_every_trial_is_on_the_ledger() -> None:
    ledger = TrialLedger()
    best = search(ledger)
    assert best.parameters["kind"] == "b"
    assert float(best.parameters["x"]) == pytest.approx(1, abs=0.4)
    assert ledger.n_trials == 40
    assert ledger.trials[0].parameters == DEFAULTS
    losses = [trial.outcome.loss for trial in ledger.trials if trial.outcome.loss is not None]
    assert best.outcome.loss == min(losses)
    for trial in ledger.trials:
        assert -4 <= float(trial.parameters["x"]) <= 4
        assert isinstance(trial.parameters["n"], int)


def test_the_same_seed_makes_the_same_trials_and_they_count_once() -> None:
    ledger, other = TrialLedger(), TrialLedger()
    search(ledger)
    search(other)
    assert ledger.trials == other.trials
    search(ledger)
    assert ledger.n_trials == 40
    search(ledger, seed=2)
    assert ledger.n_trials == 79  # both searches begin with the defaults


def test_a_trial_is_counted_though_it_fails_or_the_search_is_cut_short() -> None:
    ledger = TrialLedger()

    def evaluate(parameters: Parameters) -> Outcome:
        if ledger.n_trials == 5:
            raise KeyboardInterrupt
        return Outcome(None if ledger.n_trials % 2 else float(parameters["x"]))

    with pytest.raises(KeyboardInterrupt):
        search_parameters(
            "s", SPACE, DEFAULTS, evaluate, dataset_id="d", n_trials=9, seed=1, ledger=ledger
        )
    assert ledger.n_trials == 5


def test_the_same_choice_on_other_data_or_of_another_family_is_another_trial() -> None:
    trials = [
        Trial(subject, {"x": x}, dataset_id, Outcome(0.0))
        for subject in "fg"
        for x in (1, 2)
        for dataset_id in "de"
    ]
    ledger = TrialLedger(trials)
    assert ledger.n_trials == 8
    assert not ledger.add(Trial("f", {"x": 1}, "d", Outcome(5.0)))
    assert ledger.trials == tuple(trials)  # what was recorded first stays
    assert TrialLedger(ledger.trials).trials == ledger.trials


def test_the_order_of_parameters_is_no_other_trial() -> None:
    one, other = ({"a": 1, "b": 2.5}, {"b": 2.5, "a": 1})
    assert (
        Trial("s", one, "d", Outcome(0.0)).trial_id == Trial("s", other, "d", Outcome(0.0)).trial_id
    )


def test_the_variance_is_that_of_the_trials_or_of_luck_where_none_is_known() -> None:
    def ledger_of(*sharpe_ratios: float | None) -> TrialLedger:
        return TrialLedger(
            Trial("s", {"n": n}, "d", Outcome(0.0, sharpe))
            for n, sharpe in enumerate(sharpe_ratios)
        )

    known = ledger_of(0.1, None, 0.3, 0.2)
    assert known.variance_of_sharpe_ratios(100) == pytest.approx(np.var([0.1, 0.3, 0.2], ddof=1))
    assert ledger_of(0.1, None).variance_of_sharpe_ratios(101) == pytest.approx(0.01)
    with pytest.raises(DataError, match="1 returns"):
        known.variance_of_sharpe_ratios(1)


def test_a_search_without_a_result_is_refused() -> None:
    with pytest.raises(DataError, match="0 trials"):
        search(TrialLedger(), n_trials=0)
    with pytest.raises(DataError, match="none of 3 trials"):
        search_parameters(
            "s",
            SPACE,
            DEFAULTS,
            lambda _: Outcome(float("nan")),
            dataset_id="d",
            n_trials=3,
            seed=1,
            ledger=TrialLedger(),
        )
