"""Fitted models as nothing but numbers, and the arithmetic that scores with them.

A library's estimator is taken apart once, after the fit. What remains can be stored as data,
needs no library to score with, and gives the same bits for one row as for many.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.quant.compiled import compiled, interpreted
from shared.quant.model_families import FittedModel
from shared.quant.typing import Float1D, Float2D, Int1D

Link = Literal["log_odds", "probability"]

_LEAF = -1

_Node = TypeVar("_Node")


@dataclass(frozen=True)
class LinearScorer:
    """A weighted sum of standardised features.

    Attributes
    ----------
    mean, scale
        Each feature is standardised as (value - mean) / scale.
    coefficients, intercept
        Of the standardised features.

    Raises
    ------
    DataError
        If the lengths differ, a number is not finite or a scale not positive.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float

    link = "log_odds"

    def __post_init__(self) -> None:
        lengths = {len(self.mean), len(self.scale), len(self.coefficients)}
        numbers = (*self.mean, *self.scale, *self.coefficients, self.intercept)
        if len(lengths) > 1 or not self.mean or not all(map(math.isfinite, numbers)):
            raise DataError(
                f"linear model of {len(self.mean)} means, {len(self.scale)} scales and "
                f"{len(self.coefficients)} coefficients: give one finite number of each for "
                "every feature"
            )
        if min(self.scale) <= 0:
            raise DataError(f"linear model has the scale {min(self.scale)}: fit it anew")

    @property
    def n_features(self) -> int:
        """Features it reads."""
        return len(self.mean)

    def score_rows(self, features: Float2D) -> Float1D:
        """Return the score of every row; features of shape (n, k)."""
        score = np.full(len(features), self.intercept)
        for column, (mean, scale, coefficient) in enumerate(self._numbers()):
            score += coefficient * ((features[:, column] - mean) / scale)
        return score

    def score_row(self, values: Sequence[float]) -> float:
        """Return the score of one row, as `score_rows` gives it."""
        score = self.intercept
        for value, (mean, scale, coefficient) in zip(values, self._numbers(), strict=True):
            score += coefficient * ((value - mean) / scale)
        return score

    def _numbers(self) -> Iterator[tuple[float, float, float]]:
        return zip(self.mean, self.scale, self.coefficients, strict=True)


class _Nodes(NamedTuple):
    roots: Any
    feature: Any
    threshold: Any
    left: Any
    right: Any
    value: Any


@dataclass(frozen=True)
class TreeScorer:
    """Trees whose leaves are added up: a forest or a boosted ensemble.

    Attributes
    ----------
    n_features
        Features it reads.
    roots
        Node at which each tree begins, in the order of the sum.
    feature
        The feature a node asks for; -1 in a leaf.
    threshold
        A row goes left where its value is at most this, else right.
    left, right
        The nodes it goes to; both come after the node that asks.
    value
        What a leaf adds.
    baseline, divisor
        The score is (baseline + sum of leaves) / divisor.
    link
        Whether the score is a probability or its log-odds.
    is_single_precision
        Whether values are rounded to 32 bits before they are compared, as scikit-learn's
        forests, XGBoost and CatBoost do.

    Raises
    ------
    DataError
        If the columns differ in length, a node leads backwards or out of the table, so that a
        row might never arrive, a feature does not exist or a number is not finite.
    """

    n_features: int
    roots: tuple[int, ...]
    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]
    baseline: float
    divisor: float
    link: Link
    is_single_precision: bool

    def __post_init__(self) -> None:
        columns = (self.feature, self.threshold, self.left, self.right, self.value)
        n_nodes = len(self.feature)
        if not self.roots or {len(column) for column in columns} != {n_nodes}:
            raise DataError(
                f"{len(self.roots)} trees with columns of {[len(column) for column in columns]} "
                "nodes: give at least one tree and one of each for every node"
            )
        nodes = self._columns
        numbers = (*self.threshold, *self.value, self.baseline, self.divisor)
        place = np.arange(n_nodes)
        asks = nodes.feature != _LEAF
        is_sound = (
            np.isfinite(numbers).all()
            and self.divisor > 0
            and ((nodes.roots >= 0) & (nodes.roots < n_nodes)).all()
            and ((nodes.feature >= _LEAF) & (nodes.feature < self.n_features)).all()
            and all(
                ((side[asks] > place[asks]) & (side[asks] < n_nodes)).all()
                for side in (nodes.left, nodes.right)
            )
        )
        if not is_sound:
            raise DataError(
                f"{len(self.roots)} trees of {n_nodes} nodes: a node leads backwards or nowhere, "
                "a feature does not exist or a number is not finite; fit the model anew"
            )

    def score_rows(self, features: Float2D) -> Float1D:
        """Return the score of every row; features of shape (n, k)."""
        if self.is_single_precision:
            features = features.astype(np.float32).astype(np.float64)
        return _scores(np.ascontiguousarray(features), self._columns, self.baseline, self.divisor)

    def score_row(self, values: Sequence[float]) -> float:
        """Return the score of one row, as `score_rows` gives it."""
        if self.is_single_precision:
            values = [float(np.float32(value)) for value in values]
        leaves = interpreted(_sum_of_leaves)(values, self._own, self.baseline)
        return leaves / self.divisor

    @property
    def _own(self) -> _Nodes:
        return _Nodes(self.roots, self.feature, self.threshold, self.left, self.right, self.value)

    @cached_property
    def _columns(self) -> _Nodes:
        kinds = (np.int64, np.int64, np.float64, np.int64, np.int64, np.float64)
        own = zip(self._own, kinds, strict=True)
        return _Nodes(*(np.array(column, dtype=kind) for column, kind in own))


