"""A calibrated model of any family, as it is stored, promoted and traded.

Canonical JSON, and known by the SHA-256 of those bytes. Reading one runs no code of anybody's,
and predicting needs none of the libraries that fitted it.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from shared.errors import ContractError, DataError
from shared.quant.calibration import Calibration, IsotonicCalibration, PlattCalibration
from shared.quant.model_families import Parameter
from shared.quant.scorers import LinearScorer, Scorer, TreeScorer, scorer_of
from shared.quant.typing import Float1D, Float2D
from shared.sleeves.pairs.labels import LabelSettings

if TYPE_CHECKING:  # it imports scipy.stats, which a service that only predicts need not pay
    from shared.quant.model_validation import CalibratedModel

_EDGE = 1e-6
"""As in `shared.quant.calibration`."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel, frozen=True, extra="forbid", strict=True):
    pass


class _Linear(_Part):
    kind: Literal["linear"] = "linear"
    mean: tuple[_Finite, ...]
    scale: tuple[_Finite, ...]
    coefficients: tuple[_Finite, ...]
    intercept: _Finite


class _Trees(_Part):
    kind: Literal["trees"] = "trees"
    n_features: int
    roots: tuple[int, ...]
    feature: tuple[int, ...]
    threshold: tuple[_Finite, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[_Finite, ...]
    baseline: _Finite
    divisor: _Finite
    link: Literal["log_odds", "probability"]
    is_single_precision: bool


class _Platt(_Part):
    kind: Literal["platt"] = "platt"
    slope: _Finite
    intercept: _Finite


class _Isotonic(_Part):
    kind: Literal["isotonic"] = "isotonic"
    thresholds: tuple[_Finite, ...]
    values: tuple[_Finite, ...]


class _Document(_Part):
    """A stored model, field by field."""

    kind: Literal["calibrated_family"] = "calibrated_family"
    version: Literal[1] = 1
    family: str
    parameters: dict[str, Parameter]
    seed: int
    feature_names: tuple[str, ...]
    scorer: Annotated[_Linear | _Trees, Field(discriminator="kind")]
    calibration: Annotated[_Platt | _Isotonic, Field(discriminator="kind")]
    label: LabelSettings
    trained_from_ms: int
    trained_to_ms: int
    n_samples: int

    def to_bytes(self) -> bytes:
        document = self.model_dump(mode="json")
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True)
class StoredModel:
    """A calibrated model of a family, as nothing but numbers.

    Attributes
    ----------
    family, parameters, seed
        What it is and how it was fitted.
    feature_names
        The features it reads, in the order of the scorer's.
    scorer
        What the library learnt.
    calibration
        What turns its probabilities into ones that mean what they say.
    label
        The question it answers.
    trained_from_ms, trained_to_ms
        Closes of the first and last bar it was trained on, in milliseconds since 1970.
    n_samples
        Rows it was trained on.

    Raises
    ------
    DataError
        If names and scorer do not fit, a name repeats, the calibration's curve does not rise,
        the number of samples is not positive or the training period ends before it starts.
    """

    family: str
    parameters: Mapping[str, Parameter]
    seed: int
    feature_names: tuple[str, ...]
    scorer: Scorer
    calibration: Calibration
    label: LabelSettings
    trained_from_ms: int
    trained_to_ms: int
    n_samples: int

    def __post_init__(self) -> None:
        n_features = len(self.feature_names)
        if n_features != self.scorer.n_features or len(set(self.feature_names)) != n_features:
            raise DataError(
                f"model of {self.scorer.n_features} features has the names "
                f"{', '.join(self.feature_names)}: name each feature once"
            )
        if self.n_samples <= 0 or self.trained_to_ms < self.trained_from_ms:
            raise DataError(
                f"model of {self.n_samples} samples from {self.trained_from_ms} to "
                f"{self.trained_to_ms} ms: give at least one sample and a period in order"
            )
        if isinstance(self.calibration, IsotonicCalibration):
            corners = self.calibration.thresholds, self.calibration.values
            if (
                len(corners[0]) != len(corners[1])
                or not corners[0]
                or list(corners[0]) != sorted(corners[0])
            ):
                raise DataError(
                    f"calibration of {len(corners[0])} thresholds and {len(corners[1])} values: "
                    "give a value for each of ascending thresholds"
                )

    @classmethod
    def of(
        cls,
        fitted: CalibratedModel,
        feature_names: Sequence[str],
        *,
        label: LabelSettings,
        trained_from_ms: int,
        trained_to_ms: int,
        n_samples: int,
    ) -> StoredModel:
        """Take a calibrated model apart.

        Parameters
        ----------
        fitted
            The model and its calibration.
        feature_names, label, trained_from_ms, trained_to_ms, n_samples
            What it was fitted on.

        Raises
        ------
        DataError
            If its family has no stored form.
        """
        model = fitted.model
        return cls(
            family=model.family.name,
            parameters=dict(model.parameters),
            seed=model.seed,
            feature_names=tuple(feature_names),
            scorer=scorer_of(model),
            calibration=fitted.calibration,
            label=label,
            trained_from_ms=trained_from_ms,
            trained_to_ms=trained_to_ms,
            n_samples=n_samples,
        )

    @classmethod
    def from_json_bytes(cls, data: bytes) -> StoredModel:
        """Read a stored model.

        Raises
        ------
        ContractError
            If the bytes are not the canonical form of a sound model of a known version.
        """
        try:
            document = _Document.model_validate_json(data)
            if document.to_bytes() != data:
                raise ContractError(
                    "model document is not in canonical form, so its hash would not be its "
                    "identity: store the bytes of to_json_bytes unchanged"
                )
            own = {name: getattr(document, name) for name in _OWN}
            own["scorer"] = _scorer(document.scorer)
            own["calibration"] = _calibration(document.calibration)
            return cls(**own)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"])) or "document"
            raise ContractError(
                f"model document: {where}: {fault['msg']}; store the bytes of to_json_bytes"
            ) from error
        except DataError as error:
            raise ContractError(f"model document: {error}") from error

    def to_json_bytes(self) -> bytes:
        """Return the canonical form: sorted keys, no spaces, shortest exact decimals."""
        own: dict[str, Any] = {name: getattr(self, name) for name in _OWN}
        scorer = _Linear if isinstance(self.scorer, LinearScorer) else _Trees
        calibration = _Platt if isinstance(self.calibration, PlattCalibration) else _Isotonic
        own["scorer"] = scorer(**asdict(self.scorer))
        own["calibration"] = calibration(**asdict(self.calibration))
        return _Document(**own).to_bytes()

    @cached_property
    def sha256(self) -> str:
        """The model's identity: the SHA-256 of its canonical form, in hex."""
        return hashlib.sha256(self.to_json_bytes()).hexdigest()

    def predict_probability(self, features: Float2D) -> Float1D:
        """Return the calibrated probability of label 1 for every row.

        Parameters
        ----------
        features : ndarray of float64, shape (n, k)
            In the order of `feature_names`.

        Raises
        ------
        DataError
            If the shape is not (n, k) or a score is NaN.
        """
        if features.ndim != 2 or features.shape[1] != len(self.feature_names):
            raise DataError(
                f"features of shape {features.shape}: give one column for each of the model's "
                f"{len(self.feature_names)} features"
            )
        scores = self.scorer.score_rows(features).tolist()
        return np.array([self._probability(score) for score in scores], dtype=np.float64)

    def probability_of_row(self, names: Sequence[str], values: Sequence[float]) -> float:
        """Return the probability of label 1 of one row, as `predict_probability` gives it.

        Parameters
        ----------
        names, values
            A feature row; it may carry more features than the model reads, in any order.

        Raises
        ------
        ContractError
            If the row lacks a feature.
        DataError
            If the score is NaN.
        """
        if tuple(names) != self.feature_names:
            values = [values[place] for place in self.places_in(names)]
        return self._probability(self.scorer.score_row(values))

    def places_in(self, names: Sequence[str]) -> list[int]:
        """Return where the model's features stand among others.

        Raises
        ------
        ContractError
            If one is missing.
        """
        place_of = {name: place for place, name in enumerate(names)}
        missing = [name for name in self.feature_names if name not in place_of]
        if missing:
            raise ContractError(
                f"model {self.sha256[:12]} needs {', '.join(missing)}, which the features lack: "
                "restore the feature settings it was trained with or train anew"
            )
        return [place_of[name] for name in self.feature_names]

    def _probability(self, score: float) -> float:
        # Scalars throughout: vectorised exponentials may differ from them in the last bit.
        if self.scorer.link == "log_odds":
            score = _probability_of_log_odds(score)
        if isinstance(self.calibration, PlattCalibration):
            clipped = min(max(score, _EDGE), 1 - _EDGE)
            log_odds = math.log(clipped / (1 - clipped))
            return _probability_of_log_odds(
                self.calibration.slope * log_odds + self.calibration.intercept
            )
        return _interpolated(score, self.calibration)


