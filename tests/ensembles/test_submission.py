"""Submissions: written in test.csv's order; every kind of mistake is found, all at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from small_libraries import truth_frame

from biomass_models.errors import UserError
from biomass_models.targets import TARGETS
from ensembles.submission import check_submission, require_valid, submission_bytes


@pytest.fixture
def valid(tmp_path):
    """A data directory whose test.csv has its rows in a wild order, masses for it, and a valid submission."""
    masses = truth_frame(8)[["image_id", *TARGETS]]
    rows = pd.DataFrame(
        [(f"{i}__{t}", f"test/{i}.jpg", t) for i in masses["image_id"] for t in TARGETS],
        columns=["sample_id", "image_path", "target_name"],
    ).sample(frac=1, random_state=0)
    rows.to_csv(tmp_path / "test.csv", index=False)
    path = tmp_path / "out" / "submission.csv"
    path.parent.mkdir()
    path.write_bytes(submission_bytes(rows, masses))
    return tmp_path, rows, masses, path


def test_rows_stand_in_test_csvs_order_with_their_masses(valid):
    data_dir, rows, masses, path = valid
    assert check_submission(path, data_dir) == []
    written = pd.read_csv(path)
    assert list(written.columns) == ["sample_id", "target"]
    assert list(written["sample_id"]) == list(rows["sample_id"])
    by_image = masses.set_index("image_id")
    for sample_id, target in written.itertuples(index=False):
        image_id, name = sample_id.split("__")
        assert target == pytest.approx(by_image.loc[image_id, name], abs=1e-6)
    assert path.read_bytes() == submission_bytes(rows, by_image)


def test_masses_that_cannot_be_submitted_are_refused(valid):
    _, rows, masses, _ = valid
    with pytest.raises(ValueError, match="5 have none"):
        submission_bytes(rows, masses.iloc[1:])
    for column, value in (("Dry_Dead_g", -1.0), ("Dry_Dead_g", np.nan), ("GDM_g", 1e6)):
        broken = masses.copy()
        broken.loc[2, column] = value
        with pytest.raises(ValueError, match="project_coherent"):
            submission_bytes(rows, broken)


def test_a_submission_is_refused_before_it_has_its_name(valid, monkeypatch, tmp_path):
    data_dir, _, _, path = valid
    content = path.read_bytes()
    require_valid(content, path.name, data_dir)
    torn = content.rsplit(b"\n", 2)[0] + b"\n"
    said = r"submission\.csv does not pass the validator, nothing was written: .*its mass"
    with pytest.raises(UserError, match=said):
        require_valid(torn, path.name, data_dir)
    assert path.read_bytes() == content


def swap(lines):
    return [lines[0], lines[2], lines[1], *lines[3:]]


@pytest.mark.parametrize(
    ("breaks", "rule", "row"),
    [
        (lambda lines: lines[:-1], "each row of test.csv has its mass", None),
        (lambda lines: [*lines, lines[4]], "a sample_id appears once", 42),
        (lambda lines: [*lines, "other__GDM_g,1"], "a sample_id is one of test.csv's", 42),
        (lambda lines: [*lines[:3], lines[3].split(",")[0] + ",", *lines[4:]], "a mass is a finite number", 4),
        (lambda lines: [*lines[:3], lines[3].split(",")[0] + ",inf", *lines[4:]], "a mass is a finite number", 4),
        (lambda lines: [*lines[:3], lines[3].split(",")[0] + ",-3", *lines[4:]], "a mass is not negative", 4),
        (lambda lines: [*lines[:3], lines[3].split(",")[0] + ",999", *lines[4:]], "GDM = Green + Clover", None),
        (swap, "rows stand in the order of test.csv", 2),
        (lambda lines: [f"{line},x" for line in lines], "the columns are sample_id,target and no others", 1),
        (lambda lines: ["id,mass", *lines[1:]], "a column sample_id|column", None),
    ],
)
def test_each_mistake_is_found(valid, breaks, rule, row):
    data_dir, _, _, path = valid
    path.write_text("\n".join(breaks(path.read_text().splitlines())) + "\n")
    problems = check_submission(path, data_dir)
    matching = [problem for problem in problems if any(part in problem.rule for part in rule.split("|"))]
    assert matching, problems
    assert all(problem.level == "error" and problem.remedy for problem in problems)
    if row is not None:
        assert matching[0].row == row


def test_all_mistakes_are_told_at_once(valid):
    data_dir, _, _, path = valid
    lines = path.read_text().splitlines()
    lines[1] = lines[1].split(",")[0] + ",-1"
    lines[2] = lines[2].split(",")[0] + ",much"
    lines[3] = "stranger__GDM_g,4"
    lines.append(lines[6])
    path.write_text("\n".join(lines) + "\n")
    rules = [problem.rule for problem in check_submission(path, data_dir)]
    for part in ("not negative", "finite number", "one of test.csv's", "appears once", "has its mass"):
        assert any(part in rule for rule in rules), part
    assert [problem.rule for problem in check_submission(path.with_name("gone.csv"), data_dir)]
