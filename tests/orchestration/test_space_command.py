"""The command that shows what is searched: its table, its file, and what it advises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import hand_made_study as hand
import pytest
from commands import output, refused
from released import copy_of

from biomass_models.families.probe.config import ProbeConfig
from orchestration.search.prepare import change_ranges
from search_spaces.range_files import RangesError, read_changes


def test_the_space_command_shows_what_would_be_searched(tmp_path: Path) -> None:
    text = output("space", "probe", "--scale", "cpu")
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(re.sub(r"[│┃]", " ", text).split())
    assert "log targets predict below" in words and "transform" in words
    mine = tmp_path / "my.toml"
    mine.write_text(output("space", "--toml", "--scale", "gpu"))
    assert output("space", "--toml", "--scale", "gpu", "--space", str(mine)) == mine.read_text()
    found = json.loads(output("space", "probe", "--json", "--set", "probe.layers=1"))["families"]["probe"]
    fields = {row["name"]: row for row in found["fields"]}
    assert fields["layers"]["fixed"] == 1 and fields["layers"]["range"] is None
    assert fields["transform"] | {"about": "", "reason": ""} == {
        "name": "transform", "range": "log1p | sqrt | none", "fixed": None, "default": "log1p", "about": "",
        "reason": "", "own": None,
    }  # fmt: skip
    assert set(fields) == set(ProbeConfig.__dataclass_fields__)
    assert (fields["layers"]["own"], fields["layers"]["reason"]) == ("--set probe.layers=1", "")
    assert fields["size"]["own"] is None and fields["size"]["reason"]
    other = refused("space", "probe", "--set", "baseline.dropout=0.1")
    assert other.endswith("got baseline; leave it out, or show it as well: biomass space probe baseline")
    assert output("space", "probe", "baseline", "--set", "baseline.dropout=0.1")
    ledger = copy_of("finished", tmp_path)
    study = ["--study", ledger.storage.uri]
    assert refused("space", *study, "--set", "stack.regressor=ridge").endswith("leave it out")
    own = output("space", "probe", "--study", ledger.storage.uri, "--toml")
    assert "[probe]" in own and '"test_vit.r160_in1k"' in own
    assert "did you mean probe" in refused("space", "prob", "--study", ledger.storage.uri)


def test_what_the_space_command_advises_is_of_the_ranges_that_it_shows(tmp_path: Path) -> None:
    """Also the file: a search of another scale refuses it."""

    def advice(*words: str) -> list[str]:
        lines = output("space", *words).splitlines()
        return [line.strip() for line in lines[lines.index("To change them:") + 1 :]]

    assert advice("probe", "stack", "--scale", "gpu", "--backbone", "net") == [
        "biomass space probe stack --scale gpu --backbone net --toml > my.toml",
        "biomass search --scale gpu --backbone net --space my.toml",
    ]
    assert advice("probe") == [
        "biomass space probe --scale cpu --toml > my.toml",
        "biomass search --scale cpu --space my.toml",
    ]
    study = copy_of("finished", tmp_path).storage.uri
    assert advice("--study", study) == [
        f"biomass space --study {study} --toml > my.toml",
        f"biomass search {study} --space my.toml",
    ]
    mine = tmp_path / "my.toml"
    mine.write_text(output("space", "probe", "--scale", "gpu", "--toml"))
    message = r"my.toml:\d+: the file has the ranges of --scale gpu, the search is of --scale (cpu|smoke)"
    assert re.search(message, refused("space", "probe", "--space", str(mine)))
    assert re.search(message, refused("space", "probe", "--study", study, "--space", str(mine)))
    ledger = hand.empty_study(tmp_path / "s")
    with pytest.raises(RangesError, match=message):
        change_ranges(ledger, ledger.study(), read_changes(mine), lambda line: None)
    mine.write_text(mine.read_text().replace('scale = "gpu"', 'scale = "gpus"'))
    assert "my.toml:8: scale is one of smoke, demo, cpu, gpu; got 'gpus'; did you mean gpu" in refused(
        "space", "--space", str(mine)
    )


def test_the_space_command_refuses_a_backbone_that_the_study_has_not(tmp_path: Path) -> None:
    study = copy_of("finished", tmp_path).storage.uri
    assert "got typo; name it with --backbone" in refused("space", "--study", study, "--set", "probe.backbone=typo")
    typed = ("space", "probe", "--backbone", "net", "--set", "probe.backbone=typo")
    assert "one of the study's, net; got typo" in refused(*typed)


def test_the_space_command_marks_what_is_the_users(tmp_path: Path) -> None:
    ledger = hand.empty_study(tmp_path / "s")
    change_ranges(ledger, ledger.study(), read_changes(None, ["probe.transform=sqrt"]), lambda line: None)
    text = output("space", "probe", "--study", ledger.storage.uri)
    words = " ".join(re.sub(r"[│┃]", " ", text).split())
    assert "yours: --set probe.transform=sqrt" in words and "log targets predict below" not in words
