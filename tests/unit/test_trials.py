from __future__ import annotations

import numpy as np
import pytest

from shared.errors import DataError
from shared.quant.model_families import Between, OneOf, Parameters, Space
from shared.quant.sharpe_ratio import TrackRecord, deflated_sharpe_ratio, variance_of_luck
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


def luckiest_passes(kind: str, n_trials: int, rng: np.random.Generator) -> bool:
    """Tell whether the best of trials without skill passes the gate of the deflated ratio."""
    n_returns, share = 182, 0.95
    sharpe = rng.normal(size=n_trials)
    if kind == "alike":
        sharpe = share**0.5 * rng.normal() + (1 - share) ** 0.5 * sharpe
    elif kind == "idle":
        sharpe[: int(n_trials * share)] = 0.0
    sharpe /= (n_returns - 1) ** 0.5
    record = TrackRecord(float(sharpe.max()), n_returns)
    return deflated_sharpe_ratio(record, n_trials, variance_of_luck(n_returns)) >= 0.95


@pytest.mark.parametrize("kind", ["independent", "alike", "idle"])
@pytest.mark.parametrize("n_trials", [2, 10, 200])
def test_the_luckiest_of_trials_without_skill_passes_no_more_often_than_one(
    kind: str, n_trials: int
) -> None:
    rng = np.random.default_rng([n_trials, *kind.encode()])
    n_passed = sum(luckiest_passes(kind, n_trials, rng) for _ in range(400))
    # One trial passes in 5 %; a standard error of a share of 400 is 1.1 points.
    assert n_passed / 400 <= 0.05 + 0.022


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
