"""What was tried: the search for parameters, and the ledger that no trial escapes.

The deflated Sharpe ratio is only as honest as the count of trials behind it. Whatever is
evaluated on a history is a trial, whether it was searched by a machine or by hand, and whether
it was kept or not.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from shared.errors import DataError
from shared.quant.model_families import Between, Parameters, Space


@dataclass(frozen=True, slots=True)
class Outcome:
    """What evaluating a trial gave.

    Attributes
    ----------
    loss
        What the search makes small, such as the mean log loss out of sample; `None` where the
        trial gave no value.
    sharpe_ratio
        Per period, of the trial's returns out of sample, where it has any.
    """

    loss: float | None
    sharpe_ratio: float | None = None


@dataclass(frozen=True)
class Trial:
    """One evaluation of one choice on one history.

    Attributes
    ----------
    subject
        What was tried, such as the name of a model family.
    parameters
        With which choice.
    dataset_id
        On which history.
    outcome
        With what result.
    """

    subject: str
    parameters: Parameters
    dataset_id: str
    outcome: Outcome

    @property
    def trial_id(self) -> str:
        """The sha256 of what was tried: the same trial again is the same trial."""
        document = [self.subject, dict(self.parameters), self.dataset_id]
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


class TrialLedger:
    """An append-only record of trials, in the order in which they were made.

    Parameters
    ----------
    trials
        Of earlier cycles.
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self._trials: dict[str, Trial] = {}
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> bool:
        """Record a trial; False where it is recorded already, so that no repeat counts twice."""
        if trial.trial_id in self._trials:
            return False
        self._trials[trial.trial_id] = trial
        return True

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial, the oldest first."""
        return tuple(self._trials.values())

    @property
    def n_trials(self) -> int:
        """How many were made, those that failed included."""
        return len(self._trials)


def search_parameters(
    subject: str,
    space: Space,
    defaults: Parameters,
    evaluate: Callable[[Parameters], Outcome],
    *,
    dataset_id: str,
    n_trials: int,
    seed: int,
    ledger: TrialLedger,
) -> Trial:
    """Search for the parameters of the smallest loss, every trial on the ledger.

    Parameters
    ----------
    subject, dataset_id
        Of the trials.
    space
        What may be chosen.
    defaults
        The first trial.
    evaluate
        Tries a choice, out of sample.
    n_trials
        Trials to make, the defaults included.
    seed
        Of the search: the same seed and outcomes give the same trials.
    ledger
        Each trial is added to it as soon as it is made, so that a search cut short is counted.

    Returns
    -------
    Trial
        The best one, the earlier of equals.

    Raises
    ------
    DataError
        If no trials are asked for, or none gave a loss.

    References
    ----------
    Akiba, T. et al. (2019), "Optuna: a next-generation hyperparameter optimization framework",
    KDD; its sampler is the tree-structured Parzen estimator.
    """
    import optuna

    if n_trials < 1:
        raise DataError(f"{n_trials} trials: ask for at least one")
    # It prints to stderr by a handler of its own; what is worth telling is on the ledger.
    optuna.logging.disable_default_handler()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(dict(defaults), skip_if_exists=True)
    distributions = {name: _distribution(choice) for name, choice in space.items()}
    best: Trial | None = None
    smallest = math.inf
    for _ in range(n_trials):
        asked = study.ask(distributions)
        outcome = evaluate(asked.params)
        trial = Trial(subject, asked.params, dataset_id, outcome)
        ledger.add(trial)
        if outcome.loss is None or not math.isfinite(outcome.loss):
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
            continue
        study.tell(asked, outcome.loss)
        if outcome.loss < smallest:
            best, smallest = trial, outcome.loss
    if best is None:
        raise DataError(
            f"none of {n_trials} trials of {subject} gave a loss: look at the ledger, and give "
            "folds with both labels"
        )
    return best


def _distribution(choice: Any) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(choice, Between):
        return CategoricalDistribution(choice.values)
    if isinstance(choice.low, int) and isinstance(choice.high, int):
        return IntDistribution(choice.low, choice.high, log=choice.is_log)
    return FloatDistribution(choice.low, choice.high, log=choice.is_log)
