"""On drawn studies: equal trials are pruned at most as often as the rule says, and estimates are right on average."""

from __future__ import annotations

import numpy as np
import pytest
from simulate_pruning import estimate_errors, pruned_share

from orchestration.search.pruning import LOOKS, RULES, paired_p

NAMES = ("default", "strict")


@pytest.mark.slow
def test_over_all_looks_chance_stays_within_its_share() -> None:
    """Of 5000 trials as good as what they are compared with, of 28 dates dealt out to 5 folds: p at each of four looks.

    The share of alpha that LOOKS leaves for the choice of the compared trials is not spent here. With it, or without
    the correction for looks, the share would be twice or five times as large.
    """
    rng, date_N = np.random.default_rng(0), np.arange(28)
    looks = [np.flatnonzero(date_N % 5 < done) for done in range(1, 5)]
    least_S = [
        min(paired_p(difference_N[rows], rows)[0] for rows in looks) for difference_N in rng.standard_normal((5000, 28))
    ]
    for name in NAMES:
        rule = RULES[name]
        assert rule is not None
        share, limit = float(np.mean(np.array(least_S) < rule.p_below(5))), rule.alpha / LOOKS
        assert 0.5 * limit < share < limit, name


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_equal_trials_are_pruned_at_most_as_often_as_the_rule_says(name: str) -> None:
    rule = RULES[name]
    assert rule is not None
    share = pruned_share(rule, range(200))
    assert share.value - 2 * share.error <= rule.alpha
    errors = estimate_errors(rule, range(200))
    assert errors.trials > 100
    assert abs(errors.bias) - 2 * errors.bias_error <= 0.01
    assert errors.rmse <= 0.03
