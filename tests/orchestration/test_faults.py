"""The short form of the fault campaign (tests/faults/campaign.py, `make faults`), and deaths while features fill."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from campaign import Study, make_data

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(1200)]


def test_a_campaign_of_a_killed_worker_raylet_and_blend_loses_and_repeats_nothing(tmp_path: Path) -> None:
    make_data(tmp_path)
    study, rng = Study(tmp_path, "study", print), random.Random(0)
    for kind, phase in (("worker", "fill"), ("raylet", "commit"), ("driver", "predict")):
        study.disturb(kind, phase, rng)
    study.finish()


def test_a_search_killed_again_and_again_while_features_fill_has_the_rows_of_an_undisturbed_one(tmp_path: Path) -> None:
    """192 photographs, the three families' first trials, one of them on a trunk; all kills on one feature store."""
    make_data(tmp_path, images=192)
    killed, undisturbed = Study(tmp_path, "killed", print), Study(tmp_path, "undisturbed", print)
    killed.trials, kills = 3, 0
    while kills < 6 and killed.kill_all_while_filling(delay=0.05 * kills):
        kills += 1
    assert kills >= 3  # several banks and many spans: it takes more than two deaths to fill them
    for study in (killed, undisturbed):
        study.trials = 3
        study.search_in_peace()
    ids = [trial.trial_id for trial in undisturbed.ledger.trials()]
    assert [trial.trial_id for trial in killed.ledger.trials()] == ids and len(ids) == 3
    for trial_id in ids:
        assert killed.ledger.oof(trial_id).equals(undisturbed.ledger.oof(trial_id))
