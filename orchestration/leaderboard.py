"""The leaderboard: references, then trials by score. Made from the ledger alone."""

from __future__ import annotations

import pandas as pd
from rich.table import Table

from biomass_models.targets import TARGETS, weighted_r2_score
from orchestration.ledger import Ledger

NOTES = {
    "per-target mean": "reference",
    "colour ridge": "reference",
    "metadata trees": "needs metadata, cannot predict the test set",
}


def leaderboard(ledger: Ledger) -> pd.DataFrame:
    """One row a reference or trial, best first: name, family, score, fold_min, fold_max, seconds, status, note.

    score is the weighted R2 of the pooled OOF rows; fold_min and fold_max are the extremes over folds.
    """
    quadrats = ledger.quadrats()
    rows = []
    references = ledger.references()
    colour = None
    for name, frame in () if references is None else references.groupby("reference", sort=False):
        aligned = frame.set_index("image_id").loc[quadrats["image_id"], list(TARGETS)]
        score = weighted_r2_score(quadrats[list(TARGETS)], aligned)
        colour = score if name == "colour ridge" else colour
        rows.append({"name": name, "family": "", "score": score, "status": "", "note": NOTES[str(name)]})
    results = ledger.results()
    for trial in ledger.trials():
        result = results.get(trial.trial_id, {"status": "unfinished", "score": None})
        score = result["score"]
        notes = ["random weights"] if trial.weights.startswith("random") else []
        if score is not None and colour is not None and score < colour:
            notes.append("below the colour ridge")
        if trial.config.get("select_best_epoch"):
            notes.append("best epoch chosen on the scored fold: biased")
        if "reason" in result:
            notes.append(result["reason"])
        fold_scores = [value for value in result.get("fold_scores", ()) if value is not None]
        rows.append(
            {
                "name": trial.trial_id,
                "family": trial.family,
                "score": score,
                "fold_min": min(fold_scores, default=None),
                "fold_max": max(fold_scores, default=None),
                "seconds": result.get("seconds"),
                "status": result["status"],
                "note": "; ".join(notes),
            }
        )
    columns = ["name", "family", "score", "fold_min", "fold_max", "seconds", "status", "note"]
    table = pd.DataFrame(rows, columns=columns)
    table["score"] = table["score"].astype("float64")
    return table.sort_values("score", ascending=False, na_position="last", ignore_index=True)


def render_leaderboard(table: pd.DataFrame, top: int | None = None) -> Table:
    """As a terminal table of at most 80 columns; references always show, of the trials the best `top`."""
    view = Table(title="Leaderboard (weighted R2 of pooled out-of-fold rows)", title_justify="left", width=80)
    for heading, justify in (("name", "left"), ("family", "left"), ("score", "right"), ("folds", "right")):
        view.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    view.add_column("s", justify="right", no_wrap=True)
    view.add_column("note")
    shown = hidden = 0
    for row in table.itertuples():
        is_trial = row.status != ""
        shown += is_trial
        if is_trial and top is not None and shown > top:
            hidden += 1
            continue
        note = row.note if row.status in ("", "complete") else f"{row.status} {row.note}".strip()
        folds = "" if pd.isna(row.fold_min) else f"{row.fold_min:.2f}..{row.fold_max:.2f}"
        view.add_row(
            str(row.name),
            str(row.family),
            "" if pd.isna(row.score) else f"{row.score:.4f}",
            folds,
            "" if pd.isna(row.seconds) else f"{row.seconds:.0f}",
            str(note),
            style=None if is_trial else "dim",
        )
    if hidden:
        view.caption = f"and {hidden} more trials (--top 0 shows all)"
    return view
