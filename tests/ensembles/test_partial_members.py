"""Members of a library where not every mass was measured: read, checked on measured cells, named with the reason."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from small_libraries import PARTIAL, member_predictions, partial_frame, partial_weights, truth_frame

from biomass_models.data.table import masses_to_long
from biomass_models.errors import UserError
from biomass_models.targets import CLOVER, GREEN, TARGETS, TOTAL, norm_of
from ensembles.measured import measured_targets
from ensembles.members.file_names import named_files
from ensembles.members.library import LibraryError, check_members, library_from_arrays, library_from_frames
from ensembles.members.matched_tests import match_tests
from ensembles.members.oof_files import read_members, read_truth
from ensembles.submission import masses_bytes, submission_bytes

CLOVER_TOO = "total and clover"


def frame_of(pred_NT: np.ndarray, truth: pd.DataFrame | None = None) -> pd.DataFrame:
    frame = pd.DataFrame(pred_NT, columns=list(TARGETS))
    frame.insert(0, "image_id", (truth_frame() if truth is None else truth)["image_id"].to_numpy())
    return frame


def frames(members: int = 4) -> dict[str, pd.DataFrame]:
    return {f"m{k}": frame_of(pred) for k, pred in enumerate(member_predictions(truth_frame(), members, noise=3.0))}


def in_milligrams(frame):
    return frame.assign(**{name: frame[name] * 1000 for name in TARGETS})


def total_in_kilograms(frame):
    return frame.assign(Dry_Total_g=frame["Dry_Total_g"] * 0.001)


def in_log_space(frame):
    return frame.assign(**{name: np.log1p(frame[name]) for name in TARGETS})


def z_scored(frame):
    return frame.assign(**{name: (frame[name] - frame[name].mean()) / frame[name].std() for name in TARGETS})


def reversed_rows(frame):
    return frame.assign(image_id=frame["image_id"].to_numpy()[::-1])


def columns_swapped(frame):
    return frame.assign(Dry_Total_g=frame["Dry_Clover_g"], Dry_Clover_g=frame["Dry_Total_g"])


def constant(frame):
    return frame.assign(Dry_Total_g=20.0)


def one_nan(frame):
    return frame.assign(Dry_Total_g=frame["Dry_Total_g"].where(frame.index != 3))


def without_total(frame):
    return frame.drop(columns="Dry_Total_g")


def blank_total(frame):
    return frame.assign(Dry_Total_g=np.nan)


WRONG = [
    (in_milligrams, "about 1000 times the truth"),
    (total_in_kilograms, "Dry_Total_g about 0.001 times"),
    (in_log_space, "looks like log1p"),
    (z_scored, "looks like z-scores"),
    (reversed_rows, "in the order of reversed rows"),
    (constant, r"constant over all images \(Dry_Total_g\)"),
    (one_nan, "1 of 60 images have NaN"),
    (without_total, "columns missing: Dry_Total_g"),
    (blank_total, "60 of 60 images have NaN|no predictions of total; what was measured"),
]


@pytest.mark.parametrize("kind", ["total", CLOVER_TOO, "total, some all"])
@pytest.mark.parametrize(("breaks", "reason"), WRONG, ids=[breaks.__name__ for breaks, _ in WRONG])
def test_broken_members_are_named_by_what_was_measured(kind, breaks, reason):
    members = frames()
    members["broken"] = breaks(members["m2"].copy())
    library = library_from_frames(members, partial_frame(kind))
    assert library.names == ("m0", "m1", "m2", "m3")
    ((name, said),) = library.left_out
    with pytest.raises(ValueError, match=reason):
        raise ValueError(said)
    assert name == "broken"


def test_columns_in_another_order_are_seen_among_those_that_were_measured():
    members = frames()
    members["broken"] = columns_swapped(members["m2"])
    ((_, said),) = library_from_frames(members, partial_frame(CLOVER_TOO)).left_out
    assert said.endswith(
        "they fit the truth as Dry_Total_g, Dry_Clover_g; put them in the order Dry_Clover_g, Dry_Total_g"
    )


@pytest.mark.parametrize("kind", PARTIAL)
def test_what_a_member_says_of_masses_that_nobody_measured_plays_no_part(kind):
    truth, members = partial_frame(kind), frames()
    never = [name for name, norm in zip(TARGETS, norm_of(partial_weights(kind)), strict=True) if norm == 0]
    expected = library_from_frames(members, truth)
    hidden = {
        "m0": members["m0"].drop(columns=never),
        "m1": members["m1"].assign(**dict.fromkeys(never, 1e9)),
        "m2": members["m2"].assign(**dict.fromkeys(never, np.nan)),
        "m3": members["m3"].assign(**dict.fromkeys(never, "not weighed")),
    }
    library = library_from_frames(hidden, truth)
    assert library.names == expected.names and not library.left_out
    assert library.pred_MNT.tobytes() == expected.pred_MNT.tobytes()
    arrays = [frame.assign(**dict.fromkeys(never, 7.0))[list(TARGETS)].to_numpy(float) for frame in members.values()]
    assert library_from_arrays(list(members), arrays, truth).pred_MNT.tobytes() == expected.pred_MNT.tobytes()


@pytest.mark.parametrize("kind", PARTIAL)
def test_labels_and_means_of_labels_are_recognised(kind):
    truth = partial_frame(kind)
    mass = truth[list(TARGETS)]
    filled = mass.fillna(truth_frame()[list(TARGETS)] * 1.3)
    by_group = mass.groupby(truth["group"]).transform("mean").fillna(5.0)
    files = {"labels": frame_of(filled.to_numpy()), "means": frame_of(by_group.to_numpy()), **frames()}
    found = check_members(files, truth, files=files)
    reasons = dict(found.left_out)
    assert set(reasons) == {"labels", "means"}
    assert "equal the measured masses" in reasons["labels"] and "the measured means of each group" in reasons["means"]
    assert ("all targets" in reasons["labels"]) == (len(measured_targets(partial_weights(kind))) == len(TARGETS))


def test_duplicates_are_found_by_what_was_measured():
    members = frames()
    members["copy"] = members["m1"].assign(Dry_Green_g=3.0, Dry_Dead_g=1.0)
    library = library_from_frames(members, partial_frame(CLOVER_TOO))
    assert library.merged == (("copy", "m1"),)


@pytest.fixture
def folder(tmp_path):
    """A truth with blank cells and members in each form, in which only total and clover were measured."""
    truth = partial_frame(CLOVER_TOO)
    truth = truth.assign(Sampling_Date=["2015/9/" + group[1:] for group in truth["group"]])
    truth.drop(columns=["fold", "group"]).to_csv(tmp_path / "truth.csv", index=False)
    a, b, c, d = frames().values()
    (tmp_path / "runs").mkdir()
    a[["image_id", "Dry_Total_g", "Dry_Clover_g"]].to_csv(tmp_path / "runs/a.csv", index=False)
    b.assign(Dry_Green_g="", Dry_Dead_g="n/a", GDM_g=np.nan).to_csv(tmp_path / "runs/b.csv", index=False)
    long = masses_to_long(c)
    long[long["sample_id"].str.contains("Total|Clover")].to_csv(tmp_path / "runs/c.csv", index=False)
    pred_NT = d[list(TARGETS)].to_numpy().copy()
    pred_NT[:, [0, 1, 3]] = np.nan
    np.save(tmp_path / "runs/d.npy", pred_NT)
    (tmp_path / "runs/d.ids.txt").write_text("\n".join(d["image_id"]) + "\n")
    return tmp_path


def test_files_may_leave_out_what_nobody_measured(folder):
    truth = read_truth(folder / "truth.csv", groups=("Sampling_Date",))
    files = named_files([str(folder / "runs/*")])
    members, unreadable = read_members(files, measured=("Dry_Clover_g", "Dry_Total_g"))
    library = library_from_frames(members, truth, left_out=unreadable)
    assert library.names == ("a", "b", "c", "d") and not library.left_out
    expected = library_from_frames(frames(), partial_frame(CLOVER_TOO))
    np.testing.assert_allclose(library.pred_MNT, expected.pred_MNT, atol=1e-9)
    np.testing.assert_allclose(library.truth_NT, expected.truth_NT)
    _, unreadable = read_members(files)
    assert "add Dry_Green_g,Dry_Dead_g,GDM_g" in dict(unreadable)["a"]


def test_a_file_without_a_mass_that_was_measured_is_left_out(folder):
    frames()["m0"][["image_id", "Dry_Total_g"]].to_csv(folder / "runs/wide.csv", index=False)
    long = masses_to_long(frames()["m1"])
    long[long["sample_id"].str.contains("Total")].to_csv(folder / "runs/long.csv", index=False)
    measured = ("Dry_Clover_g", "Dry_Total_g")
    members, unreadable = read_members(named_files([str(folder / "runs/*")]), measured=measured)
    truth = read_truth(folder / "truth.csv", groups=("Sampling_Date",))
    reasons = dict(library_from_frames(members, truth, left_out=unreadable).left_out)
    assert set(reasons) == {"wide", "long"}
    assert "add Dry_Clover_g" in reasons["wide"]
    assert reasons["long"] == "there are no predictions of clover; what was measured must be predicted"


def test_a_truth_has_what_was_measured_and_what_follows(tmp_path):
    truth = truth_frame().drop(columns=["fold", "GDM_g"])
    truth.loc[7, "Dry_Dead_g"] = np.nan
    truth.loc[9, "Dry_Total_g"] = np.nan
    truth.to_csv(tmp_path / "truth.csv", index=False)
    found = read_truth(tmp_path / "truth.csv", groups=("group",))
    expected = truth_frame()[list(TARGETS)].to_numpy()
    np.testing.assert_allclose(found[list(TARGETS)], expected, atol=1e-9)  # all of it follows
    truth.loc[7, "Dry_Total_g"] = np.nan
    truth.drop(columns="Dry_Clover_g").to_csv(tmp_path / "truth.csv", index=False)
    found = read_truth(tmp_path / "truth.csv", groups=("group",))
    known_T = np.isfinite(found[list(TARGETS)].to_numpy()).sum(0)
    assert list(known_T) == [60, 59, 58, 58, 58]  # green, dead and total give the others
    labels = masses_to_long(truth_frame()).pipe(lambda long: long[long["sample_id"].str.endswith("Total_g")])
    facts = truth.set_index("image_id")["group"]
    labels.assign(group=labels["sample_id"].str.split("__").str[0].map(facts)).to_csv(tmp_path / "t.csv", index=False)
    found = read_truth(tmp_path / "t.csv", groups=("group",))
    assert list(np.isfinite(found[list(TARGETS)].to_numpy()).sum(0)) == [0, 0, 0, 0, 60]
    pd.DataFrame({"image_id": ["a"], "mass": [1.0]}).to_csv(tmp_path / "none.csv", index=False)
    with pytest.raises(LibraryError, match="columns must be"):
        read_truth(tmp_path / "none.csv", groups=())


def test_test_predictions_are_compared_in_what_was_measured():
    norm_T = norm_of(partial_weights(CLOVER_TOO))
    never = ["Dry_Green_g", "Dry_Dead_g", "GDM_g"]
    oof = {name: frame.drop(columns=never) for name, frame in frames(6).items()}
    test_truth = truth_frame(20)
    base = [frame_of(pred, test_truth) for pred in member_predictions(test_truth, 6, noise=3.0)]
    tests = {
        "m0": base[0].drop(columns=never),
        "m1": base[1].assign(Dry_Green_g=np.nan, GDM_g=1e9),
        "m2": base[2],
        "m3": base[3].assign(Dry_Total_g=base[3]["Dry_Total_g"] * 1000),
        "m4": base[4].assign(Dry_Clover_g=base[4]["Dry_Clover_g"] * 10),
        "m5": base[5].drop(columns="Dry_Clover_g"),
    }
    found = match_tests(oof, tests, [], norm_T=norm_T)
    assert list(found.pred_NT) == ["m0", "m1", "m2"]
    for name, pred_NT in found.pred_NT.items():
        assert np.isnan(pred_NT[:, [GREEN, 1, 3]]).all() and np.isfinite(pred_NT[:, [CLOVER, TOTAL]]).all(), name
    reasons = dict(found.left_out)
    assert "mean total" in reasons["m3"]
    assert "Dry_Clover_g is" in reasons["m4"] and "columns missing: Dry_Clover_g" in reasons["m5"]


def test_masses_that_nobody_measured_are_blank_and_no_submission():
    pred_NT = member_predictions(truth_frame(), 1)[0].copy()
    pred_NT[:, [0, 1, 3]] = np.nan
    masses = frame_of(pred_NT)
    rows = masses_to_long(masses)
    with pytest.raises(UserError, match="a submission holds all five masses, not measured here: green, dead, GDM"):
        submission_bytes(rows, masses)
    written = pd.read_csv(io.BytesIO(masses_bytes(masses)))
    assert list(written.columns) == ["image_id", *TARGETS] and list(written["image_id"]) == list(masses["image_id"])
    np.testing.assert_allclose(written[list(TARGETS)], pred_NT, atol=1e-6)
    assert masses_bytes(masses.set_index("image_id")) == masses_bytes(masses)
    for column, value in (("Dry_Total_g", np.nan), ("Dry_Total_g", -1.0)):
        broken = masses.copy()
        broken.loc[2, column] = value
        with pytest.raises(ValueError, match="finite, non-negative"):
            masses_bytes(broken)
    whole = frame_of(member_predictions(truth_frame(), 1)[0])
    whole.loc[2, "GDM_g"] = 1e6
    with pytest.raises(ValueError, match="identities"):
        masses_bytes(whole)