_OWN = tuple(name for name in _Document.model_fields if name not in {"kind", "version"})


def _probability_of_log_odds(score: float) -> float:
    """Return 1 / (1 + exp(-score)), without overflow.

    Raises
    ------
    DataError
        If the score is NaN.
    """
    # One scalar function for one row and for many: vectorised exponentials may differ from it
    # in the last bit.
    if math.isnan(score):
        raise DataError("score of the model is NaN: give finite features")
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    odds = math.exp(score)
    return odds / (1 + odds)


def _scorer(part: _Linear | _Trees) -> Scorer:
    fields = part.model_dump(exclude={"kind"})
    return LinearScorer(**fields) if isinstance(part, _Linear) else TreeScorer(**fields)


def _calibration(part: _Platt | _Isotonic) -> Calibration:
    fields = part.model_dump(exclude={"kind"})
    return PlattCalibration(**fields) if isinstance(part, _Platt) else IsotonicCalibration(**fields)


def _interpolated(probability: float, curve: IsotonicCalibration) -> float:
    """Return the curve's value at a probability; flat beyond its ends."""
    if math.isnan(probability):
        raise DataError("score of the model is NaN: give finite features")
    after = bisect_right(curve.thresholds, probability)
    if after == 0:
        return curve.values[0]
    if after == len(curve.thresholds):
        return curve.values[-1]
    low, high = curve.thresholds[after - 1], curve.thresholds[after]
    share = (probability - low) / (high - low)
    return curve.values[after - 1] + share * (curve.values[after] - curve.values[after - 1])
