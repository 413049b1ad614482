import numpy as np
import pytest

from fourfold.eval.scorers.ranking import auroc, average_precision, best_candidate
from fourfold.eval.statistics import bootstrap, bootstrap_weighted, clustered_mean, paired, wilson


def test_one_sample_a_cluster_gives_the_usual_standard_error() -> None:
    values = np.random.default_rng(0).random(200)
    estimate = clustered_mean(values, range(200))
    assert estimate.standard_error == pytest.approx(100 * values.std(ddof=1) / np.sqrt(200))
    assert estimate.low == pytest.approx(estimate.value - 1.959964 * estimate.standard_error)


def test_copies_in_a_cluster_add_nothing() -> None:
    values = np.random.default_rng(0).random(50)
    once = clustered_mean(values, range(50))
    copied = clustered_mean(np.repeat(values, 7), np.repeat(np.arange(50), 7))
    assert copied.standard_error == pytest.approx(once.standard_error)
    assert (copied.n, copied.clusters) == (350, 50)


def test_all_right_still_has_an_interval() -> None:
    estimate = clustered_mean([1.0] * 30, range(30))
    assert estimate.high == pytest.approx(100)
    assert estimate.low == pytest.approx(100 * wilson(1.0, 30)[0]) and 80 < estimate.low < 95


def test_one_cluster_gives_no_error() -> None:
    assert clustered_mean([0.0, 1.0], ["a", "a"]).standard_error is None


def test_bootstrap_of_a_mean_agrees_with_the_formula() -> None:
    generator = np.random.default_rng(1)
    clusters = np.repeat(np.arange(100), 3)
    values = (generator.random(300) < 0.6).astype(float)
    formula = clustered_mean(values, clusters)
    drawn = bootstrap([values, np.ones(300)], clusters, lambda sums: 100 * sums[:, 0] / sums[:, 1])
    weighted = bootstrap_weighted(lambda w: float(100 * np.sum(w * values) / np.sum(w)), clusters)
    assert drawn.value == pytest.approx(formula.value)
    assert drawn.standard_error == pytest.approx(formula.standard_error, rel=0.1)
    assert weighted.standard_error == pytest.approx(formula.standard_error, rel=0.2)


def test_paired_sees_what_two_intervals_would_not() -> None:
    generator = np.random.default_rng(2)
    first = generator.random(400) * 0.8
    second = first + 0.02
    result = paired(first, second, range(400))
    assert result.difference.value == pytest.approx(2)
    assert result.p_value < 0.001
    assert (result.better, result.worse) == (400, 0)


def test_paired_without_a_difference_is_sure_of_nothing() -> None:
    values = np.random.default_rng(3).random(100)
    assert paired(values, values, range(100)).p_value == 1
    noise = np.random.default_rng(4).random(100)
    assert paired(values, noise, range(100)).p_value > 0.01


def test_paired_flips_whole_images() -> None:
    # 20 copies of two images are two observations: no p value below 1/4 or so, however many copies.
    result = paired([0.0] * 40, [1.0] * 40, ["a"] * 20 + ["b"] * 20)
    assert result.p_value > 0.4


def test_auroc_counts_ties_half() -> None:
    assert auroc([True, True, False, False], [0.9, 0.5, 0.5, 0.1]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert np.isnan(auroc([True, True], [0.1, 0.2]))


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    generator = np.random.default_rng(5)
    truths, scores = generator.random(60) < 0.4, np.round(generator.random(60), 1)
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[truths] for n in scores[~truths]]
    assert auroc(truths, scores) == pytest.approx(np.mean(pairs))


def test_average_precision_by_hand() -> None:
    # Positives at ranks 1 and 3: (1/1 + 2/3) / 2.
    assert average_precision([True, False, True, False], [4, 3, 2, 1]) == pytest.approx((1 + 2 / 3) / 2)
    # A constant score: one threshold, the base rate.
    assert average_precision([True, False, False, False], [1, 1, 1, 1]) == pytest.approx(0.25)


def test_weights_count_samples_several_times() -> None:
    truths, scores = [True, False, True, False, False], [0.9, 0.8, 0.4, 0.4, 0.1]
    weights = np.array([2.0, 1, 0, 3, 1])
    again = [i for i, count in enumerate(weights) for _ in range(int(count))]
    for figure in (auroc, average_precision):
        repeated = figure([truths[i] for i in again], [scores[i] for i in again])
        assert figure(truths, scores, weights) == pytest.approx(repeated)


def test_a_tie_goes_to_the_first_candidate() -> None:
    assert best_candidate([-2.0, -1.0, -1.0]) == 1
