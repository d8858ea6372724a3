"""Kernels in closed form: against integrals, against random hashes, and sums against a double loop."""

import numpy as np
import pytest
from scipy import integrate, stats

from curation.coverage import kernels
from curation.errors import WinnowError

WIDTH = 0.7


def by_integral(name: str, distance: float) -> float:
  """P(floor((a.x + b) / w) = floor((a.y + b) / w)) as Datar et al. write it: an integral over |a.(x - y)| < w."""
  density = {"l2": stats.norm(scale=distance), "l1": stats.cauchy(scale=distance)}[name].pdf
  return 2 * integrate.quad(lambda t: density(t) * (1 - t / WIDTH), 0, WIDTH, points=[min(distance, WIDTH)])[0]


@pytest.mark.parametrize("name", ["l2", "l1"])
@pytest.mark.parametrize("distance", [0.01, 0.1, 0.7, 1.3, 20.0])
def test_collision_probabilities_are_their_integrals(name, distance):
  """Kills: a lost factor of two, the variance in place of the standard deviation."""
  kernel = kernels.Kernel(name, WIDTH)
  assert kernel.at_distances(distance) == pytest.approx(by_integral(name, distance), rel=1e-7, abs=1e-9)
  assert kernels.Kernel(name, WIDTH, 3).at_distances(distance) == pytest.approx(kernel.at_distances(distance) ** 3)


def test_angular_kernel_is_the_share_of_equal_signs():
  generator = np.random.default_rng(0)
  x, y = generator.standard_normal((2, 5))
  kernel = kernels.Kernel("angular")
  signs_P2 = generator.standard_normal((400_000, 5)) @ np.stack([x, 3 * y], axis=1) >= 0
  shares = np.mean(signs_P2[:, 0] == signs_P2[:, 1])
  assert kernel.at_distances(kernel.distances(x[None], y[None])) == pytest.approx(shares, abs=4 * 0.5 / 400_000**0.5)


@pytest.mark.parametrize(
  "kernel", [kernels.Kernel("l2", 0.5, 2), kernels.Kernel("l1", 2.0), kernels.Kernel("angular", hashes=8)]
)
def test_sums_are_those_of_a_double_loop(kernel):
  generator = np.random.default_rng(1)
  points_ND = generator.standard_normal((70, 6))
  queries_MD = np.concatenate([points_ND[:3], generator.standard_normal((5, 6))])

  def distance(x, y):
    if kernel.name == "angular":
      return np.arccos(np.clip(x @ y / np.linalg.norm(x) / np.linalg.norm(y), -1, 1))
    return np.abs(x - y).sum() if kernel.name == "l1" else np.sqrt(((x - y) ** 2).sum())

  expected = [sum(float(kernel.at_distances(distance(x, y))) for y in points_ND) for x in queries_MD]
  np.testing.assert_allclose(kernel.sums(queries_MD, points_ND), expected, rtol=1e-6)
  assert kernel.sums(queries_MD[:0], points_ND).shape == (0,)


@pytest.mark.parametrize("kernel", [kernels.Kernel("l2", 1e-3), kernels.Kernel("l1", 1e3), kernels.Kernel("angular")])
def test_kernels_fall_from_one_to_nought(kernel):
  """Kills: 0 / 0 at distance 0, and an overflow at tiny ones."""
  distances = np.concatenate([[0.0], np.geomspace(1e-30, 1e30 if kernel.name != "angular" else np.pi, 500)])
  values = kernel.at_distances(distances)
  assert values[0] == pytest.approx(1, abs=1e-8)
  assert np.isfinite(values).all() and (np.diff(values) <= 1e-12).all() and values[-1] < 1e-6


def test_copies_are_at_distance_nought_whatever_their_length():
  """Kills: the arc cosine of a product, which puts copies 1e-8 apart, and the angle of vectors of another length."""
  x_ND = np.random.default_rng(2).standard_normal((50, 768)).astype(np.float32)
  for name in kernels.NAMES:
    distances = kernels.Kernel(name, None if name == "angular" else 1.0).distances(x_ND, x_ND)
    assert np.abs(np.diag(distances)).max() < 1e-12
  angles = kernels.Kernel("angular").distances(x_ND, 5 * x_ND)
  assert np.abs(np.diag(angles)).max() < 1e-7


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    (("rbf", 1.0), "--kernel=rbf"),
    (("l2", None), "--bandwidth=None"),
    (("l1", 0.0), "--bandwidth=0.0"),
    (("l2", float("nan")), "--bandwidth=nan"),
    (("angular", 1.0), "has no --bandwidth"),
    (("l2", 1.0, 0), "--hashes=0"),
  ],
)
def test_what_is_no_kernel_is_refused(arguments, sentence):
  with pytest.raises(WinnowError, match=sentence):
    kernels.Kernel(*arguments)
