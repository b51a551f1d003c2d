"""`biomass predict`: photographs of any kind to masses with intervals, the same from a study and from its bundle."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from blended_study import blend_five, finished_study
from test_all_rows import as_searched
from tiny_study import RANDOM
from typer.testing import CliRunner
from unusable_pictures import strip, turned_with_a_wrong_tag, without_an_8_bit_form

from biomass_models.errors import UserError
from biomass_models.features.likeness import EmbeddingBank, Likeness
from biomass_models.targets import TARGETS
from orchestration.answers.opened import BlendPlace, OpenBlend, open_blend
from orchestration.answers.photographs import PATH, read_photographs
from orchestration.answers.predict import in_this_process, run_prediction
from orchestration.answers.shard import PERCENTILE, REASON, predict_shard
from orchestration.answers.table import TableOptions
from orchestration.answers.units import conversion
from orchestration.bundle.export import export_bundle
from orchestration.cli import app
from orchestration.study.ledger import LedgerError
from orchestration.study.mass_unit import GRAMS

pytestmark = pytest.mark.slow
NOTHING = lambda _: None  # noqa: E731  what is said


@pytest.fixture(scope="module")
def blended(tmp_path_factory, tiny_pasture):
    """A study with a blend of two trials, and its bundle."""
    folder = tmp_path_factory.mktemp("answers")
    ledger = finished_study(folder / "study", tiny_pasture, folder / "cache", ("probe", "baseline"))
    as_searched(ledger, tiny_pasture)
    submission = blend_five(ledger, tiny_pasture, folder)
    export_bundle(ledger.storage.uri, "submission", folder / "bundle", weights=RANDOM)
    return ledger, submission, folder


def predict(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)], env={"COLUMNS": "80"})
    assert result.exit_code == code, f"{result.output} {result.exception!r}"
    return f"{result.output} {result.exception or ''}"


@pytest.fixture
def table(tiny_pasture, tmp_path):
    """A user's table of the test photographs, two paddocks on two dates."""
    paths = sorted((tiny_pasture / "test").iterdir())
    rows = [
        {"paddock": "ab"[row % 2], "Date": f"2026-11-0{1 + row % 2}", "path": os.path.relpath(path, tmp_path)}
        for row, path in enumerate(paths)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "new.csv", index=False)
    return tmp_path / "new.csv"


def test_masses_are_those_of_the_submission(blended, tiny_pasture, tmp_path):
    _, submission, folder = blended
    predict(folder / "study", tiny_pasture / "test", "--out", tmp_path / "masses.csv", "--cache", folder / "cache")
    found = pd.read_csv(tmp_path / "masses.csv")
    found.index = found[PATH].map(lambda path: Path(path).stem)
    theirs = pd.read_csv(submission)
    ids = theirs["sample_id"].str.rsplit("__", n=1, expand=True)
    wide = theirs.assign(image=ids[0], name=ids[1]).pivot(index="image", columns="name", values="target")
    assert sorted(found.index) == sorted(wide.index)
    assert found.loc[wide.index, list(TARGETS)].to_numpy() == pytest.approx(wide[list(TARGETS)].to_numpy(), abs=1e-4)


