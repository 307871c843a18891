"""Temperature, calibration errors and intervals, beside other libraries, published numbers and brute force."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn import metrics
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from pipeline.evaluation import per_class, temperature
from pipeline.evaluation.calibration import binned
from pipeline.evaluation.intervals import macro_f1, macro_f1_interval, wilson
from pipeline.evaluation.paired import Paired
from pipeline.evaluation.predictions import Predictions


def labeled_logits(count: int, classes: int, sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose softmax at temperature `sharpness` is the true distribution of the labels."""
    draw = torch.Generator().manual_seed(count + classes)
    logits = 2 * torch.randn(count, classes, generator=draw, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw).squeeze(1)
    return logits * sharpness, labels


@pytest.mark.parametrize(("count", "classes", "sharpness"), [(1000, 10, 1.7), (300, 3, 0.6), (3, 4, 1.0), (50, 2, 5.0)])
def test_no_temperature_of_a_fine_grid_is_better(count: int, classes: int, sharpness: float) -> None:
    logits, labels = labeled_logits(count, classes, sharpness)
    found = temperature.fit(logits, labels)

    def loss(value: float) -> float:
        prior = (math.log(value) / temperature.PRIOR) ** 2 / 2
        return float(F.cross_entropy(logits / value, labels, reduction="sum")) + prior

    grid = np.exp(np.linspace(-2, 2, 2001))  # steps of 0.2 %
    best = grid[np.argmin([loss(value) for value in grid])]
    assert found == pytest.approx(best, rel=2.1e-3)
    assert found == float(f"{found:.4g}")
    if count == 1000:  # so many images leave the prior little to say
        assert found == pytest.approx(sharpness, rel=0.1)


def test_few_images_do_not_move_the_temperature_far() -> None:
    """By cross-entropy alone the first would be 0 and the second infinite."""
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0]], dtype=torch.float64)
    all_right, all_wrong = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1])
    assert 0.8 < temperature.fit(logits, all_right) < 1
    assert 1 < temperature.fit(logits, all_wrong) < 4


def test_calibration_error_by_hand() -> None:
    """In bins of 1/15: 0.06 and 1/15 in the first, 0.07 in the second, the rest in the last two."""
    probability = np.array([0.06, 1 / 15, 0.07, 0.93, 0.95, 1.0, 1.0])
    right = np.array([False, True, False, True, False, True, True])
    bins = binned(probability, right)
    assert list(bins.images) == [2, 1, 1, 3]
    assert bins.accuracy == pytest.approx([1 / 2, 0, 1, 2 / 3])
    gaps = [abs(1 / 2 - (0.06 + 1 / 15) / 2), 0.07, 0.07, abs(2 / 3 - 2.95 / 3)]
    assert bins.error() == pytest.approx((2 * gaps[0] + gaps[1] + gaps[2] + 3 * gaps[3]) / 7)


@pytest.mark.parametrize("sharpness", [0.6, 1.0, 2.5])
def test_temperature_is_that_of_scikit_learn(sharpness: float) -> None:
    logits, labels = labeled_logits(5000, 7, sharpness)  # which leave the prior little to say
    as_given = LogisticRegression().fit(logits.numpy(), labels.numpy())
    as_given.coef_, as_given.intercept_ = np.eye(7), np.zeros(7)  # whose scores are the logits
    theirs = CalibratedClassifierCV(FrozenEstimator(as_given), method="temperature").fit(logits.numpy(), labels.numpy())
    ours = (logits / temperature.fit(logits, labels)).softmax(1).numpy()
    assert np.allclose(ours, theirs.predict_proba(logits.numpy()), atol=1e-3)


@pytest.mark.parametrize("sharpness", [0.6, 1.0, 2.5])
def test_calibration_error_is_that_of_scikit_learns_curve(sharpness: float) -> None:
    logits, labels = labeled_logits(2000, 4, sharpness)
    probability, predicted = (values.numpy() for values in logits.softmax(1).max(1))
    right = predicted == labels.numpy()
    accuracy, mean = calibration_curve(right, probability, n_bins=15)
    images = stats.binned_statistic(probability, right, "count", bins=15, range=(0, 1)).statistic
    assert binned(probability, right).error() == pytest.approx(
        np.average(abs(accuracy - mean), weights=images[images > 0]), rel=1e-9
    )


