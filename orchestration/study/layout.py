"""Where everything of a study lies, relative to its root.

study.json, quadrats.parquet, photographs.parquet, references.parquet
exam.parquet                                 quadrats that nothing learns from, where --exam kept some
profiles/<device>.json                       what predictions cost on a kind of machine
exams/<ensemble>-<card>.json                 what a blend scored on the exam, and when it was looked at
owner.json                                   who drives the study now (lock.py); .lock beside it on a local path
trials/<id>/trial.json                       what was proposed
trials/<id>/fold-<k>/start-<when>-<pid>.json each time that the fold began
trials/<id>/fold-<k>/oof.parquet, model.safetensors, attention.parquet (maps) if any, then metrics.json (the marker)
trials/<id>/oof.parquet, then result.json    (the marker)
trials/<id>/reopened-<when>.json             a result that was taken back
trials/<id>/torn-<when>.json                 a record that was not to be read, set aside; in fold-<k>/ a marker
trials/<id>/fold-<k>/model-dropped.json      the model was deleted to keep --weights-gb
trials/<id>/all-rows/model.safetensors, then all-rows.json (the marker): a model on every labelled row
tensorboard/<id>/events...                   derived: for people's eyes
tune/                                        Ray Tune's own files, never read
teachers/<id>/fold-<k>/targets.parquet, then teacher.json (the marker)
shared/<name>/<id>/fold-<k>/...              other artefacts that trials share, <name>.json the marker
second-rounds/<id>/photographs.parquet, then second-round.json (the marker): what a second round labels, and by whom
second-rounds/<id>/members/<trial>-fold-<k>.parquet   what a model says of them, until labels are made of all
second-rounds/<id>/labels.parquet, then labels.json (the marker): the pseudo-labels of each fold
ensembles/<name>/submission.csv, then ensemble.json (the marker)
ensembles/test-<id>/members/<trial>.parquet  test predictions, kept for the next blend; shards/ until all are there;
                                             test-<id>-all-rows-<mode> where models on all rows predict
ensembles/oof-flips-<n>/members/<trial>.parquet
ensembles/oof-states-<id>/members/chances.parquet   how likely each image is of each state, out of fold
ensembles/oof-embeddings-<id>/members/embeddings.parquet   what unlike photographs are measured by
given/<sha256>.json                          a file that was made with an ensemble: masses of photographs, a bundle
"""

from __future__ import annotations

STUDY = "study.json"
QUADRATS = "quadrats.parquet"
PHOTOGRAPHS = "photographs.parquet"
EXAM = "exam.parquet"
EXAMS = "exams"
GIVEN = "given"
ORIGIN = ".origin.json"  # after the name of a file that left a study and that none records
PROFILES = "profiles"
NEXT = "advice/next.json"
LEARNING_CURVE = "advice/learning-curve.json"
REFERENCES = "references.parquet"
OWNER = "owner.json"
LOCK = ".lock"
TRIALS = "trials"
TEACHERS = "teachers"
SHARED = "shared"
SECOND_ROUNDS = "second-rounds"
ENSEMBLES = "ensembles"
TUNE = "tune"

TRIAL = "trial.json"
RESULT = "result.json"  # marker of an ended trial
METRICS = "metrics.json"  # marker of a finished fold
ENSEMBLE = "ensemble.json"  # marker of a submission
ALL_ROWS = "all-rows.json"  # marker of a model on all rows
SECOND_ROUND = "second-round.json"  # marker of what a second round labels
LABELS_MADE = "labels.json"  # marker of its pseudo-labels
LABELS = "labels.parquet"
OOF = "oof.parquet"
MODEL = "model.safetensors"
MAPS = "attention.parquet"  # the first maps were of attention
TARGETS = "targets.parquet"
SUBMISSION = "submission.csv"
DROPPED = "model-dropped.json"
TORN = "torn-"  # first letters of what was set aside
START = "start-"  # first letters of the notes that a fold was begun
PREDICTIONS = ("test-", "exam-", "oof-")  # first letters of folders of predictions, which are no ensembles


def trial(trial_id: str) -> str:
    return f"{TRIALS}/{trial_id}"


def trial_record(trial_id: str) -> str:
    return f"{trial(trial_id)}/{TRIAL}"


def result(trial_id: str) -> str:
    return f"{trial(trial_id)}/{RESULT}"


def reopened(trial_id: str, milliseconds: int) -> str:
    return f"{trial(trial_id)}/reopened-{milliseconds}.json"


def torn(folder: str, milliseconds: int) -> str:
    return f"{folder}/{TORN}{milliseconds}.json"


def fold(trial_id: str, number: int) -> str:
    return f"{trial(trial_id)}/fold-{number}"


def all_rows(trial_id: str) -> str:
    """Folder of a trial's model on all rows."""
    return f"{trial(trial_id)}/all-rows"


def fold_start(trial_id: str, number: int, milliseconds: int, pid: int) -> str:
    return f"{fold(trial_id, number)}/{START}{milliseconds}-{pid}.json"


def given(sha256: str) -> str:
    """What is recorded of a file that left the study."""
    return f"{GIVEN}/{sha256[:32]}.json"


def exam(ensemble: str, card: str) -> str:
    return f"{EXAMS}/{ensemble}-{card}.json"


def metrics(trial_id: str, number: int) -> str:
    return f"{fold(trial_id, number)}/{METRICS}"


def dropped_model(trial_id: str, number: int) -> str:
    return f"{fold(trial_id, number)}/{DROPPED}"


def events(trial_id: str) -> str:
    """TensorBoard's events of a trial."""
    return f"tensorboard/{trial_id}/events.out.tfevents.0.{trial_id}"


def shared(name: str, identity: str, number: int) -> str:
    """Folder of what trials share of one fold; the teacher, which was the first, keeps its place."""
    place = TEACHERS if name == "teacher" else f"{SHARED}/{name}"
    return f"{place}/{identity}/fold-{number}"


def second_round(round_id: str) -> str:
    return f"{SECOND_ROUNDS}/{round_id}"


def member_labels(round_id: str, trial_id: str, fold: int) -> str:
    """What the model of a trial's fold says of the photographs of a second round."""
    return f"{second_round(round_id)}/members/{trial_id}-fold-{fold}.parquet"


def ensemble(name: str) -> str:
    return f"{ENSEMBLES}/{name}"


def member_prediction(name: str, trial_id: str) -> str:
    return f"{ensemble(name)}/members/{trial_id}.parquet"


def member_shard(name: str, trial_id: str, span: tuple[int, int]) -> str:
    return f"{ensemble(name)}/shards/{trial_id}/{span[0]}-{span[1]}.parquet"
