"""`biomass trace` of tables of masses and bundles: found where studies are now, and the truth of what none has made."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_trace import files, study  # noqa: F401  a study whose ensemble `best` wrote a submission
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.inspect.trace import TraceError, trace
from orchestration.inspect.trace_page import render_trace
from orchestration.study.derived.blends import GivenRecord
from orchestration.study.ledger import Ledger
from orchestration.study.records import WrittenFile
from orchestration.study.seeds import content_id
from orchestration.study.storage import Storage

TABLE = b"photograph,Dry_Total_g\na.jpg,12.5\n"


def record_of(ledger: Ledger, content: bytes, *, kind: str = "prediction") -> GivenRecord:
    return GivenRecord(
        kind=kind,
        ensemble="best",
        card=content_id(ledger.ensemble("best").card),
        study=ledger.storage.uri,
        file=WrittenFile(name="any", bytes=len(content), sha256=hashlib.sha256(content).hexdigest()),
        created_at=1e9,
    )


def predicted_by_a_bundle(ledger: Ledger, folder: Path, content: bytes = TABLE) -> Path:
    """A table with its origin beside it."""
    folder.mkdir()
    path = folder / "masses.csv"
    path.write_bytes(content)
    (folder / "masses.csv.origin.json").write_text(json.dumps(record_of(ledger, content).to_json()))
    return path


def bundle_of(ledger: Ledger, folder: Path, **changes: Any) -> Path:
    """What trace reads of a bundle."""
    folder.mkdir()
    card = dict(ledger.ensemble("best").card)
    marker = {"format": 1, "study": ledger.storage.uri, "ensemble": "best", "card": card, "study_card": None}
    (folder / "bundle.json").write_text(json.dumps(marker | changes))
    return folder


def moved(ledger: Ledger, folder: Path) -> Ledger:
    """As on another machine: nothing lies where it was."""
    shutil.move(ledger.storage.uri, folder)
    return Ledger(Storage(folder))


class TestAStudyThatLiesElsewhere:
    @pytest.mark.parametrize("made", [predicted_by_a_bundle, bundle_of])
    def test_is_the_one_that_is_named(self, study: tuple[Ledger, Path], tmp_path: Path, made: Any) -> None:  # noqa: F811
        path, ledger = made(study[0], tmp_path / "carried"), study[0]
        assert trace(path).where == ledger.storage.uri
        now = moved(ledger, tmp_path / "far" / "study")
        found = trace(path, [now.storage.uri])
        assert (found.ensemble, found.where, found.note) == ("best", now.storage.uri, None)
        assert [one.trial_id for one in found.members] == ["0000000001", "0000000000"]

    def test_or_lies_near(self, study: tuple[Ledger, Path], tmp_path: Path) -> None:  # noqa: F811
        path, bundle = predicted_by_a_bundle(study[0], tmp_path / "here"), bundle_of(study[0], tmp_path / "here/bundle")
        now = moved(study[0], tmp_path / "here" / "study")
        assert trace(path).where == trace(bundle).where == now.storage.uri

    def test_the_ensemble_may_have_another_name_there(
        self,
        study: tuple[Ledger, Path],  # noqa: F811
        tmp_path: Path,
    ) -> None:
        ledger, path = study[0], predicted_by_a_bundle(study[0], tmp_path / "here")
        Path(ledger.storage.uri, "ensembles/best").rename(Path(ledger.storage.uri, "ensembles/renamed"))
        assert trace(path).ensemble == "renamed"

    def test_another_ensemble_of_that_name_is_not_it(
        self,
        study: tuple[Ledger, Path],  # noqa: F811
        tmp_path: Path,
    ) -> None:
        path = predicted_by_a_bundle(study[0], tmp_path / "here")
        now = moved(study[0], tmp_path / "other")
        marker = json.loads(now.storage.read("ensembles/best/ensemble.json"))
        marker["card"]["seed"] = 77
        now.storage.write("ensembles/best/ensemble.json", json.dumps(marker).encode())
        with pytest.raises(TraceError, match=rf"none of {now.storage.uri}, .*/project/study has it; give the study"):
            trace(path, [now.storage.uri])

    def test_one_made_again_since_is_named_so(self, study: tuple[Ledger, Path], tmp_path: Path) -> None:  # noqa: F811
        ledger, path = study[0], predicted_by_a_bundle(study[0], tmp_path / "here")
        marker = json.loads(ledger.storage.read("ensembles/best/ensemble.json"))
        marker["card"]["seed"] = 77
        ledger.storage.write("ensembles/best/ensemble.json", json.dumps(marker).encode())
        for known in (path, bundle_of(ledger, tmp_path / "bundle", study_card="of-before")):
            assert "made again since" in (trace(known).note or "")


def test_a_copied_bundle_is_known_by_its_own_words(study: tuple[Ledger, Path], tmp_path: Path) -> None:  # noqa: F811
    bundle = bundle_of(study[0], tmp_path / "bundle")
    for path in (bundle, bundle / "bundle.json"):
        found = trace(path)
        assert (found.kind, found.ensemble, found.note) == ("bundle", "best", None)
        text = render_trace(found)
        assert "its own bundle.json" in text and "when         not recorded" not in text
    study[0].write_given(record_of(study[0], (bundle / "bundle.json").read_bytes(), kind="bundle"))
    assert "when         2001-09-09" in render_trace(trace(bundle, [study[0].storage.uri]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("masses.csv", TABLE),
        ("masses.parquet", b"PAR1\xff\xfe\x00"),
        ("bundle.json", b"{}"),
        ("bundle.json", b'{"card": [], "ensemble": 7, "study": null}'),
        ("bundle.json", b"[1]"),
        ("empty", b""),
    ],
)
def test_a_file_that_no_study_has_made_is_told_so(
    study: tuple[Ledger, Path],  # noqa: F811
    tmp_path: Path,
    name: str,
    content: bytes,
) -> None:
    """Whatever it is; nobody is told to bring a submission."""
    path = tmp_path / "far" / "lone" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for studies, looked in (([], "no study near it"), ([study[0].storage.uri], study[0].storage.uri)):
        with pytest.raises(TraceError, match=rf"looked at \({looked}\) has written .*{name}.*--study") as error:
            trace(path, studies)
        assert "target" not in str(error.value) and "codec" not in str(error.value)


def test_a_table_whose_content_was_changed_is_not_found(study: tuple[Ledger, Path], tmp_path: Path) -> None:  # noqa: F811
    path = predicted_by_a_bundle(study[0], tmp_path / "here")
    path.write_bytes(TABLE + b"b.jpg,1\n")
    with pytest.raises(TraceError, match="or it was changed since"):
        trace(path)


def test_help_names_what_can_be_traced() -> None:
    page = " ".join(CliRunner().invoke(app, ["trace", "--help"]).stdout.split())
    assert "table of masses" in page.lower() and "bundle" in page
