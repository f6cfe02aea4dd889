"""Metrics that every method is measured with alike, and the baselines."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Array = NDArray[np.floating]

PROBE_ROWS = 10_000  # more training images make a probe slow and no better
PROBE_STRENGTHS = (1e-3, 1e-2, 1e-1)  # of which validation images choose


@dataclass
class Method:
    """A way to solve the task: scores of the validation and the test images, (N, outputs)."""

    name: str
    validation: Array
    test: Array


def mean_average_precision(targets: Array, scores: Array) -> float:
    """Area under the precision-recall curve, averaged over the outputs that have a positive among the targets."""
    columns = [k for k in range(targets.shape[1]) if targets[:, k].any()]
    values = [average_precision_score(targets[:, k], scores[:, k]) for k in columns]
    return float(np.mean(values)) if values else float("nan")


def thresholds(targets: Array, scores: Array) -> Array:
    """For each output, the score above which the validation images have as many positives as they should have.

    The loss's alpha and the imbalance move a network's scores up or down as a whole. Cutting where the share of
    positives is right makes methods comparable, and follows chance less than the cut with the best accuracy would.
    """
    cuts = []
    for k in range(targets.shape[1]):
        positives = int(targets[:, k].sum())
        ordered = np.sort(scores[:, k].astype(np.float64))[::-1]
        if positives == 0:
            cuts.append(np.inf)
        elif positives == len(ordered):
            cuts.append(-np.inf)
        else:
            cuts.append((ordered[positives - 1] + ordered[positives]) / 2)
    return np.array(cuts)


def decide(task: str, scores: Array, cuts: Array) -> NDArray[np.int64]:
    """Class numbers (N,), or for a multilabel task zeros and ones (N, classes)."""
    if task == "multiclass":
        return scores.argmax(1)
    chosen = (scores > cuts).astype(np.int64)
    return chosen[:, 0] if task == "binary" else chosen


def measure(task: str, labels: NDArray[np.int64], targets: Array, scores: Array, cuts: Array) -> dict[str, float]:
    decided = decide(task, scores, cuts)
    if task == "multilabel":  # every yes or no counts; balanced: mean of both answers' recall, over the classes
        accuracy = float((decided == labels).mean())
        balanced = float(np.mean([_balanced(labels[:, k], decided[:, k]) for k in range(labels.shape[1])]))
    else:
        accuracy = float(accuracy_score(labels, decided))
        balanced = _balanced(labels, decided)
    return {
        "accuracy": accuracy,
        "balanced_accuracy": balanced,
        "average_precision": mean_average_precision(targets, scores),
    }


def _balanced(labels: NDArray[np.int64], decided: NDArray[np.int64]) -> float:
    # Over the classes that occur. scikit-learn's own balanced accuracy warns when another class was decided for.
    return float(recall_score(labels, decided, labels=np.unique(labels), average="macro", zero_division=0))


def majority(task: str, train_targets: Array, validation: int, test: int) -> Method:
    """Always the answer that is right most often: the same scores for every image."""
    share = train_targets.mean(0)
    row = share if task == "multiclass" else share - 0.5
    return Method("majority class", np.tile(row, (validation, 1)), np.tile(row, (test, 1)))


def probe(name: str, rows: dict[str, Array], targets: dict[str, Array], seed: int) -> Method:
    """Logistic regression on fixed features; its strength of regularisation is chosen on the validation images."""
    chosen = np.arange(len(rows["train"]))
    if len(chosen) > PROBE_ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, PROBE_ROWS, replace=False))
    best: tuple[float, Method] | None = None
    for strength in PROBE_STRENGTHS:
        columns = []
        for k in range(targets["train"].shape[1]):
            wanted = targets["train"][chosen, k]
            if wanted.min() == wanted.max():  # nothing to learn: the class is in all training images or in none
                columns.append({part: np.full(len(rows[part]), wanted[0] * 2 - 1) for part in ("validation", "test")})
                continue
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
            with warnings.catch_warnings():
                # Short of the optimum the probe is as good: it is judged by its scores, like every other method.
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(rows["train"][chosen], wanted)
            columns.append({part: model.decision_function(rows[part]) for part in ("validation", "test")})
        scores = {part: np.stack([column[part] for column in columns], 1) for part in ("validation", "test")}
        method = Method(name, scores["validation"], scores["test"])
        value = mean_average_precision(targets["validation"], method.validation)
        if best is None or value > best[0]:
            best = (value, method)
    assert best is not None
    return best[1]
