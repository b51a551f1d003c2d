"""`biomass ensemble` on anybody's files: no study, no torch, no Ray; every mistake is one clear error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from biomass_models.data.table import masses_to_long
from biomass_models.errors import UserError
from biomass_models.targets import FROM_COMPONENTS, TARGETS, weighted_r2_score
from ensembles.card import Card
from ensembles.submission import check_submission
from orchestration.blending.blend import BlendOptions, make_cards, run_ensemble, submission_of, write_outputs
from orchestration.blending.members import FileMembers, gather

ROOT = Path(__file__).parents[2]


def masses(images: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).gamma(1.5, [12.0, 6.0, 4.0], (images, 3)) @ FROM_COMPONENTS.T


def wide(ids: list[str], pred_NT: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"image_id": ids, **dict(zip(TARGETS, pred_NT.T, strict=True))})


@pytest.fixture
def runs(tmp_path):
    """Four sound members and a broken one, with test predictions, beside a data directory as it is shipped."""
    rng = np.random.default_rng(0)
    ids, test_ids = [f"ID{row:03d}" for row in range(80)], [f"T{row:02d}" for row in range(12)]
    truth_NT, test_NT = masses(80, 1), masses(12, 2)
    date = [f"2015/9/{1 + row // 8}" for row in range(80)]
    train = masses_to_long(wide(ids, truth_NT))
    train["Sampling_Date"], train["State"] = np.repeat(date, 5), "Tas"
    train.to_csv(tmp_path / "train.csv", index=False)
    rows = masses_to_long(wide(test_ids, test_NT))[["sample_id"]].sample(frac=1, random_state=0)
    halves = rows["sample_id"].str.split("__", expand=True)
    rows["image_path"], rows["target_name"] = "test/" + halves[0] + ".jpg", halves[1]
    rows.to_csv(tmp_path / "test.csv", index=False)
    for name in "abcd":
        (tmp_path / name).mkdir()
        wide(ids, np.maximum(truth_NT + rng.normal(0, 4, (80, 5)), 0)).to_csv(tmp_path / name / "oof.csv", index=False)
        test = np.maximum(test_NT + rng.normal(0, 4, (12, 5)), 0)
        masses_to_long(wide(test_ids, test)).to_csv(tmp_path / name / "test.csv", index=False)
    (tmp_path / "kilo").mkdir()
    wide(ids, truth_NT / 1000).to_csv(tmp_path / "kilo" / "oof.csv", index=False)
    wide(test_ids, test_NT / 1000).to_parquet(tmp_path / "kilo" / "test.csv")  # not even a CSV
    return tmp_path, test_ids, test_NT


@pytest.mark.slow
def test_no_submission_is_written_where_one_of_them_is_not_valid(runs):
    folder, test_ids, _ = runs
    files = FileMembers(oof=(f"{folder}/[ab]/oof.csv",), truth=folder / "train.csv", tests=(f"{folder}/[ab]/test.csv",))
    gathered = gather([], files, test_ids=test_ids, seed=0, say=lambda _: None)
    cards = make_cards(gathered, BlendOptions(candidates=2), None, lambda _: None)
    sound = submission_of(cards[0], gathered.tests.pred_NT, test_ids, folder)
    with pytest.raises(UserError, match=r"submission-2\.csv does not pass the validator"):
        write_outputs(
            gathered,
            [cards[0], cards[0]],
            [sound, sound[:-20]],
            folder / "out",
            study=None,
            data_dir=folder,
            origin=lambda card, written: {},
        )
    assert not (folder / "out").exists()


def biomass(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, which then says what it had to load."""
    code = (
        "import sys; sys.argv[0] = 'biomass'\nfrom orchestration.cli import app\n"
        "try:\n    app()\nfinally:\n"
        "    print('loaded', sorted({'torch', 'ray', 'timm', 'optuna', 'sklearn'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)


@pytest.mark.slow
def test_files_make_a_blend_without_study_torch_or_ray(runs):
    folder, test_ids, test_NT = runs
    result = biomass(
        "ensemble", "--oof", "*/oof.csv", "--truth", "train.csv", "--groups", "Sampling_Date,State",
        "--test-predictions", "*/test.csv", "--data", ".", "--out", "blend", "--candidates", "2",
        "--post", "calibration", "--post", "per-target", "--post", "zeros", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "loaded []"
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "left out: kilo" in result.stdout and "calibration" in result.stdout and "valid" in result.stdout
    card = Card.from_json(json.loads((folder / "blend" / "ensemble.json").read_text()))
    assert set(card.members) <= set("abcd") and card.groups == 10
    assert set(card.follow_up_gains) >= {"calibration", "per-target", "zeros"}
    assert check_submission(folder / "blend" / "submission.csv", folder) == []
    written = pd.read_csv(folder / "blend" / "submission.csv").set_index("sample_id")["target"]
    pred_NT = np.array([[written[f"{image_id}__{name}"] for name in TARGETS] for image_id in test_ids])
    assert weighted_r2_score(test_NT, pred_NT) > 0.8


@pytest.mark.slow
def test_without_test_predictions_there_is_a_card_and_without_a_data_directory_a_submission(runs):
    folder, test_ids, _ = runs
    options = {"data_dir": None, "options": BlendOptions(), "seed": 0, "open_predictor": lambda _: None}
    quiet = {"say": lambda _: None, "show": lambda *_: None}
    files = FileMembers(oof=(str(folder / "?/oof.csv"),), truth=folder / "train.csv")
    assert run_ensemble([], files, out=folder / "card", **options, **quiet) == []
    assert {path.name for path in (folder / "card").iterdir()} == {"ensemble.json", "ensemble.txt"}
    files = FileMembers(oof=files.oof, truth=files.truth, tests=(str(folder / "?/test.csv"),))
    (path,) = run_ensemble([], files, out=folder / "both", **options, **quiet)
    assert list(pd.read_csv(path)["sample_id"])[:5] == [f"{test_ids[0]}__{name}" for name in TARGETS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "give STUDY, or --oof"),
        (["--oof", "*/oof.csv"], "need --truth"),
        (["--oof", "*/none.csv", "--truth", "train.csv"], "matches none"),
        (["--oof", "*/oof.csv", "--truth", "gone.csv"], "gone.csv cannot be read"),
        (["--oof", "*/oof.csv", "--truth", "train.csv", "--groups", "Paddock"], "no column Paddock"),
        (["--oof", "*/oof.csv", "--truth", "train.csv", "--out", "x.csv"], "give --out DIR"),
        (["--oof", "*/oof.csv", "--truth", "train.csv", "--data", "."], "--test-predictions"),
        (["--oof", "*/oof.csv", "--truth", "train.csv", "--flips", "2"], "leave --flips out"),
        (["--oof", "*/oof.csv", "--truth", "train.csv", "--rule", "gready"], "unknown rule 'gready'"),
        (["--oof", "*/oof.csv", "--truth", "train.csv", "--post", "sharpening"], "a follow-up is one of"),
        (["--test-predictions", "*/test.csv", "--data", "."], "give STUDY, or --oof"),
        (["gone"], "there is no study in"),
        (["--truth", "train.csv", "--oof", "a/oof.csv", "b/oof.csv"], "put the pattern of --oof in quotes"),
        (["--oof", "*/oof.csv", "--truth", "train.csv", "--test-predictions", "d/te*.csv"], "name the files alike"),
    ],
)
def test_what_cannot_work_is_one_clear_error(runs, arguments, part, monkeypatch, capsys):
    from orchestration import cli

    folder, _, _ = runs
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["biomass", "ensemble", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    text = capsys.readouterr().err
    assert stop.value.code == 1 and part in text and text.count("error:") == 1 and "Traceback" not in text
    assert not (folder / "ensemble").exists()