Scorer = LinearScorer | TreeScorer


@compiled
def _sum_of_leaves(row: Any, nodes: _Nodes, baseline: float) -> float:
    total = baseline
    for root in nodes.roots:
        node = root
        while nodes.feature[node] >= 0:
            if row[nodes.feature[node]] <= nodes.threshold[node]:
                node = nodes.left[node]
            else:
                node = nodes.right[node]
        total += nodes.value[node]
    return total


@compiled
def _scores(features: Float2D, nodes: _Nodes, baseline: float, divisor: float) -> Float1D:
    result = np.empty(len(features))
    for row in range(len(features)):
        result[row] = _sum_of_leaves(features[row], nodes, baseline) / divisor
    return result


def scorer_of(fitted: FittedModel) -> Scorer:
    """Take a fitted model apart into numbers that score as its library does.

    Raises
    ------
    DataError
        If the family has no such form.

    Notes
    -----
    Scores agree with the library's to rounding: sums are taken in the order of the trees. That
    is 1e-12, but of XGBoost 1e-5: it adds its leaves in 32 bits, and here they are added in 64.
    """
    match fitted.family.name:
        case "logistic_regression":
            return LinearScorer(
                tuple(fitted.mean.tolist()),
                tuple(fitted.scale.tolist()),
                tuple(fitted.estimator.coef_[0].tolist()),
                float(fitted.estimator.intercept_[0]),
            )
        case "random_forest" | "extra_trees":
            return _forest(fitted)
        case "hist_gradient_boosting":
            return _hist_boosting(fitted)
        case "lightgbm":
            return _lightgbm(fitted)
        case "xgboost":
            return _xgboost(fitted)
        case "catboost":
            return _catboost(fitted)
        case name:
            raise DataError(
                f"model family {name!r} has no stored form: research can use it, the fleet cannot; "
                f"choose one of {', '.join(STORED_FAMILIES)}"
            )


STORED_FAMILIES = (
    "logistic_regression",
    "random_forest",
    "extra_trees",
    "hist_gradient_boosting",
    "lightgbm",
    "xgboost",
    "catboost",
)
"""Families whose models can be taken apart, stored and traded."""


class _Tree(NamedTuple):
    feature: NDArray[np.int64]
    threshold: Float1D
    left: Int1D
    right: Int1D
    value: Float1D


def _forest(fitted: FittedModel) -> TreeScorer:
    trees = []
    for each in fitted.estimator.estimators_:
        tree = each.tree_
        is_leaf = tree.children_left < 0
        of_class = tree.value[:, 0, :]
        trees.append(
            _Tree(
                np.where(is_leaf, _LEAF, tree.feature),
                np.where(is_leaf, 0.0, tree.threshold),
                np.where(is_leaf, 0, tree.children_left),
                np.where(is_leaf, 0, tree.children_right),
                np.where(is_leaf, of_class[:, 1] / of_class.sum(axis=1), 0.0),
            )
        )
    n_trees = float(len(trees))
    return _joined(fitted, trees, 0.0, n_trees, "probability", is_single_precision=True)


def _hist_boosting(fitted: FittedModel) -> TreeScorer:
    # scikit-learn tells the trees of this family in private fields only; a test holds the
    # numbers against its own predictions.
    trees = []
    for [predictor] in fitted.estimator._predictors:
        nodes = predictor.nodes
        is_leaf = nodes["is_leaf"].astype(np.bool_)
        trees.append(
            _Tree(
                np.where(is_leaf, _LEAF, nodes["feature_idx"]),
                np.where(is_leaf, 0.0, nodes["num_threshold"]),
                np.where(is_leaf, 0, nodes["left"]),
                np.where(is_leaf, 0, nodes["right"]),
                np.where(is_leaf, nodes["value"], 0.0),
            )
        )
    baseline = float(np.ravel(fitted.estimator._baseline_prediction)[0])
    return _joined(fitted, trees, baseline, 1.0, "log_odds", is_single_precision=False)


def _lightgbm(fitted: FittedModel) -> TreeScorer:
    document = fitted.estimator.booster_.dump_model()
    trees = [_laid_out(tree["tree_structure"], _lightgbm_node) for tree in document["tree_info"]]
    return _joined(fitted, trees, 0.0, 1.0, "log_odds", is_single_precision=False)