def test_calibration_error_of_the_two_extremes() -> None:
    """Certain and always right: 0. Certain and right half of the time: 0.5."""
    certain = np.ones(10, np.float32)
    assert binned(certain, np.ones(10, bool)).error() == 0
    assert binned(certain, np.arange(10) % 2 == 0).error() == 0.5


def test_wilson_is_that_of_statsmodels_and_of_scipy() -> None:
    images = np.array([1, 1, 3, 10, 179, 179, 50_000])
    right = np.array([0, 1, 2, 5, 177, 179, 49_999])
    low, high = wilson(right, images)
    expected = np.transpose([proportion_confint(*pair, method="wilson") for pair in zip(right, images, strict=True)])
    assert np.allclose((low, high), expected, atol=1e-6)
    scipys = stats.binomtest(177, 179).proportion_ci(method="wilson")
    assert (low[4], high[4]) == pytest.approx((scipys.low, scipys.high), abs=1e-6)


def test_wilson_of_published_numbers() -> None:
    """Of 263 patients 81, and of 29 none: Newcombe 1998 (Statistics in Medicine 17), table I, method 3."""
    low, high = wilson([81, 0], [263, 29])
    assert low == pytest.approx([0.2553, 0.0], abs=5e-5)
    assert high == pytest.approx([0.3662, 0.1170], abs=5e-5)


def test_macro_f1_and_its_interval_are_those_of_scikit_learn_and_scipy() -> None:
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 4, 200)
    predicted = np.where(draw.random(200) < 0.7, labels, draw.integers(0, 5, 200))
    expected = metrics.f1_score(labels, predicted, average="macro", zero_division=0.0)
    assert macro_f1(labels, predicted, 6) == pytest.approx(expected)
    found = macro_f1_interval(labels, predicted, 6)
    options = {"paired": True, "vectorized": False, "n_resamples": 1000, "method": "percentile"}
    scipys = stats.bootstrap(
        (labels, predicted), lambda one, other: macro_f1(one, other, 6), rng=np.random.default_rng(1), **options
    ).confidence_interval
    assert found == pytest.approx((scipys.low, scipys.high), abs=0.012)
    assert found == macro_f1_interval(labels, predicted, 6)


def test_mcnemar_is_that_of_statsmodels() -> None:
    for first, second in ((0, 1), (9, 2), (40, 61), (13, 13)):
        expected = mcnemar([[70, first], [second, 5]], exact=True).pvalue
        assert Paired(70, first, second, 5).p_value() == pytest.approx(expected)


def predictions(labels: np.ndarray, scores: np.ndarray) -> Predictions:
    best = scores.max(1)
    return Predictions(
        rows=np.arange(len(labels)), labels=labels, predicted=scores.argmax(1), log_truth=best, uncalibrated=best,
        probability=best, in_top=labels == 0, probabilities=scores,
    )  # fmt: skip


@pytest.mark.parametrize("classes", [2, 7])
def test_metrics_of_each_class_are_those_of_scikit_learn(classes: int) -> None:
    draw = np.random.default_rng(classes)
    labels = draw.integers(0, classes - 1, 300)  # the last class has no images
    scores = draw.random((300, classes)).round(1).astype(np.float32)  # with ties
    scores[np.arange(300), labels] += 0.3
    scores[:, 1] = 0  # and the second one is never predicted
    given = predictions(labels, scores)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = per_class.table(given, classes)
    expected = metrics.precision_recall_fscore_support(
        labels, given.predicted, labels=range(classes), zero_division=np.nan
    )
    for column, values in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        assert np.allclose(table[column], values, equal_nan=True), column
    confusion = metrics.multilabel_confusion_matrix(labels, given.predicted, labels=range(classes))
    true_negatives, false_positives = confusion[:, 0, 0], confusion[:, 0, 1]
    with np.errstate(invalid="ignore"):
        assert np.allclose(table["specificity"], true_negatives / (true_negatives + false_positives), equal_nan=True)
    for number in range(classes):
        own = labels == number
        if 0 < own.sum() < len(own):
            assert table["auc"][number] == pytest.approx(metrics.roc_auc_score(own, scores[:, number]))
        else:
            assert math.isnan(table["auc"][number])
