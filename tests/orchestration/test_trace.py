"""`biomass trace`: from a submission file alone back to what made it, and the plain truth where nothing did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import hand_made_study as made
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from biomass_models.data.table import masses_to_long
from biomass_models.targets import FROM_COMPONENTS, TARGETS
from orchestration.blending.blend import BlendOptions, run_ensemble
from orchestration.blending.members import FileMembers
from orchestration.cli import app
from orchestration.inspect.trace import TraceError, trace
from orchestration.inspect.trace_page import render_trace
from orchestration.study.derived.blends import Origin
from orchestration.study.environment import code_version
from orchestration.study.ledger import Ledger, LedgerError
from orchestration.study.records import TrialRef

IDS, TEST_IDS = [f"ID{row:02d}" for row in range(40)], [f"T{row}" for row in range(6)]


def masses(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).gamma(1.5, [12.0, 6.0, 4.0], (rows, 3)) @ FROM_COMPONENTS.T


def wide(ids: list[str], pred_NT: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"image_id": ids, **dict(zip(TARGETS, pred_NT.T, strict=True))})


@pytest.fixture
def files(tmp_path: Path) -> FileMembers:
    """Two members as files, with their truth and test predictions."""
    rng, truth_NT, test_NT = np.random.default_rng(0), masses(40, 1), masses(6, 2)
    train = masses_to_long(wide(IDS, truth_NT))
    train["Sampling_Date"], train["State"] = np.repeat([f"2015/9/{1 + row // 8}" for row in range(40)], 5), "Tas"
    train.to_csv(tmp_path / "train.csv", index=False)
    for name in "ab":
        (tmp_path / name).mkdir()
        wide(IDS, np.maximum(truth_NT + rng.normal(0, 4, (40, 5)), 0)).to_csv(tmp_path / name / "oof.csv", index=False)
        wide(TEST_IDS, test_NT + rng.uniform(0, 1, (6, 5))).to_csv(tmp_path / name / "test.csv", index=False)
    patterns = {"oof": (str(tmp_path / "?/oof.csv"),), "tests": (str(tmp_path / "?/test.csv"),)}
    return FileMembers(**patterns, truth=tmp_path / "train.csv")


def blend(files: FileMembers, out: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = run_ensemble(
        [], files, data_dir=None, out=out, options=BlendOptions(), seed=0,
        open_predictor=lambda _: pytest.fail("nothing is predicted"), say=lambda _: None, show=lambda *_: None,
    )  # fmt: skip
    return path, json.loads((out / "ensemble.json").read_text())


@pytest.fixture
def study(tmp_path: Path, files: FileMembers) -> tuple[Ledger, Path]:
    """A study whose ensemble `best` wrote a submission, of which a copy lies beside the study."""
    ledger = made.empty_study(tmp_path / "project" / "study")
    trials = [made.propose(ledger, number) for number in range(2)]
    for trial, score in zip(trials, (0.5, 0.6), strict=True):
        made.complete(ledger, trial, score)
    path, card = blend(files, tmp_path / "files")
    origin, content = Origin.from_json(card.pop("origin")), path.read_bytes()
    card["members"] = {trials[1]: 0.75, trials[0]: 0.25}
    refs = {trial: TrialRef(ledger.storage.uri, trial) for trial in trials}
    ledger.write_ensemble("best", card, refs, content, origin=origin)
    copy = tmp_path / "project" / "submission.csv"
    copy.write_bytes(content)
    return ledger, copy


def test_the_file_alone_leads_back_to_trials_data_and_code(study: tuple[Ledger, Path]) -> None:
    ledger, submission = study
    found = trace(submission)
    assert (found.ensemble, found.where, found.note) == ("best", ledger.storage.uri, None)
    assert [(one.trial_id, one.weight) for one in found.members] == [("0000000001", 0.75), ("0000000000", 0.25)]
    first = found.members[0]
    assert first.record is not None and first.record.config == ledger.trial("0000000001").config
    assert first.score == 0.6 and first.fold_scores == pytest.approx((0.5, 0.6, 0.7))
    assert found.studies == {ledger.storage.uri: ledger.study()}
    assert found.origin.code == code_version() and found.origin.test.images == 6
    text = render_trace(found)
    for part in ("probe, trial 1, 0.6000 out of fold", "0.7500", "data         d", "folds        f", "pooling=global"):
        assert part in text
    assert f"source {code_version().source}" in text
    stored = Path(ledger.storage.uri) / "ensembles" / "best" / "submission.csv"
    assert trace(stored).ensemble == "best", "the study's own copy is found from where it lies"


def test_a_study_may_move_together_with_its_submission(study: tuple[Ledger, Path], tmp_path: Path) -> None:
    _, submission = study
    shutil.move(submission.parent, tmp_path / "moved")
    found = trace(tmp_path / "moved" / "submission.csv")
    assert found.where == str(tmp_path / "moved" / "study") and found.members[0].record is not None


def test_an_ensemble_without_an_origin_is_found_by_content(study: tuple[Ledger, Path]) -> None:
    ledger, submission = study
    path = Path(ledger.storage.uri) / "ensembles" / "best" / "ensemble.json"
    marker = json.loads(path.read_text())
    path.write_text(json.dumps({"card": marker["card"], "trials": marker["trials"], "files": marker["files"]}))
    found = trace(submission)
    assert found.members[0].trial_id == "0000000001" and found.members[0].record is not None
    assert "code         not recorded" in render_trace(found)


def test_a_changed_file_is_told_so_with_the_nearest(study: tuple[Ledger, Path], tmp_path: Path) -> None:
    ledger, submission = study
    lines = submission.read_text().splitlines()
    name, value = lines[3].split(",")
    changed = tmp_path / "elsewhere" / "changed.csv"
    changed.parent.mkdir()
    changed.write_text("\n".join([*lines[:3], f"{name},{float(value) + 2.5}", *lines[4:]]) + "\n")
    with pytest.raises(TraceError, match=r"no ensemble wrote exactly this file, .* looked at 0 in no study near it"):
        trace(changed)
    with pytest.raises(TraceError, match=r"The nearest is best in .*study: 1 row differs, by up to 2\.5 g"):
        trace(changed, [ledger.storage.uri])
    changed.write_text("\ufeff" + "\r\n".join(lines) + "\r\n")
    found = trace(changed, [ledger.storage.uri])
    assert found.ensemble == "best" and found.note is not None and "saved anew" in render_trace(found)
    changed.write_text("\n".join(lines[:-1]))
    with pytest.raises(TraceError, match=r"looked at 1 in .*study\. Give the study") as other_images:
        trace(changed, [ledger.storage.uri])
    assert "nearest" not in str(other_images.value)


def test_a_blend_of_files_leads_back_to_the_files(files: FileMembers, tmp_path: Path) -> None:
    path, card = blend(files, tmp_path / "blend")
    found = trace(path)
    assert found.where == str(tmp_path / "blend" / "ensemble.json") and found.studies == {}
    assert {member.name: member.weight for member in found.members} == card["members"]
    assert all(file.now == "as it was" for member in found.members for file in member.files.values())
    assert f"{tmp_path / 'a' / 'oof.csv'}" in render_trace(found) and "train.csv" in render_trace(found)
    (tmp_path / "a" / "oof.csv").write_text("something else")
    (tmp_path / "b" / "test.csv").unlink()
    text = render_trace(trace(path))
    assert "changed since" in text and "gone" in text and "as it was" in text


def test_members_of_a_study_that_is_gone_are_named(study: tuple[Ledger, Path], tmp_path: Path) -> None:
    ledger, submission = study
    other = made.empty_study(tmp_path / "other")
    marker = json.loads(ledger.storage.read("ensembles/best/ensemble.json"))
    marker["trials"]["0000000000"] = [other.storage.uri, "0000000009"]
    ledger.storage.write("ensembles/best/ensemble.json", json.dumps(marker).encode())
    assert f"trial 0000000009 of {other.storage.uri}, which is not there any more" in render_trace(trace(submission))
    shutil.rmtree(other.storage.uri)
    found = trace(submission)
    assert found.studies[other.storage.uri] is None
    assert f"Study {other.storage.uri} is not there any more" in render_trace(found)


def test_the_command(study: tuple[Ledger, Path], tmp_path: Path) -> None:
    ledger, submission = study
    result = CliRunner().invoke(app, ["trace", str(submission), "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and found["ensemble"] == "best" and len(found["members"]) == 2
    assert CliRunner().invoke(app, ["trace", str(submission)]).stdout.startswith(str(submission))
    for arguments, kind, part in (
        ([str(tmp_path / "none.csv")], TraceError, "cannot be read"),
        ([str(tmp_path / "train.csv"), "--study", str(tmp_path)], LedgerError, "there is no study in"),
        ([str(Path(ledger.storage.uri) / "study.json")], TraceError, "no study that was looked at"),
    ):
        with pytest.raises(kind, match=part):
            CliRunner().invoke(app, ["trace", *arguments], catch_exceptions=False)
