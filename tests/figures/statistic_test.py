import math

import pytest

from oass_jax.figures import statistic


def test_mean_and_the_samples_standard_deviation():
    assert statistic.mean_and_std([90.0, 91.0, 92.0]) == (91.0, 1.0)
    assert statistic.mean_and_std([90.0]) == (90.0, None)


def test_pairs_are_the_common_seeds_alone():
    """Differences 1, 2, 3: mean 2, deviation 1; t(2 degrees, 97.5 %) is 4.302653."""
    one = {0: 91.0, 2: 95.0, 1: 93.0, 7: 50.0}
    other = {9: 1.0, 1: 91.0, 0: 90.0, 2: 92.0}
    paired = statistic.paired_difference(one, other)
    margin = 4.302653 / math.sqrt(3)
    assert paired.num_seeds == 3
    assert paired.mean == pytest.approx(2.0)
    assert (paired.low, paired.high) == pytest.approx((2 - margin, 2 + margin), abs=1e-6)


def test_two_seeds_give_a_wide_interval():
    """Differences 1 and 3: deviation sqrt(2), over sqrt(2) seeds; t(1 degree) is 12.706205."""
    paired = statistic.paired_difference({0: 1.0, 1: 3.0}, {0: 0.0, 1: 0.0})
    assert (paired.low, paired.high) == pytest.approx((2 - 12.706205, 2 + 12.706205), abs=1e-5)


def test_equal_differences_are_an_interval_of_one_point():
    paired = statistic.paired_difference({0: 91.0, 1: 92.0}, {0: 90.0, 1: 91.0})
    assert paired == statistic.Paired(num_seeds=2, mean=1.0, low=1.0, high=1.0)


@pytest.mark.parametrize("other", [{}, {0: 1.0}, {5: 1.0, 6: 2.0}])
def test_fewer_than_two_pairs_say_nothing(other):
    assert statistic.paired_difference({0: 1.0, 1: 3.0}, other) is None
