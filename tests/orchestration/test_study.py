"""A study keeps its settings, and has one driver."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from orchestration.search.opening import open_study
from orchestration.study.ids import make_trial_id
from orchestration.study.ledger import Ledger
from orchestration.study.lock import LockError, study_lock
from orchestration.study.seeds import derive_seed
from orchestration.study.settings import StudyError, StudySettings
from orchestration.study.storage import Storage

SETTINGS = StudySettings(families=("probe",), backbones=("net",))
FACTS = {"data_fingerprint": "d", "fold_hash": "f", "weights": {"net": "w"}}
QUADRATS = pd.DataFrame({"image_id": ["a"], "fold": [0]})


def test_a_study_is_resumed_with_the_same_settings_only(tmp_path: Path) -> None:
    ledger = Ledger(Storage(tmp_path))
    made = open_study(ledger, SETTINGS, quadrats=QUADRATS, **FACTS)  # type: ignore[arg-type]
    assert open_study(ledger, SETTINGS, quadrats=QUADRATS, **FACTS) == made  # type: ignore[arg-type]
    with pytest.raises(StudyError, match=r"seed: 0 -> 1.*fold_hash: 'f' -> 'g'"):
        other = {**FACTS, "fold_hash": "g"}
        open_study(ledger, replace(SETTINGS, seed=1), quadrats=QUADRATS, **other)  # type: ignore[arg-type]


def test_a_second_driver_is_told_who_holds_the_study(tmp_path: Path) -> None:
    code = (
        "import sys; from orchestration.study.ledger import Ledger; from orchestration.study.storage import Storage\n"
        "from orchestration.study.lock import study_lock\n"
        f"with study_lock(Ledger(Storage({str(tmp_path)!r}))): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(LockError, match=f"process {holder.pid}"), study_lock(Ledger(Storage(tmp_path))):
        pass
    holder.kill()  # no clean-up: the kernel frees the lock
    holder.wait()
    with study_lock(Ledger(Storage(tmp_path))):
        pass


def test_identity_and_seeds_depend_on_their_address() -> None:
    base = ("probe", {"a": 1, "b": 2}, "w", 0, "f")
    assert make_trial_id(*base) == make_trial_id("probe", {"b": 2, "a": 1}, "w", 0, "f")
    others = [("baseline", *base[1:]), (*base[:1], {"a": 2, "b": 2}, *base[2:]), (*base[:2], "v", 0, "f")]
    others += [(*base[:3], 1, "f"), (*base[:4], "g")]
    assert len({make_trial_id(*base), *(make_trial_id(*other) for other in others)}) == 6
    assert derive_seed(0, "x", 1, "fit") == derive_seed(0, "x", 1, "fit") != derive_seed(0, "x", 2, "fit")
    assert 0 <= derive_seed("anything") < 2**31


@pytest.mark.parametrize("wrong", [{"families": ()}, {"backbones": ()}, {"folds": 1}])
def test_settings_check_themselves(wrong: dict[str, object]) -> None:
    with pytest.raises(StudyError):
        replace(SETTINGS, **wrong)  # type: ignore[arg-type]
