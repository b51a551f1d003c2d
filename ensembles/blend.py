"""A blend: weights, the card that says how far to trust them, and its predictions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from biomass_models.targets import TARGETS, FloatArray, project_coherent
from ensembles.honest import Difference, nested_loss, paired_difference, score_of, standard_error
from ensembles.library import Library
from ensembles.rules import DEFAULT_RULE, RULES


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a blend is made of and what it is worth. Scores are the weighted R2 of pooled out-of-fold rows."""

    rule: str
    members: dict[str, float]  # weight of each chosen member; they sum to 1
    library_size: int
    in_sample_score: float  # members chosen and scored on the same rows: too good
    nested_score: float  # chosen and weighted without the scored fold
    nested_se: float  # by a bootstrap over groups
    nested_fold_scores: dict[str, float | None]
    best_single_nested_score: float  # the best single member, chosen without the scored fold
    top5_nested_score: float  # the mean of the five best, chosen without the scored fold
    versus: dict[str, Difference]  # nested blend minus something else, paired over groups
    target_r2: dict[str, float | None]  # plain R2 of each target alone, in sample
    left_out: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fit_blend(
    library: Library, *, rule: str = "default", seed: int = 0, references: Mapping[str, FloatArray] | None = None
) -> Card:
    """Choose members and weights by a rule, and score the rule honestly.

    references: pred_NT in grams by name, rows as in the library; the blend is compared with each.
    Raises ValueError for a rule that does not exist.
    """
    name = DEFAULT_RULE if rule == "default" else rule
    if name not in RULES:
        close = difflib.get_close_matches(name, RULES, n=1)
        raise ValueError(
            f"a rule is one of default, {', '.join(RULES)}, got {rule!r}"
            + (f"; did you mean {close[0]}?" if close else "")
        )
    gram = library.gram
    weight_M = RULES[name](gram, seed)
    loss_C = nested_loss(gram, RULES[name], seed)
    single_C = nested_loss(gram, RULES["single best"], seed)
    top5_C = nested_loss(gram, RULES["mean of top 5"], seed)
    versus = {
        "best single": paired_difference(loss_C, single_C, gram, seed),
        "mean of top 5": paired_difference(loss_C, top5_C, gram, seed),
    }
    for reference, pred_NT in (references or {}).items():
        versus[reference] = paired_difference(loss_C, library.gram_of(pred_NT).loss_CM[:, 0], gram, seed)
    chosen = np.flatnonzero(weight_M)
    chosen = chosen[np.argsort(-weight_M[chosen], kind="stable")]
    return Card(
        rule=name,
        members={library.names[row]: float(weight_M[row]) for row in chosen},
        library_size=len(library.names),
        in_sample_score=1 - gram.loss_of(weight_M),
        nested_score=score_of(loss_C, gram),
        nested_se=standard_error(loss_C, gram, seed),
        nested_fold_scores=_by_fold(library, loss_C),
        best_single_nested_score=score_of(single_C, gram),
        top5_nested_score=score_of(top5_C, gram),
        versus=versus,
        target_r2=_by_target(library, weight_M),
        left_out=library.left_out,
    )


def apply_blend(card: Card, predictions: Mapping[str, FloatArray]) -> FloatArray:
    """Blend members' predictions (pred_NT in grams, by name) with the card's weights; coherent and non-negative."""
    missing = [name for name in card.members if name not in predictions]
    if missing:
        raise ValueError(f"a blend needs the predictions of all its members, {', '.join(missing)} missing")
    return sum(
        (weight * project_coherent(predictions[name]) for name, weight in card.members.items()),
        start=np.zeros(1),
    )


def render_card(card: Card) -> Group:
    """The card for a terminal of 80 columns."""
    scores = Table(title="Ensemble (weighted R2, out of fold)", title_justify="left", width=80)
    scores.add_column("what")
    scores.add_column("score", justify="right")
    scores.add_column("meaning", style="dim")
    scores.add_row(
        "blend, nested",
        f"{card.nested_score:.4f} ± {card.nested_se:.4f}",
        "chosen without the scored fold: trust this",
        style="bold",
    )
    scores.add_row("blend, in sample", f"{card.in_sample_score:.4f}", "chosen and scored on the same rows: too good")
    scores.add_row("best single, nested", f"{card.best_single_nested_score:.4f}", "the best member, chosen as honestly")
    scores.add_row("mean of top 5, nested", f"{card.top5_nested_score:.4f}", "what a plain mean would get")
    versus = Table(title="Nested blend minus ... (paired bootstrap over groups)", title_justify="left", width=80)
    for heading in ("other", "difference", "95 % interval"):
        versus.add_column(heading, justify="left" if heading == "other" else "right")
    for name, difference in card.versus.items():
        versus.add_row(name, f"{difference.value:+.4f}", f"[{difference.low:+.4f}, {difference.high:+.4f}]")
    members = Table(
        title=f"{len(card.members)} of {card.library_size} members ({card.rule})", title_justify="left", width=80
    )
    members.add_column("member")
    members.add_column("weight", justify="right")
    for name, weight in card.members.items():
        members.add_row(name, f"{weight:.3f}")
    parts: list[Any] = [scores, versus, members]
    parts += [Text(f"left out: {name}: {reason}") for name, reason in card.left_out]
    return Group(*parts)


def _by_fold(library: Library, loss_C: FloatArray) -> dict[str, float | None]:
    scores: dict[str, float | None] = {}
    for fold in np.unique(library.gram.fold_C):
        part = library.gram.fold_C == fold
        sst = library.gram.select(part).sst
        scores[str(int(fold))] = float(1 - loss_C[part].sum() / sst) if sst > 0 else None
    return scores


def _by_target(library: Library, weight_M: FloatArray) -> dict[str, float | None]:
    blend_NT = np.tensordot(weight_M, library.pred_MNT, axes=1)
    error_T = ((library.truth_NT - blend_NT) ** 2).sum(0)
    spread_T = ((library.truth_NT - library.truth_NT.mean(0)) ** 2).sum(0)
    pairs = zip(TARGETS, error_T, spread_T, strict=True)
    return {name: float(1 - error / spread) if spread > 0 else None for name, error, spread in pairs}
