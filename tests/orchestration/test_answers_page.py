"""Every command of docs/answers.md, in its order, on a study of the tiny pasture."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pandas as pd
import pytest
from blended_study import finished_study
from commands import biomass, environment
from readme import commands
from test_all_rows import as_searched
from typer.testing import CliRunner

from orchestration.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "answers.md"
ON_RAY = "--scale-out"
COMMANDS = [words for words in commands(page=PAGE) if ON_RAY not in words and words[1] != "serve"]
SERVED = [words for words in commands(page=PAGE) if words[1] == "serve"]  # run until they are stopped
SCALED = [words for words in commands(page=PAGE) if ON_RAY in words]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> Path:
    """As the page supposes it: a study, a folder and a table of new photographs."""
    folder = tmp_path_factory.mktemp("page")
    as_searched(finished_study(folder / "runs/first", tiny_pasture, folder / "cache", ("probe",)), tiny_pasture)
    (folder / "DIR").symlink_to(tiny_pasture)
    shutil.copytree(tiny_pasture / "test", folder / "new-photographs")
    shutil.copytree(tiny_pasture / "test", folder / "walked")
    rows = [
        {"path": f"new-photographs/{path.name}", "paddock": "ab"[number % 2], "date": "2026-11-02"}
        for number, path in enumerate(sorted((folder / "new-photographs").iterdir()))
    ]
    pd.DataFrame(rows).to_csv(folder / "new.csv", index=False)
    return folder


@pytest.mark.slow
def test_every_command_of_the_page_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BIOMASS_CACHE", str(folder / "cache"))
    assert len(COMMANDS) >= 9
    for words in COMMANDS:
        inline = ["--inline"] if words[1] == "ensemble" else []
        result = CliRunner().invoke(app, [*words[1:], *inline], env={"COLUMNS": "80"}, catch_exceptions=False)
        assert result.exit_code == 0, f"{words}: {result.output}"
    whole = pd.read_csv("masses.csv")
    assert whole["unlike_percentile"].notna().all() and whole["unreadable"].isna().all()
    pd.testing.assert_frame_equal(whole, pd.read_csv("from-bundle.csv"))
    assert pd.read_csv("hectares.csv")["Dry_Total_kg_ha"].to_numpy() == pytest.approx(
        whole["Dry_Total_g"].to_numpy() * 10 / 0.21, rel=1e-4
    )
    means = pd.read_csv("paddocks-means.csv")
    assert means["photographs"].tolist() == [3, 3]
    assert means["Dry_Total_g"].mean() == pytest.approx(whole["Dry_Total_g"].mean(), abs=1e-3)
    assert len(pd.read_csv("next.csv")) == 6 and Path("next.png").stat().st_size > 0
    single, joint = pd.read_csv("sure.csv"), pd.read_csv("together.csv")
    assert "Dry_Total_g_high_80" in single and "Dry_Total_g_high_50" in joint


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.parametrize("words", SERVED, ids=["alone", "replicas"])
def test_the_page_for_the_field_is_served(folder: Path, words: list[str]) -> None:
    """In a process of its own, stopped by SIGTERM; asked as the page's `curl` asks."""
    biomass("ensemble", "runs/first", "--data", "DIR", "--out", "submission.csv", "--inline", cwd=folder)
    command = [sys.executable, "-m", "orchestration", *words[1:], "--json"]
    with subprocess.Popen(
        command, cwd=folder, env=environment(folder), text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        address = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")["predict"]
        photograph = next((folder / "new-photographs").iterdir())
        sent = {"photographs": (photograph.name, photograph.read_bytes())}
        answer = httpx2.post(address, files=sent, data={"unit": "kg/ha", "area": "0.21"}, timeout=200).json()
        process.terminate()
        assert process.wait(60) == 0
    assert answer["unit"] == "kg/ha" and answer["photographs"][0]["masses"]["Dry_Total"]["mass"] > 0


@pytest.mark.ray
@pytest.mark.long
def test_the_command_for_many_photographs_runs(folder: Path) -> None:
    """With Ray, in a process of its own; its bytes are those of one process (test_answers_on_ray.py)."""
    assert len(SCALED) == 1
    biomass("ensemble", "runs/first", "--data", "DIR", "--out", "submission.csv", "--inline", cwd=folder)
    biomass(*SCALED[0][1:], cwd=folder)
    assert pd.read_parquet(folder / "all.parquet")["Dry_Total_g"].notna().all()