def _lightgbm_node(node: dict[str, Any]) -> _Asks[dict[str, Any]] | float:
    if "split_feature" not in node:
        return float(node["leaf_value"])
    return _Asks(
        int(node["split_feature"]),
        float(node["threshold"]),
        node["left_child"],
        node["right_child"],
    )


def _xgboost(fitted: FittedModel) -> TreeScorer:
    learner = json.loads(fitted.estimator.get_booster().save_raw(raw_format="json"))["learner"]
    [share] = json.loads(learner["learner_model_param"]["base_score"])
    trees = [
        _laid_out(0, _xgboost_node(tree)) for tree in learner["gradient_booster"]["model"]["trees"]
    ]
    # Its numbers are of 32 bits, and written as short as tells them apart there.
    share = float(np.float32(share))
    baseline = math.log(share / (1 - share))
    return _joined(fitted, trees, baseline, 1.0, "log_odds", is_single_precision=True)


def _xgboost_node(tree: dict[str, Any]) -> Callable[[int], _Asks[int] | float]:
    def look(node: int) -> _Asks[int] | float:
        number = np.float32(tree["split_conditions"][node])
        left = tree["left_children"][node]
        if left < 0:
            return float(number)
        # A row goes left below the number, not at it: here at most at the next one down.
        below = float(np.nextafter(number, np.float32(-np.inf)))
        return _Asks(tree["split_indices"][node], below, left, tree["right_children"][node])

    return look


def _catboost(fitted: FittedModel) -> TreeScorer:
    with TemporaryDirectory() as folder:  # CatBoost tells its trees to files only
        path = Path(folder) / "model.json"
        fitted.estimator.save_model(str(path), format="json")
        document = json.loads(path.read_text())
    scale, [bias] = document["scale_and_bias"]
    trees = [_laid_out((0, 0), _catboost_node(tree, scale)) for tree in document["oblivious_trees"]]
    return _joined(fitted, trees, float(bias), 1.0, "log_odds", is_single_precision=True)


def _catboost_node(
    tree: dict[str, Any], scale: float
) -> Callable[[tuple[int, int]], _Asks[tuple[int, int]] | float]:
    # All nodes of a level ask the same; the answers are the bits of the leaf's number.
    levels = tree["splits"] or []

    def look(node: tuple[int, int]) -> _Asks[tuple[int, int]] | float:
        level, leaf = node
        if level == len(levels):
            return scale * float(tree["leaf_values"][leaf])
        split = levels[level]
        return _Asks(
            split["float_feature_index"],
            float(np.float32(split["border"])),
            (level + 1, leaf),
            (level + 1, leaf | 1 << level),
        )

    return look


@dataclass(frozen=True, slots=True)
class _Asks(Generic[_Node]):
    """A node that asks: where a row goes whose value is at most the threshold, and where else."""

    feature: int
    threshold: float
    left: _Node
    right: _Node


def _laid_out(root: _Node, look: Callable[[_Node], _Asks[_Node] | float]) -> _Tree:
    """Return the tree below a node; `look` tells what a node asks, or what a leaf adds."""
    rows: list[tuple[int, float, int, int, float]] = []

    def place(node: _Node) -> int:
        at, found = len(rows), look(node)
        if isinstance(found, float):
            rows.append((_LEAF, 0.0, 0, 0, found))
        else:
            rows.append((found.feature, found.threshold, 0, 0, 0.0))
            left, right = place(found.left), place(found.right)
            rows[at] = (found.feature, found.threshold, left, right, 0.0)
        return at

    place(root)
    feature, threshold, left, right, value = zip(*rows, strict=True)
    return _Tree(
        np.array(feature, dtype=np.int64),
        np.array(threshold, dtype=np.float64),
        np.array(left, dtype=np.int64),
        np.array(right, dtype=np.int64),
        np.array(value, dtype=np.float64),
    )


def _joined(
    fitted: FittedModel,
    trees: Sequence[_Tree],
    baseline: float,
    divisor: float,
    link: Link,
    *,
    is_single_precision: bool,
) -> TreeScorer:
    """Put the nodes of all trees into one table."""
    ends = np.cumsum([len(tree.feature) for tree in trees])
    roots = [0, *ends[:-1].tolist()]
    feature = np.concatenate([tree.feature for tree in trees])

    def shifted(side: Literal["left", "right"]) -> list[int]:
        moved = [getattr(tree, side) + root for tree, root in zip(trees, roots, strict=True)]
        return [int(node) for node in np.where(feature == _LEAF, 0, np.concatenate(moved))]

    return TreeScorer(
        n_features=len(fitted.mean),
        roots=tuple(roots),
        feature=tuple(feature.tolist()),
        threshold=tuple(np.concatenate([tree.threshold for tree in trees]).tolist()),
        left=tuple(shifted("left")),
        right=tuple(shifted("right")),
        value=tuple(np.concatenate([tree.value for tree in trees]).tolist()),
        baseline=baseline,
        divisor=divisor,
        link=link,
        is_single_precision=is_single_precision,
    )
