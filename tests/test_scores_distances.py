"""Distances between feature sets against closed forms and hand-made cases."""

import math

import numpy as np
import pytest
import torch

from evaluation.distances import (
    Moments,
    frechet_distance,
    half_circle,
    inception_score,
    kernel_distance,
    kernel_inception_distance,
    moments,
    precision_recall,
    sliced_wasserstein,
)


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_moments_equal_numpy_in_float64_for_features_far_from_zero():
    features = (1000 + normal(501, 7)).float()
    result = moments(features, chunk=100)
    np.testing.assert_allclose(result.mean, features.double().numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(
        result.covariance, np.cov(features.double().numpy(), rowvar=False), rtol=1e-10, atol=1e-12
    )


def test_frechet_distance_of_commuting_gaussians():
    """|mu_a - mu_b|^2 + sum_i (sqrt(a_i) - sqrt(b_i))^2 for covariances with common eigenvectors."""
    d = 6
    basis = torch.linalg.qr(normal(d, d)).Q
    a, b = torch.linspace(0.1, 3, d, dtype=torch.float64), torch.linspace(2, 0.5, d, dtype=torch.float64)
    shift = normal(1, d, 1)[0]
    first = Moments(torch.zeros(d, dtype=torch.float64), basis @ a.diag() @ basis.T)
    second = Moments(shift, basis @ b.diag() @ basis.T)
    expected = shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(first, second) == pytest.approx(float(expected), rel=1e-12)


def test_frechet_distance_of_gaussians_that_do_not_commute():
    """In two dimensions tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det A det B))."""
    a = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    b = torch.tensor([[0.5, -0.3], [-0.3, 3.0]], dtype=torch.float64)
    root = torch.sqrt((a @ b).trace() + 2 * torch.sqrt(a.det() * b.det()))
    expected = float(a.trace() + b.trace() - 2 * root)
    zero = torch.zeros(2, dtype=torch.float64)
    assert frechet_distance(Moments(zero, a), Moments(zero, b)) == pytest.approx(expected, rel=1e-12)
    assert expected > 0.5  # the case is not trivial


def test_frechet_distance_of_a_set_to_itself_is_zero_even_if_rank_deficient():
    few = moments(normal(5, 20))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-5)


def test_inception_score_of_sure_and_of_ignorant_classifiers():
    sure = 100 * torch.eye(10).repeat(7, 1)
    assert inception_score(sure, splits=1) == pytest.approx(10, rel=1e-6)
    assert inception_score(torch.zeros(70, 10)) == pytest.approx(1, rel=1e-6)


def test_kernel_distance_is_the_double_sum():
    a, b = normal(5, 3), 1 + normal(4, 3, 1)

    def k(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    within_a = sum(k(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
    within_b = sum(k(b[i], b[j]) for i in range(4) for j in range(4) if i != j) / 12
    across = sum(k(x, y) for x in a for y in b) / 20
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * across, rel=1e-12)


def test_kernel_distance_is_unbiased():
    """For equal laws the mean over many small draws is zero within its standard error, single draws of either sign."""
    values = np.array([kernel_distance(normal(20, 4, 2 * s), normal(30, 4, 2 * s + 1)) for s in range(400)])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
    assert (values < 0).any() and (values > 0).any()


def test_kernel_inception_distance_over_the_whole_set_is_the_kernel_distance():
    a, b = normal(40, 6), 0.5 + normal(40, 6, 1)
    assert kernel_inception_distance(a, b, subsets=1, subset_size=40) == pytest.approx(kernel_distance(a, b), rel=1e-10)


def test_precision_and_recall_of_hand_made_sets():
    line = torch.arange(10.0).unsqueeze(1)
    assert precision_recall(line, line) == (1.0, 1.0)
    stray = torch.cat([line[:6], 1000 + line[:4]])  # 4 of 10 off the line; the ball of 5 reaches to 8, so 9 is missed
    assert precision_recall(stray, line) == pytest.approx((0.6, 0.9))
    memorised = torch.full((10, 1), 4.0)  # every generated ball has radius 0: precise, but covers only one real image
    assert precision_recall(memorised, line) == pytest.approx((1.0, 0.1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments(torch.zeros(1, 3)), "1 images"),
        (lambda: moments(torch.zeros(3)), r"shape \(3,\)"),
        (lambda: frechet_distance(moments(normal(9, 2)), moments(normal(9, 3))), "2 and of 3 dimensions"),
        (lambda: inception_score(torch.zeros(9, 3)), "9 images: at least 10"),
        (lambda: inception_score(torch.zeros(9, 3), splits=0), "splits=0"),
        (lambda: kernel_inception_distance(normal(9, 2), normal(9, 2)), "9 images: at least 1000"),
        (lambda: precision_recall(normal(3, 2), normal(9, 2)), "3 images: at least 4"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_sliced_wasserstein_of_isotropic_gaussians():
    """SW^2 = |m_a - m_b|^2/2 + (s_a - s_b)^2 in the plane; exact where both are one set of unit covariance, scaled."""
    shift, z = torch.tensor([0.3, -1.1], dtype=torch.float64), normal(20_000, 2)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T.cov(correction=0)), (z - z.mean(0)).T, upper=False).T
    expected = math.sqrt(float(shift.square().sum()) / 2 + (2.0 - 0.5) ** 2)
    assert sliced_wasserstein(2.0 * z, 0.5 * z + shift, half_circle(16)) == pytest.approx(expected, rel=1e-12)
    independent = 0.5 * normal(20_000, 2, 1) + shift
    assert sliced_wasserstein(2.0 * z, independent, half_circle(16)) == pytest.approx(expected, rel=1e-2)


def test_sliced_wasserstein_of_a_shift_is_exact_and_knows_no_order():
    """For a shift m it is |m|/sqrt(2) for any set of points; a set and its permutation are at distance zero."""
    points, shift = normal(101, 2).exp(), torch.tensor([3.0, 4.0])
    shuffled = points[torch.randperm(101, generator=torch.Generator().manual_seed(0))]
    assert sliced_wasserstein(points, shuffled + shift, half_circle(3)) == pytest.approx(5 / math.sqrt(2), rel=1e-12)
    assert sliced_wasserstein(points, shuffled, half_circle(3)) == pytest.approx(0, abs=1e-12)


def test_sliced_wasserstein_in_one_direction_is_the_sorted_difference():
    a, b = torch.tensor([[0.0, 9.0], [3.0, -5.0]]), torch.tensor([[5.0, 1.0], [1.0, 7.0]])
    assert sliced_wasserstein(a, b, torch.tensor([[1.0, 0.0]])) == pytest.approx(math.sqrt((1 + 4) / 2))


def test_sliced_wasserstein_refuses_sets_that_do_not_pair():
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(5, 2\): both must have the same number"):
        sliced_wasserstein(torch.zeros(4, 2), torch.zeros(5, 2), half_circle(1))
    with pytest.raises(ValueError, match="n=0"):
        half_circle(0)
