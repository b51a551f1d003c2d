"""Every command of docs/answers.md, in its order, beside a study like the demo's on photographs with its names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx2
import pandas as pd
import pytest
from blended_study import finished_study
from commands import biomass, environment
from readme import commands
from test_all_rows import as_searched
from typer.testing import CliRunner

from biomass_models.pasture.make import make_pasture
from orchestration.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "answers.md"
ON_RAY = "--scale-out"
COMMANDS = [words for words in commands(page=PAGE) if ON_RAY not in words and words[1] != "serve"]
SERVED = [words for words in commands(page=PAGE) if words[1] == "serve"]  # run until they are stopped
SCALED = [words for words in commands(page=PAGE) if ON_RAY in words]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo leaves, with small pictures and one trial, and the page's own table."""
    folder = tmp_path_factory.mktemp("page")
    data = folder / "demo/data"
    make_pasture(data, images=357, test_images=120, seed=0, width=160, height=80)
    as_searched(finished_study(folder / "demo/study", data, folder / "cache", ("probe",)), data)
    (table,) = re.findall(r"such as\n\n((?:    .*\n)+)", PAGE.read_text())
    (folder / "new.csv").write_text(textwrap.dedent(table))
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
    assert len(whole) == 120 and whole["unlike_percentile"].notna().all() and whole["unreadable"].isna().all()
    pd.testing.assert_frame_equal(whole, pd.read_csv("from-bundle.csv"))
    assert pd.read_csv("hectares.csv")["Dry_Total_kg_ha"].to_numpy() == pytest.approx(
        whole["Dry_Total_g"].to_numpy() * 10 / 0.21, rel=1e-4
    )
    means = pd.read_csv("paddocks-means.csv")
    assert means["photographs"].tolist() == [2, 2] and means["Dry_Total_g_high_80"].notna().all()
    of_table = whole[whole["photograph"].isin(pd.read_csv("paddocks.csv")["photograph"])]
    assert len(of_table) == 4 and means["Dry_Total_g"].mean() == pytest.approx(of_table["Dry_Total_g"].mean(), abs=1e-3)
    assert len(pd.read_csv("next.csv")) == 20 and Path("next.png").stat().st_size > 0
    single, joint = pd.read_csv("sure.csv"), pd.read_csv("together.csv")
    assert "Dry_Total_g_high_80" in single and "Dry_Total_g_high_50" in joint
    (cell,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    *before, shown = cell.strip().splitlines()
    names: dict[str, pd.DataFrame] = {}
    exec("\n".join(before), names)
    assert eval(shown, names)["Dry_Total_g"].to_numpy() == pytest.approx(whole["Dry_Total_g"].to_numpy(), abs=0.1)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.parametrize("words", SERVED, ids=["alone", "replicas"])
def test_the_page_for_the_field_is_served(folder: Path, words: list[str]) -> None:
    """In a process of its own, stopped by SIGTERM; asked as the page's `curl` asks."""
    biomass(*COMMANDS[0][1:], "--inline", cwd=folder)
    command = [sys.executable, "-m", "orchestration", *words[1:], "--json"]
    with subprocess.Popen(
        command, cwd=folder, env=environment(folder), text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        address = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")["predict"]
        photograph = next((folder / "demo/data/test").iterdir())
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
    biomass(*COMMANDS[0][1:], "--inline", cwd=folder)
    biomass(*SCALED[0][1:], cwd=folder)
    assert pd.read_parquet(folder / "all.parquet")["Dry_Total_g"].notna().all()
