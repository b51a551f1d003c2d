"""The doctor's judgement of what nodes say, without a cluster (test_cluster.py has a real one)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import save_file
from tiny_study import BACKBONE, RANDOM

from biomass_models.backbones import weights
from biomass_models.backbones.weights import WeightsError, WeightsFileError, WeightsSource
from orchestration.doctor.examine import node_findings
from orchestration.doctor.node_facts import NodeFacts, node_facts
from orchestration.study import environment
from orchestration.study.storage import Storage
from orchestration.workers.cluster import refusal
from orchestration.workers.resources import Resources
from orchestration.workers.weights_here import available_backbones
from search_spaces.spaces import DEFAULT_BACKBONES

RESOURCES = Resources(cpus_per_fold=2.0)
WELL: dict[str, Any] = {
    "host": "node",
    "executable": "python",
    "free_cache_gb": 64.0,
    "time": 0.0,
    "python": "3.11.7",
    "versions": {"torch": "2.14.1"},
    "code": "abc",
    "gpus_seen": 1,
    "free_memory_gb": 64.0,
    "study": "",
    "data": "",
    "weights": {"net": "w"},
    "cache": "",
    "home": "",
    "cores": 8.0,
    "clock_off": 0.0,
}
NODE = {"CPU": 8.0, "GPU": 1.0}


def findings(*facts: dict[str, Any]) -> dict[str, str]:
    """Verdict by subject, of nodes called n0, n1, ..."""
    named = {f"n{number}": NodeFacts.from_json(fact) for number, fact in enumerate(facts)}
    return {
        found.what: found.verdict for found in node_findings(named, dict.fromkeys(named, NODE), RESOURCES, gpus=0.25)
    }


def test_alike_nodes_that_have_everything_pass() -> None:
    assert set(findings(WELL, WELL).values()) == {"ok"}


@pytest.mark.parametrize(
    ("wrong", "subject", "verdict"),
    [
        ({"python": "3.12.0"}, "Python", "FAIL"),
        ({"versions": {"torch": "2.9"}}, "packages", "FAIL"),
        ({"code": "def"}, "this project's code", "FAIL"),
        ({"gpus_seen": 0}, "GPUs of n1", "FAIL"),
        ({"study": "PermissionError: /shared"}, "study from n1", "FAIL"),
        ({"data": "/shared/csiro lacks train.csv"}, "data from n1", "FAIL"),
        ({"weights": {"net": "missing: put net.safetensors there"}}, "weights on n1", "FAIL"),
        ({"weights": {"net": "other"}}, "weights of net", "FAIL"),
        ({"weights": {"net": "unusable: net.pth must hold the weights of net"}}, "weights on n1", "FAIL"),
        ({"free_memory_gb": 3.0}, "memory of n1", "warn"),
        ({"cache": "features cannot be kept in /c (read-only file system), and are kept in /t"}, "cache of n1", "warn"),
        ({"home": "HOME (/root) cannot be written"}, "home of n1", "warn"),
        ({"cores": 0.5}, "cores of n1", "warn"),
        ({"cores": 6.0}, "cores of n1", "warn"),
        ({"clock_off": 90.0}, "clock of n1", "warn"),
        ({"clock_off": -90.0}, "clock of n1", "warn"),
    ],
)
def test_each_difference_is_found_and_comes_with_a_remedy(wrong: dict[str, Any], subject: str, verdict: str) -> None:
    sick = {**WELL, **wrong}
    assert findings(WELL, sick)[subject] == verdict
    named = {"n0": NodeFacts.from_json(WELL), "n1": NodeFacts.from_json(sick)}
    for found in node_findings(named, dict.fromkeys(named, NODE), RESOURCES, gpus=0.25):
        assert (found.verdict == "ok") == (found.remedy == "")


@pytest.mark.parametrize(
    ("says", "do"),
    [
        ("Ray auth failed: status 401 Unauthorized", "RAY_AUTH_MODE=token"),
        ("Version mismatch: The cluster was started with Ray 2.59", "same Ray and Python"),
        ("Could not connect to head:6379", "check the address"),
    ],
)
def test_a_ray_that_does_not_answer_is_explained(says: str, do: str) -> None:
    found = refusal(ConnectionError(says))
    assert do in found.remedy and says in str(found)


@pytest.mark.slow
def test_a_node_says_what_it_has(tmp_path: Path, tiny_pasture: Path) -> None:
    asked = {"cache_dir": str(tmp_path / "not" / "there"), "weights": RANDOM, "backbones": (BACKBONE,), "token": "t"}
    nothing = node_facts(study=str(tmp_path), data_dir=str(tmp_path), **asked)  # type: ignore[arg-type]
    assert "another folder" in nothing.study and "train.csv" in nothing.data
    Storage(tmp_path).write("doctor/t-driver", b"here")
    facts = node_facts(study=str(tmp_path), data_dir=str(tiny_pasture), **asked)  # type: ignore[arg-type]
    assert facts.study == facts.data == "" and facts.weights[BACKBONE].startswith("random")
    assert facts.free_memory_gb > 0 and facts.free_cache_gb > 0
    assert len(Storage(tmp_path).children("doctor")) == 2


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1224960\n"


def test_a_default_is_left_out_without_a_file_and_refused_with_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_from_hub", lambda name: (None, "timm's hub cannot be reached"))
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    said: list[str] = []
    with pytest.raises(WeightsError, match="no weights for"):
        available_backbones((), WeightsSource("folder", tmp_path), said.append)
    architecture = DEFAULT_BACKBONES[0].split(".")[0]
    (tmp_path / f"{architecture}.safetensors").write_bytes(POINTER)
    with pytest.raises(WeightsFileError, match="got a git-lfs pointer"):
        available_backbones((), WeightsSource("folder", tmp_path), said.append)


def test_a_weights_file_that_is_put_there_again_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    source, path = WeightsSource("folder", tmp_path), tmp_path / "test_vit.safetensors"
    path.write_bytes(POINTER)
    with pytest.raises(WeightsFileError, match="got a git-lfs pointer"):
        available_backbones(("test_vit",), source, lambda text: None)
    save_file({name: tensor.contiguous() for name, tensor in timm.create_model("test_vit").state_dict().items()}, path)
    (mark,) = available_backbones(("test_vit",), source, lambda text: None).values()
    assert mark != "random-test_vit"


@pytest.mark.parametrize(
    ("content", "said"),
    [(POINTER, "git-lfs pointer"), (b"", "empty file"), (b"<html>", "web page"), (None, "missing: ")],
)
def test_a_node_opens_its_weights_files(
    content: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    if content is not None:
        (tmp_path / f"{BACKBONE}.safetensors").write_bytes(content)
    source = WeightsSource("folder", tmp_path)
    asked: dict[str, Any] = {"cache_dir": str(tmp_path / "cache"), "weights": source, "backbones": (BACKBONE,)}
    facts = node_facts(study=None, data_dir=None, token="t", **asked)
    assert said in facts.weights[BACKBONE]
    here = replace(facts, gpus_seen=1)
    found = {finding.what: finding for finding in node_findings({"n0": here}, {"n0": NODE}, RESOURCES, 0.25)}
    assert found["weights on n0"].verdict == "FAIL" and said in found["weights on n0"].text


def test_a_node_hashes_the_whole_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any file of any package: a node that runs other code must be found."""
    package_files = environment.package_files

    def hash_with(change: str) -> str:
        files = {name: package_files(name) for name in environment.PROJECT_PACKAGES}
        if change:
            files[change.split("/")[0]][change] += b"# changed"
        environment.project_hash.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(environment, "package_files", files.__getitem__)
            found = environment.project_hash()
        environment.project_hash.cache_clear()
        return str(found)

    one_each = (
        "biomass_models/families/probe/model.py",
        "ensembles/rules.py",
        "orchestration/workers/pool.py",
        "search_spaces/spaces.py",
    )
    assert len({hash_with(""), *map(hash_with, one_each)}) == 5
    facts = node_facts(study=None, data_dir=None, token="t", cache_dir=str(tmp_path), weights=RANDOM, backbones=())
    assert facts.code == environment.project_hash()
