"""What the doctor foresees of a study: banks are paid for once, whoever asks; folds in the mean of what is proposed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_study import BACKBONE

from biomass_models.data.images import View
from biomass_models.families import registry
from biomass_models.families.costs import all_feature_gigabytes, all_feature_seconds
from biomass_models.features.outputs import GLOBAL, Grid
from biomass_models.features.spec import FeatureSpec
from orchestration.doctor.study_cost import COUNTED, study_cost
from search_spaces.domain import Choice
from search_spaces.spaces import space_of

pytestmark = pytest.mark.slow

WHOLE = View(name="whole", box=(0.0, 0.0, 1.0, 1.0), height=64, width=64)
SPEC = FeatureSpec(backbone=BACKBONE, views=(WHOLE,), flips=2)
IMAGES = 40


def seconds(*specs: FeatureSpec) -> float:
    return all_feature_seconds(specs, IMAGES, "cpu")


def test_a_bank_is_paid_for_once_and_a_larger_one_by_its_new_copies() -> None:
    once = seconds(SPEC)
    assert once > 0
    assert seconds(SPEC, SPEC) == once
    assert seconds(SPEC, replace(SPEC, flips=8)) == pytest.approx(4 * once)
    assert seconds(replace(SPEC, flips=8), SPEC) == pytest.approx(4 * once)
    assert seconds(SPEC, replace(SPEC, stamped=1)) == pytest.approx(1.5 * once)


@pytest.mark.parametrize(
    "other",
    [
        {"layers": (0, 1)},  # a layer that no pass has stored
        {"outputs": (GLOBAL, Grid(side=2))},
        {"stamp": "remove"},
        {"dtype": "float16"},
    ],
)
def test_what_no_pass_has_stored_is_another_pass(other: dict[str, object]) -> None:
    assert seconds(SPEC, replace(SPEC, **other)) == pytest.approx(2 * seconds(SPEC))  # type: ignore[arg-type]


def test_sizes_follow_the_same_rule() -> None:
    once = all_feature_gigabytes([SPEC], IMAGES)
    assert once == pytest.approx(SPEC.gigabytes(IMAGES))
    assert all_feature_gigabytes([SPEC, replace(SPEC, flips=8), SPEC], IMAGES) == pytest.approx(4 * once)


def test_a_study_costs_what_its_proposals_cost() -> None:
    """More trials ask for more banks, until there are no others; folds do not depend on how many there are."""
    spaces = {family: space_of(family, (BACKBONE,), "smoke") for family in ("probe", "stack")}
    few, many, more = (
        study_cost(spaces, dict.fromkeys(spaces, float(count)), images=IMAGES, folds=4, device="cpu")
        for count in (1, 40, 100)
    )
    assert few.feature_seconds < many.feature_seconds == pytest.approx(more.feature_seconds)
    assert few.feature_gigabytes < many.feature_gigabytes
    for family in spaces:
        found = few.fold_seconds[family]
        assert len(found) == COUNTED and min(found) < few.mean_fold_seconds(family) < max(found)
        assert few.mean_fold_seconds(family) == pytest.approx(np.mean(found))


def test_ranges_that_their_family_refuses_have_no_cost() -> None:
    space = space_of("probe", (BACKBONE,), "smoke")
    broken = replace(space, domains={**space.domains, "flips": Choice((3,))}, first_trials=())
    found = study_cost({"probe": broken}, {"probe": 5.0}, images=IMAGES, folds=4, device="cpu")
    assert found.fold_seconds == {} and found.feature_seconds == 0


def test_features_of_every_family_can_be_foreseen() -> None:
    spaces = {family: space_of(family, (BACKBONE,), "smoke") for family in registry.BUILT_IN}
    found = study_cost(spaces, dict.fromkeys(spaces, 3.0), images=IMAGES, folds=4, device="cpu")
    assert set(found.fold_seconds) == set(registry.BUILT_IN) and found.feature_seconds > 0