def test_a_bundle_and_its_study_write_the_same_bytes(blended, table, tmp_path):
    _, _, folder = blended
    options = ("--by", "paddock,Date", "--level", "0.5,0.6", "--cache")
    predict(folder / "study", table, "--out", tmp_path / "study.csv", *options, folder / "cache")
    predict(folder / "bundle", table, "--out", tmp_path / "bundle.csv", *options, tmp_path / "other-cache")
    for name in ("study", "study-means"):
        mine, theirs = (tmp_path / f"{name.replace('study', kind)}.csv" for kind in ("study", "bundle"))
        assert mine.read_bytes() == theirs.read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_a_prediction_and_a_bundle_are_traced_by_their_content(blended, table, tmp_path):
    ledger, _, folder = blended

    def trace(path: Path) -> dict:
        result = CliRunner().invoke(app, ["trace", str(path), "--study", ledger.storage.uri, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    predict(folder / "study", table, "--out", tmp_path / "a.csv", "--cache", folder / "cache")
    predict(folder / "bundle", table, "--out", tmp_path / "b.csv", "--level", "0.7", "--cache", folder / "cache")
    (tmp_path / "a.csv").rename(tmp_path / "renamed.csv")
    for path, kind in (
        (tmp_path / "renamed.csv", "prediction"),
        (tmp_path / "b.csv", "prediction"),
        (folder / "bundle", "bundle"),
    ):
        found = trace(path)
        assert (found["kind"], found["ensemble"], found["note"]) == (kind, "submission", None)
        assert [member["trial_id"] for member in found["members"]] == list(ledger.ensemble("submission").trials)
    page = CliRunner().invoke(app, ["trace", str(tmp_path / "renamed.csv"), "--study", ledger.storage.uri]).stdout
    assert "a prediction," in page and "photographs  6, contents" in page
    (tmp_path / "other.csv").write_text("another")
    assert CliRunner().invoke(app, ["trace", str(tmp_path / "other.csv"), "--study", ledger.storage.uri]).exit_code == 1


class TestPhotographs:
    def test_of_all_kinds_in_their_order(self, tiny_pasture, tmp_path):
        first, second, *_ = sorted((tiny_pasture / "test").iterdir())
        (tmp_path / "list.txt").write_text(f"{os.path.relpath(second, tmp_path)}\n\n{first}\n")
        pd.DataFrame({"Photo": [first, "gone.jpg"], "plot": ["007", ""]}).to_csv(tmp_path / "t.csv", index=False)
        found = read_photographs([str(tiny_pasture / "test" / "*.jpg"), str(first), str(tmp_path / "list.txt")])
        assert found[PATH].map(os.path.realpath).nunique() == 6 and found[PATH][0] == str(first)
        found = read_photographs([str(tmp_path / "t.csv"), str(second)])
        assert list(found["plot"])[:2] == ["007", ""] and found[PATH].map(lambda path: Path(path).name).tolist() == [
            first.name, "gone.jpg", second.name,
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a,b\n1,2\n", "has a, b; rename one"),
            ("path\n", "at least one photograph"),
            ("path,n\na.jpg,1\n,2\n", "such as line 3"),
            ("path,n\na.jpg,1,\nb.jpg,2,\n", r"than the header \(2\), .* has 3 in line 2"),
            ('path,n\n\n"a\n.jpg",1\nb.jpg,2,3\n', "has 3 in line 5"),
        ],
    )
    def test_tables_that_name_none(self, tmp_path, content, message):
        (tmp_path / "t.csv").write_text(content)
        with pytest.raises(UserError, match=message):
            read_photographs([str(tmp_path / "t.csv")])

    def test_a_comma_at_the_end_of_every_line_is_an_empty_column(self, tmp_path):
        (tmp_path / "t.csv").write_text("path,plot,\na.jpg,N,\n")
        found = read_photographs([str(tmp_path / "t.csv")])
        assert [Path(found[PATH][0]).name, found["plot"][0]] == ["a.jpg", "N"]

    def test_names_that_stand_for_nothing(self, tmp_path):
        for text, message in (("gone", "is not there"), (str(tmp_path), "has none"), ("*.nothing", "no file")):
            with pytest.raises(UserError, match=message):
                read_photographs([text])


def test_what_cannot_be_read_has_a_line_and_the_rest_goes_on(blended, tiny_pasture, tmp_path):
    """A text called .jpg, a file that ends too early, a gone one: the others have the masses that they have alone."""
    _, _, folder = blended
    shutil.copytree(tiny_pasture / "test", tmp_path / "new")
    paths = sorted((tmp_path / "new").iterdir())
    paths[1].write_text("no photograph")
    paths[3].write_bytes(paths[3].read_bytes()[:-3000])
    paths[4].unlink()
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
    said = predict(folder / "study", tmp_path / "list.txt", "--out", tmp_path / "m.csv", "--cache", tmp_path / "cache")
    assert "3 photographs of 6 cannot be read" in said and "Masses of 3 photographs" in said
    found = pd.read_csv(tmp_path / "m.csv", keep_default_na=False, na_values=[""])
    assert list(found[REASON].isna()) == [True, False, True, False, False, True]
    assert found["Dry_Total_g"].isna().tolist() == found[REASON].notna().tolist()
    assert "is whole" in found[REASON][3] and "is needed" in found[REASON][4]
    predict(
        folder / "study",
        paths[0],
        paths[2],
        paths[5],
        "--out",
        tmp_path / "some.csv",
        "--cache",
        tmp_path / "new-cache",
    )
    alone = pd.read_csv(tmp_path / "some.csv")
    assert alone["Dry_Total_g"].tolist() == found["Dry_Total_g"].dropna().tolist()
    message = predict(folder / "study", paths[1], "--out", tmp_path / "none.csv", code=1)
    assert "none of 1 photograph can be read" in message and not (tmp_path / "none.csv").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
@pytest.mark.parametrize("out", ["m.csv", "m.PARQUET"])
def test_a_name_that_is_not_utf_8_is_written_with_escapes(blended, tiny_pasture, tmp_path, out):
    """Of a photograph that can be read, and of one that cannot."""
    _, _, folder = blended
    new = tmp_path / "new"
    new.mkdir()
    first, second, *_ = sorted((tiny_pasture / "test").iterdir())
    shutil.copy(first, os.fsencode(new) + b"/caf\xe9.jpg")
    Path(os.fsdecode(os.fsencode(new) + b"/torn\xe9.jpg")).write_text("no photograph")
    shutil.copy(second, new)
    said = predict(folder / "study", new, "--out", tmp_path / out, "--cache", folder / "cache")
    assert "Masses of 2 photographs" in said and "1 photograph of 3 cannot" in said
    found = pd.read_csv(tmp_path / out) if out == "m.csv" else pd.read_parquet(tmp_path / out)
    found.index = found[PATH].map(lambda path: Path(path).name)
    assert "torn\\udce9.jpg" in found.loc["torn\\udce9.jpg", REASON]
    assert found.loc[["caf\\udce9.jpg", second.name], "Dry_Total_g"].notna().all()


def test_what_pillow_opens_and_models_cannot_use_does_not_stop_the_rest(blended, tiny_pasture, tmp_path):
    """Refused once decoded, or by its header for its frame; a wrong EXIF tag is no reason."""
    _, _, folder = blended
    blend = open_blend(BlendPlace(str(folder / "study"), None, None))
    padding = replace(blend, members=tuple(replace(member, fit="pad") for member in blend.members), frozen={})
    good = sorted((tiny_pasture / "test").iterdir())[0]
    bad = [*without_an_8_bit_form(tmp_path), strip(tmp_path / "strip.png")]
    turned = turned_with_a_wrong_tag(tmp_path / "turned.jpg")
    paths = [str(path) for path in (*bad, turned, good)]
    found = predict_shard(padding, paths, cache=tmp_path / "cache")
    assert found[REASON].str.contains("8 or 16 bits").tolist() == [True] * 3 + [False] * 3
    assert "whose frame" in found[REASON][3] and found[REASON][4:].tolist() == ["", ""]
    alone = predict_shard(padding, paths[4:], cache=tmp_path / "other")
    pd.testing.assert_frame_equal(found[4:].reset_index(drop=True), alone)


def test_parts_that_are_there_are_not_predicted_again(blended, tiny_pasture, tmp_path, monkeypatch):
    """Killed after each part in turn, the table is that of an undisturbed run; another request begins anew: changed
    photographs, other threads, likeness that is known now."""
    _, _, folder = blended
    pairs = [(0, 2), (2, 4), (4, 6)]
    monkeypatch.setattr("orchestration.answers.predict.spans", lambda size: pairs)
    blend = open_blend(BlendPlace(str(folder / "study"), None, None))
    shutil.copytree(tiny_pasture / "test", tmp_path / "new")
    given = read_photographs([str(tmp_path / "new")])
    options = TableOptions(levels=(0.5,))
    whole = in_this_process(blend, cache=folder / "cache")
    done: list[tuple[int, int]] = []

    def run(out: Path, most: int, blend: OpenBlend = blend, **made_with: int) -> None:
        def dying(missing):
            for span, table in whole(missing):
                if len(done) == most:
                    raise KeyboardInterrupt
                done.append(span)
                yield span, table

        grams = conversion(GRAMS, None, None, given)
        run_prediction(blend, given, out, grams, options, work=dying, made_with=made_with, say=NOTHING)

    for most in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed.csv", most)
    run(tmp_path / "killed.csv", 99)
    assert done == pairs
    run(tmp_path / "whole.csv", 99)
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes() and len(done) == 6
    changed = Path(given[PATH][5])

    def begun(**how: Any) -> None:
        done.clear()
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed.csv", 1, **how)

    begun(threads=1)
    run(tmp_path / "killed.csv", 99, threads=2)
    assert done == [pairs[0], *pairs]
    begun(blend=replace(blend, likeness=None))
    run(tmp_path / "killed.csv", 99)
    assert done == [pairs[0], *pairs]
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    begun()
    changed.write_bytes(Path(given[PATH][0]).read_bytes())
    run(tmp_path / "killed.csv", 99)
    assert done == [pairs[0], *pairs]
    masses = pd.read_csv(tmp_path / "killed.csv")["Dry_Total_g"]
    assert masses[5] == pytest.approx(masses[0], rel=1e-3)


def test_photographs_that_were_mended_are_looked_at_again(blended, tiny_pasture, tmp_path):
    """By the same command, after none could be read, to the size and second of the torn file."""
    _, _, folder = blended
    good, path = sorted((tiny_pasture / "test").iterdir())[0], tmp_path / "a.jpg"
    path.write_bytes(bytes(good.stat().st_size))
    before = path.stat()
    arguments = (folder / "study", path, "--out", tmp_path / "m.csv", "--cache", tmp_path / "cache")
    assert "none of 1 photograph can be read" in predict(*arguments, code=1)
    assert not list(tmp_path.glob("*.parts"))
    path.write_bytes(good.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "Masses of 1 photographs" in predict(*arguments)


def test_an_old_card_predicts_and_says_how_to_get_intervals(blended, table, tmp_path):
    _, _, folder = blended
    shutil.copytree(folder / "study", tmp_path / "study")
    path = tmp_path / "study/ensembles/submission/ensemble.json"
    content = json.loads(path.read_text())
    del content["card"]["intervals"]
    path.write_text(json.dumps(content))
    said = predict(tmp_path / "study", table, "--out", tmp_path / "old.csv", "--cache", folder / "cache")
    assert "one fold" in " ".join(said.split()) and "biomass ensemble" in " ".join(said.split())
    assert not [name for name in pd.read_csv(tmp_path / "old.csv") if "_low_" in name]


def test_embeddings_that_are_not_kept_come_from_the_searchs_photographs(blended, table, tiny_pasture, tmp_path):
    _, _, folder = blended
    shutil.copytree(folder / "study", tmp_path / "study")
    for kept in (tmp_path / "study/ensembles").glob("oof-embeddings-*"):
        shutil.rmtree(kept)
    options = ("--cache", folder / "cache", "--weights", "random")
    said = predict(tmp_path / "study", table, "--out", tmp_path / "a.csv", *options)
    assert "--data DIR`, with that of the search" in " ".join(said.split()) and PERCENTILE not in pd.read_csv(
        tmp_path / "a.csv"
    )
    predict(tmp_path / "study", table, "--out", tmp_path / "b.csv", "--data", tiny_pasture, *options)
    predict(folder / "study", table, "--out", tmp_path / "c.csv", *options)
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()
    assert pd.read_csv(tmp_path / "b.csv")[PERCENTILE].between(0, 100).all()


def test_a_bundle_without_embeddings_is_exported_again(blended, table, tiny_pasture, tmp_path):
    _, _, folder = blended
    shutil.copytree(folder / "study", tmp_path / "study")
    for kept in (tmp_path / "study/ensembles").glob("oof-embeddings-*"):
        shutil.rmtree(kept)
    export_bundle(str(tmp_path / "study"), "submission", tmp_path / "bundle", weights=RANDOM)
    options = ("--data", tiny_pasture, "--cache", folder / "cache", "--out", tmp_path / "a.csv")
    assert "export it again" in " ".join(predict(tmp_path / "bundle", table, *options, code=1).split())
    predict(tmp_path / "study", table, *options)
    export_bundle(str(tmp_path / "study"), "submission", tmp_path / "again", weights=RANDOM)
    predict(tmp_path / "again", table, *options[2:4], "--out", tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert PERCENTILE in pd.read_csv(tmp_path / "b.csv")


def test_distances_are_those_to_photographs_of_other_dates():
    """On a line: each training photograph of one date against the other date's; a copy is near, a stray is not."""
    bank = EmbeddingBank(backbone="b", views=(), stamp="keep", layer=0, dtype="float32", weights="w")
    units = ("1",) * 6 + ("2",) * 6
    feature_LD = np.r_[np.linspace(0, 1, 6), np.linspace(1.5, 2, 6)][:, None]
    likeness = Likeness(bank=bank, image_ids=tuple("abcdefghijkl"), units=units, feature_LD=feature_LD)
    by_hand = sorted(
        np.sort(np.abs(feature_LD[(row < 6) * 6 :][:6, 0] - feature_LD[row, 0]))[:5].mean() / feature_LD.std()
        for row in range(12)
    )
    assert likeness.held_out_L == pytest.approx(by_hand)
    percentile_N, near_NK = likeness.nearest(np.array([[0.0], [30.0]]))
    assert near_NK[0].tolist() == [0, 1, 2, 3, 4] and near_NK[1][0] == 11
    assert percentile_N[0] < 50 and percentile_N[1] == 100
    alone, _ = likeness.nearest(np.array([[30.0]]))
    assert alone[0] == percentile_N[1]


def test_wrong_usage_is_refused_before_anything_loads(blended, table, tmp_path):
    _, _, folder = blended
    for arguments, message in (
        (("--out", tmp_path / "a.txt"), "name it"),
        (("--level", "80"), "between 0 and 1"),
        (("--level", "a"), "--level is shares"),
        (("--level", ""), "--level is shares such as 0.8,0.9, got ''"),
        (("--level", ","), "--level is shares such as 0.8,0.9, got ','"),
        (("--level", "0.8", "0.9"), "several levels apart by commas, got 0.9 by itself; give 0.8,0.9"),
        (("--level", "0.8", "--level", "0.9", "0.95"), "give 0.8,0.9,0.95"),
        (("--by", "field"), "--by names columns"),
        (("--by", "paddock", "--date", "day"), "--date names columns"),
        (("--date", "Date"), "without --by"),
        (("--ensemble", "other"), "it has submission"),
        (("--unit", "kg/ha"), "--area"),
    ):
        assert message in " ".join(predict(folder / "study", table, *arguments, code=1).split())
    with pytest.raises(UserError, match="holds the ensemble submission"):
        open_blend(BlendPlace(str(folder / "bundle"), "other", None))
    with pytest.raises(LedgerError):
        open_blend(BlendPlace(str(tmp_path), None, None))


def test_a_shard_has_the_same_numbers_in_any_company(blended, tiny_pasture, tmp_path):
    """What is stored of a photograph does not depend on those beside it."""
    _, _, folder = blended
    blend = open_blend(BlendPlace(str(folder / "study"), None, None))
    paths = [str(path) for path in sorted((tiny_pasture / "test").iterdir())]
    together = predict_shard(blend, paths, cache=tmp_path / "one")
    again = predict_shard(blend, paths, cache=tmp_path / "two")
    pd.testing.assert_frame_equal(together, again)
    assert set(blend.frozen) and not (together[REASON] != "").any()
