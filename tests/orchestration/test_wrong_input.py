"""Wrong command lines and wrong files, through the real boundary to the user: exit code 1 or 2, at most three lines of
80 columns that say what to do, and nothing written.

In this process: a command that fails needs no process of its own to show it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hand_made_study import complete, empty_study, propose

from biomass_models.data.table import masses_to_long, read_test_rows, read_train
from biomass_models.targets import TARGETS
from orchestration import cli

Spoil = Callable[[Path], None]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Path:
    """A data directory `data`, a study `study`, prediction files `oof/` and `pred/`, a submission `good.csv`."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copytree(tiny_pasture, folder / "data")
    ledger = empty_study(folder / "study")
    complete(ledger, propose(ledger, 1), 0.5)
    train, rows = read_train(folder / "data"), read_test_rows(folder / "data")
    rng = np.random.default_rng(0)
    for name in ("ash", "elm"):
        noisy = train[["image_id", *TARGETS]].copy()
        noisy[list(TARGETS)] += rng.normal(0, 3, (len(noisy), 5))
        (folder / "oof").mkdir(exist_ok=True)
        noisy.to_csv(folder / "oof" / f"{name}.csv", index=False)
    rows[["sample_id"]].assign(target=0.0).to_csv(folder / "good.csv", index=False)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copytree(prepared, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("BIOMASS_CACHE", str(tmp_path / "here" / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield tmp_path / "here"


def nothing(_: Path) -> None:
    """The command line alone is wrong."""


def train(change: Callable[[pd.DataFrame], pd.DataFrame], **how: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "data" / "train.csv"
        change(pd.read_csv(path, dtype=str)).to_csv(path, index=False, **how)  # type: ignore[call-overload]

    return spoil


def test_table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "data" / "test.csv"
        change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)

    return spoil


test_table.__test__ = False  # type: ignore[attr-defined]  # no test: it makes what spoils test.csv


def submission(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Spoil:
    def spoil(folder: Path) -> None:
        change(pd.read_csv(folder / "good.csv")).to_csv(folder / "bad.csv", index=False)

    return spoil


def oof(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Spoil:
    """All prediction files are wrong in one way: there is nothing to blend."""

    def spoil(folder: Path) -> None:
        for path in (folder / "oof").iterdir():
            change(pd.read_csv(path)).to_csv(path, index=False)

    return spoil


def scaled(factor: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**{name: frame[name] * factor for name in TARGETS})


def labels(folder: Path) -> None:
    for path in (folder / "oof").iterdir():
        read_train(folder / "data")[["image_id", *TARGETS]].to_csv(path, index=False)


def photographs(change: Spoil) -> Spoil:
    def spoil(folder: Path) -> None:
        for path in sorted((folder / "data" / "train").iterdir()):
            change(path)

    return spoil


def to_upper(path: Path) -> None:
    path.rename(path.with_suffix(".JPG"))


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:900])


def page(folder: Path) -> None:
    (folder / "data" / "train.csv").write_text("<html>\n</html>\n")


def in_log_space(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**np.log1p(frame[list(TARGETS)].clip(0)))


def long_predictions(folder: Path) -> None:
    for path in (folder / "oof").iterdir():
        long = masses_to_long(pd.read_csv(path))
        long.assign(pred_a=long["target"], pred_b=long["target"]).drop(columns="target").to_csv(path, index=False)


FILES = ["ensemble", "--oof", "oof/*.csv", "--truth", "data/train.csv", "--out", "blend"]
CHECK = ["data", "check", "data"]
SUBMIT = ["submission", "check", "bad.csv", "--data", "data"]
SEARCH = ["search", "new", "--data", "data", "--trials", "1", "--weights", "random"]


@dataclass(frozen=True)
class Case:
    arguments: list[str]
    says: str
    spoil: Spoil = field(default=nothing)
    code: int = 1


CASES = {
    # wrong command lines
    "no such option": Case(["leaderboard", "study", "--tpo", "3"], "No such option: --tpo", code=2),
    "no such command": Case(["leaderbord", "study"], "No such command 'leaderbord'", code=2),
    "missing argument": Case(["status"], "Missing argument 'STUDY'", code=2),
    "missing option": Case(["submission", "check", "good.csv"], "Missing option '--data'", code=2),
    "too many arguments": Case(["status", "study", "other"], "unexpected extra argument", code=2),
    "text for a number": Case([*SEARCH[:-4], "--trials", "many"], "'--trials'", code=2),
    "number out of range": Case([*SEARCH, "--folds", "1"], "'--folds'", code=2),
    "option without value": Case(["score", "good.csv", "--truth"], "requires an argument", code=2),
    "no end of a search": Case(["search", "new", "--data", "data"], "give --trials N or --hours H", code=2),
    "pasture of nothing": Case(["data", "make", "new", "--images", "0"], "'--images'", code=2),
    "study in the data": Case([*SEARCH[:1], "data/new", *SEARCH[2:]], "lies in the data directory data; name another"),
    "study is the data": Case([*SEARCH[:1], "data", *SEARCH[2:]], "data is the data directory data; name another"),
    "data in the study": Case([*SEARCH[:1], ".", *SEARCH[2:]], ". holds the data directory data; name another"),
    "study misspelt": Case(["status", "stduy"], "did you mean"),
    "data misspelt": Case([*SEARCH[:3], "dta", *SEARCH[4:]], "did you mean data?"),
    "data is a file": Case(["data", "check", "good.csv"], "good.csv is a file"),
    "no such preset": Case([*SEARCH, "--preset", "cpu"], "a preset is one of"),
    "no such family": Case([*SEARCH, "--family", "prob"], "did you mean probe?"),
    "no such rule": Case([*FILES, "--rule", "gready"], "unknown rule 'gready'"),
    "no such follow-up": Case([*FILES, "--post", "zeroes"], "did you mean zeros?"),
    "pattern matches nothing": Case(["ensemble", "--oof", "of/*.csv", *FILES[3:]], "'of/*.csv' matches none"),
    "no truth": Case(["ensemble", "--oof", "oof/*.csv"], "need --truth"),
    "truth misspelt": Case([*FILES[:4], "data/tran.csv"], "data/tran.csv cannot be read"),
    "blend without test predictions": Case([*FILES, "--data", "data"], "needs test predictions"),
    "blend into a text file": Case([*FILES[:-1], "s.txt"], "give s.csv"),
    "blend of a study into a table": Case(
        ["ensemble", "study", "--data", "data", "--out", "data/test.csv"], "must not overwrite a table"
    ),
    "sheet as JPEG": Case(["data", "show", "data", "--out", "sheet.jpg"], "name it sheet.png"),
    "report as text": Case(["report", "study", "--out", "report.txt"], "name it report.html"),
    "bundle as archive": Case(["export", "study", "blend", "--out", "bundle.zip"], "name it bundle"),
    "pasture into a full folder": Case(["data", "make", "data"], "must be new or empty"),
    # wrong files
    "submission misspelt": Case(["submission", "check", "god.csv", "--data", "data"], "did you mean good.csv?"),
    "submission from nowhere": Case(["submission", "check", "no/s.csv", "--data", "data"], "nor the folder no; check"),
    "submission with an index": Case(SUBMIT, "just these", lambda f: pd.read_csv(f / "good.csv").to_csv(f / "bad.csv")),
    "submission renamed": Case(SUBMIT, "to target", submission(lambda frame: frame.rename(columns={"target": "p"}))),
    "submission cut off": Case(SUBMIT, "each row of test.csv", submission(lambda frame: frame.iloc[:-3])),
    "submission of words": Case(SUBMIT, "30 rows: a mass is a finite", submission(lambda f: f.assign(target="x"))),
    "submission without test.csv": Case(
        ["submission", "check", "good.csv", "--data", "data"], "add it", lambda f: (f / "data/test.csv").unlink()
    ),
    "train.csv with semicolons": Case(CHECK, "got semicolons", train(lambda frame: frame, sep=";")),
    "train.csv with decimal commas": Case(
        CHECK, "write a decimal point", train(lambda f: f.assign(target=f["target"].str.replace(".", ",")))
    ),
    "train.csv without targets": Case(CHECK, "column target is required", train(lambda f: f.drop(columns="target"))),
    "train.csv with paths for ids": Case(
        CHECK, "train/ID1.jpg -> ID1", train(lambda f: f.assign(sample_id=f["image_path"] + "__" + f["target_name"]))
    ),
    "train.csv with other dates": Case(CHECK, "year first", train(lambda f: f.assign(Sampling_Date="4.9.2015"))),
    "train.csv is a page": Case(CHECK, "are required", page),
    "test.csv without rows": Case(CHECK, "at least one row", test_table(lambda frame: frame.iloc[:0])),
    "test.csv with half of the rows": Case(CHECK, "has all 5 targets", test_table(lambda frame: frame.iloc[::2])),
    "photographs in capitals": Case(CHECK, ".JPG', first in line 2; rename the files", photographs(to_upper)),
    "photographs not unpacked": Case(CHECK, "no folder 'train'", lambda f: shutil.rmtree(f / "data/train")),
    "photographs are pointers": Case(CHECK, "24 rows: a photograph is one of", photographs(pointer)),
    "photographs torn": Case(CHECK, "24 rows: a photograph is whole", photographs(torn)),
    "predictions are labels": Case(FILES, "equal the measured masses", labels),
    "predictions in log space": Case(FILES, "looks like log1p", oof(in_log_space)),
    "predictions in kg/ha": Case(FILES, "kg/ha to grams", oof(scaled(1 / 0.021))),
    "predictions twice": Case(FILES, "got pred_a, pred_b; keep one", long_predictions),
    "predictions of other images": Case(FILES, "unknown", oof(lambda f: f.assign(image_id="X" + f["image_id"]))),
    "predictions without one target": Case(FILES, "add GDM_g", oof(lambda f: f.drop(columns="GDM_g"))),
    "scored file misspelt": Case(["score", "god.csv", "--truth", "data/train.csv"], "did you mean good.csv?"),
}


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file and folder below."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size if path.is_file() else 0, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def lines_at_80(text: str) -> int:
    return sum(-(-max(len(line), 1) // 80) for line in text.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_wrong_input_ends_with_three_lines_and_writes_nothing(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    case.spoil(folder)
    before = tree(folder)
    monkeypatch.setattr(sys, "argv", ["biomass", *case.arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert stop.value.code == case.code, out + err
    said = out + err
    assert case.says in " ".join(said.split()), said
    # progress, and the count of a check, are no part of the message
    kept = [line for line in said.splitlines() if not line.startswith(("Checking images", "Blending"))]
    message = "\n".join(line for line in kept if " warnings in " not in line)
    message = message.replace(str(folder.resolve()), "/home/scientist/pasture")  # a test's folder has a long name
    assert lines_at_80(message) <= 3, message
    assert tree(folder) == before


def test_the_table_has_fifty_cases() -> None:
    assert len(CASES) >= 50 and {case.code for case in CASES.values()} == {1, 2}
