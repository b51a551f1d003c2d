"""On drawn studies: equal trials are pruned at most as often as the rule says, and estimates are right on average."""

from __future__ import annotations

import pytest
from simulate_pruning import estimate_errors, pruned_share

from orchestration.search.pruning import RULES

NAMES = ("default", "strict")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NAMES)
def test_few_equal_trials_are_pruned(name: str) -> None:
    """A few studies: a rule without a correction for its looks prunes 6 and 31 % of them."""
    rule = RULES[name]
    assert rule is not None
    share = pruned_share(rule, range(8))
    assert share.value - 2 * share.error <= rule.alpha


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_equal_trials_are_pruned_at_most_as_often_as_the_rule_says(name: str) -> None:
    rule = RULES[name]
    assert rule is not None
    share = pruned_share(rule, range(200))
    assert share.value - 2 * share.error <= rule.alpha
    errors = estimate_errors(rule, range(200))
    assert errors.count > 100
    assert abs(errors.bias) - 2 * errors.bias_error <= 0.01
    assert errors.rmse <= 0.03
