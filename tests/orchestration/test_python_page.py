"""docs/python.md: its examples run in their order, and no function is missing."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import ROOT, output

from biomass_models.errors import UserError
from orchestration import api
from orchestration.api import Study, search
from orchestration.python.typed import OPTIONS

PAGE = (ROOT / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_every_function_is_described() -> None:
    methods = [name for name, _ in inspect.getmembers(Study, inspect.isfunction) if not name.startswith("_")]
    for name in methods:
        assert re.search(rf"^\| `{name}\(", PAGE, flags=re.MULTILINE), f"docs/python.md lacks a row for Study.{name}"
    for name in api.__all__:
        assert re.search(rf"`{name}[`(]", PAGE), f"docs/python.md says nothing of {name}"
        if isinstance(each := getattr(api, name), type) and issubclass(each, UserError) and each is not UserError:
            assert f"| `{name}` | " in PAGE
    described = re.search(r"`study\.ensemble\((.*?)\)`", PAGE)
    assert described is not None
    given = dict(part.split("=") for part in re.split(r", (?=\w+=)", described[1]))
    own = inspect.signature(Study.ensemble).parameters
    assert {name: repr(own[name].default).replace("'", '"') for name in given} == given
    assert {"from_", "sharing", "families", "backbones"} <= set(OPTIONS)


@pytest.mark.slow
def test_its_examples_run(tiny_pasture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but for the number of trials, and in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIOMASS_CACHE", str(tmp_path / "cache"))
    Path("csiro-biomass").symlink_to(tiny_pasture)
    ranges: dict[str, Any] = {"backbones": "test_vit", "weights": "random", "scale": "smoke", "folds": 3}
    search("runs/first", "csiro-biomass", families=["probe", "baseline"], trials=4, inline=True, **ranges)
    for folder in ("new-photographs", "phone"):
        shutil.copytree(tiny_pasture / "test", folder)
    names = sorted(path.name for path in Path("phone").iterdir())
    rows = [{"path": f"phone/{name}", "paddock": "ab"[at % 2], "date": "2026-11-02"} for at, name in enumerate(names)]
    pd.DataFrame(rows).to_csv("new.csv", index=False)
    pd.DataFrame({"photo": names, "Total DM": range(1000, 1006)}).to_csv("cuts.csv", index=False)

    found: dict[str, Any] = {}
    for code in BLOCKS:
        if 'predict("bundle"' in code:
            output("export", "runs/first", "submission", "--out", "bundle")
        exec(
            code.replace("trials=60", "trials=6, inline=True").replace(
                '"submission.csv")', '"submission.csv", inline=True)'
            ),
            found,
        )
    assert found["study"].ending is None and found["blend"].written == (Path("submission.csv"),)
    assert found["masses"]["Dry_Total_kg_ha_low_80"].notna().all() and len(found["rows"]) == 24
    assert pd.read_csv("paddocks-means.csv")["photographs"].tolist() == [*found["paddocks"]["photographs"]] == [3, 3]
    assert found["trials"]["status"].tolist() == ["complete"] * 6
