"""Fit a blend on a library and write its card; apply a card to predictions of its members.

M members, N images, T = 5 targets; masses in grams.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biomass_models.errors import UserError
from biomass_models.targets import (
    TARGETS,
    FloatArray,
    project_coherent,
    weighted_r2_score,
    weighted_square,
    weighted_sst,
)
from ensembles.card import Card, TargetScore
from ensembles.card_page import render_card as render_card  # the page belongs to the card's public face
from ensembles.choice import SINGLE_BEST, TOP_MEAN, Chosen, rule_named
from ensembles.gram import ErrorGram
from ensembles.honest import (
    PREFILTER,
    bias_corrected_bootstrap,
    nest_of,
    nested_all,
    paired_difference,
    score_estimate,
)
from ensembles.members.library import Library
from ensembles.optimum import simplex_optimum
from ensembles.recipe import Blender, Recipe, decided, fit_recipe, honest_rows
from ensembles.rules import Rule, ranking


def fit_blend(
    library: Library,
    recipe: str | Rule | Recipe = "default",
    seed: int = 0,
    *,
    references: Mapping[str, FloatArray] | None = None,
    bootstrap_draws: int = 100,
) -> Card:
    """Choose members and weights by a rule, and score rule and all that follows it honestly.

    recipe: a rule's name (choice.RULES), a rule, or a rule with follow-ups; those that are on trial are used where they
    gain more than one standard error. references: pred_NT in grams by name, rows as the library's, to compare with;
    bootstrap_draws: of BBC-CV, 0 for none (it is about the shared weights, so there is none where a follow-up is used).
    Raises ValueError for an unknown rule and for a library with a single fold and group.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe(rule=rule_named(recipe) if isinstance(recipe, str) else recipe)
    asked = recipe
    recipe, gains = decided(library, asked, seed=seed) if asked.on_trial else (asked, {})
    gram = library.gram
    by = nest_of(gram)
    several_groups = len(np.unique(gram.group_C)) > 1
    blender = fit_recipe(library, recipe, seed=seed)
    blend_NT = blender.blend(library.pred_MNT)
    nested_NT = honest_rows(library, asked, by, seed=seed)
    loss_C = library.loss_by_cell(nested_NT)
    group_loss_C = library.loss_by_cell(honest_rows(library, asked, "group", seed=seed)) if several_groups else None
    single, top5 = nested_all(gram, [SINGLE_BEST, TOP_MEAN], by, seed=seed)
    rivals = {"best single": single.loss_C, "mean of top 5": top5.loss_C}
    for name, pred_NT in (references or {}).items():
        rivals[name] = library.loss_by_cell(project_coherent(pred_NT))
    shortlist = gram.keep(ranking(gram)[:PREFILTER])
    ceiling = simplex_optimum(shortlist.gram_MM)
    best = int(ranking(gram)[0])
    bootstrap = None
    if bootstrap_draws and several_groups and not recipe.follow_ups:
        bootstrap = bias_corrected_bootstrap(gram, recipe.rule, draws=bootstrap_draws, seed=seed)
    estimate = score_estimate(gram, loss_C, seed=seed)
    by_group = None if group_loss_C is None else score_estimate(gram, group_loss_C, seed=seed)
    weights = _weights(library, blender)
    return Card(
        rule=recipe.rule.name,
        follow_ups=tuple(recipe.follow_ups),
        chosen_rule=recipe.rule.choose(shortlist, seed).name if isinstance(recipe.rule, Chosen) else recipe.rule.name,
        members={name: float(weight_t.mean()) for name, weight_t in weights.items()},
        target_weights=_per_target(weights) if recipe.per_target else None,
        calibration=_pairs(blender) if recipe.calibrate else None,
        floors=dict(zip(TARGETS, map(float, blender.floor_3), strict=False)) if recipe.zeros else None,
        follow_up_gains=gains,
        flips=1,
        flips_gain=None,
        library_size=len(library.names),
        images=len(library.truth_NT),
        groups=len(np.unique(gram.group_C)),
        seed=seed,
        in_sample_score=weighted_r2_score(library.truth_NT, blend_NT),
        nested_score=estimate.value,
        nested_se=estimate.se,
        nested_by=by,
        nested_fold_scores=_scores_within(gram, loss_C, gram.fold_C),
        nested_group_score=None if by_group is None else by_group.value,
        nested_group_se=None if by_group is None else by_group.se,
        group_scores={} if group_loss_C is None else _scores_within(gram, group_loss_C, gram.group_C),
        bootstrap=bootstrap,
        ceiling_score=1 - ceiling.loss,
        ceiling_gap=ceiling.gap,
        best_single=library.names[best],
        best_single_score=1 - float(gram.loss_M[best]),
        best_single_nested_score=single.score,
        top5_nested_score=top5.score,
        versus={name: paired_difference(gram, loss_C, rival_C, seed=seed) for name, rival_C in rivals.items()},
        targets=_by_target(library.truth_NT, blend_NT, nested_NT),
        state_scores=_by_state(library, nested_NT),
        diversity=_diversity(gram, np.flatnonzero(blender.weight_TM.any(0))),
        left_out=library.left_out,
        merged=library.merged,
    )


def apply_blend(card: Card, predictions: Mapping[str, ArrayLike]) -> FloatArray:
    """Blend members' predictions ([N, 5] grams by name) as the card says; coherent and non-negative masses [N, 5].

    Members are projected onto the identities first, as they were when the blend was fitted.
    Raises ValueError that names the members whose predictions are missing, unlike in shape or not finite.
    """
    missing = [name for name in card.members if name not in predictions]
    if missing:
        raise UserError(f"a blend needs the predictions of all its members, missing: {', '.join(missing)}")
    given = {name: np.asarray(predictions[name], dtype=np.float64) for name in card.members}
    if len({pred_NT.shape for pred_NT in given.values()}) != 1:
        shapes = ", ".join(f"{name} {pred_NT.shape}" for name, pred_NT in given.items())
        raise ValueError(f"members must predict the same images, got shapes {shapes}")
    if bad := [name for name, pred_NT in given.items() if not np.isfinite(pred_NT).all()]:
        raise UserError(f"predictions must be finite, {', '.join(bad)} are not; blend without them")
    pred_MNT = project_coherent(np.stack(list(given.values())))
    weight_TM = np.array(
        [
            [(card.target_weights[target] if card.target_weights else card.members).get(name, 0.0) for name in given]
            for target in TARGETS
        ]
    )
    pair_T2 = np.array([card.calibration[target] if card.calibration else (1.0, 0.0) for target in TARGETS])
    floor_3 = np.array([(card.floors or {}).get(component, 0.0) for component in TARGETS[:3]])
    blender = Blender(weight_TM=weight_TM, slope_T=pair_T2[:, 0], offset_T=pair_T2[:, 1], floor_3=floor_3)
    return blender.blend(pred_MNT)


def _weights(library: Library, blender: Blender) -> dict[str, FloatArray]:
    """Chosen members' weights per target, heaviest member first."""
    mean_M = blender.weight_TM.mean(0)
    chosen = np.flatnonzero(blender.weight_TM.any(0))
    chosen = chosen[np.argsort(-mean_M[chosen], kind="stable")]
    return {library.names[member]: blender.weight_TM[:, member] for member in chosen}


def _per_target(weights: Mapping[str, FloatArray]) -> dict[str, dict[str, float]]:
    return {
        target: {name: float(weight_t[column]) for name, weight_t in weights.items() if weight_t[column] > 0}
        for column, target in enumerate(TARGETS)
    }


def _pairs(blender: Blender) -> dict[str, tuple[float, float]]:
    triples = zip(TARGETS, blender.slope_T, blender.offset_T, strict=True)
    return {target: (float(slope), float(offset)) for target, slope, offset in triples}


def _scores_within(gram: ErrorGram, loss_C: FloatArray, key_C: NDArray[np.generic]) -> dict[str, float | None]:
    """Weighted R2 within each fold or group, around its own mean; None without spread."""
    scores: dict[str, float | None] = {}
    for key in np.unique(key_C):
        part = gram.select(key_C == key)
        scores[str(key)] = float(1 - loss_C[key_C == key].sum() / part.sst) if part.sst > 0 else None
    return scores


def _by_target(truth_NT: FloatArray, blend_NT: FloatArray, nested_NT: FloatArray) -> dict[str, TargetScore]:
    spread_T = ((truth_NT - truth_NT.mean(0)) ** 2).sum(0)
    in_sample_T, nested_T = ((truth_NT - blend_NT) ** 2).sum(0), ((truth_NT - nested_NT) ** 2).sum(0)
    return {
        name: TargetScore(
            in_sample_r2=float(1 - in_sample / spread) if spread > 0 else None,
            nested_r2=float(1 - honest / spread) if spread > 0 else None,
            nested_rmse=float(np.sqrt(honest / len(truth_NT))),
        )
        for name, spread, in_sample, honest in zip(TARGETS, spread_T, in_sample_T, nested_T, strict=True)
    }


def _by_state(library: Library, nested_NT: FloatArray) -> dict[str, float | None]:
    scores: dict[str, float | None] = {}
    for state in [] if library.state_N is None else np.unique(library.state_N):
        rows = library.state_N == state
        sst = weighted_sst(library.truth_NT[rows])
        loss = float(weighted_square(library.truth_NT[rows] - nested_NT[rows]).sum())
        scores[str(state)] = 1 - loss / sst if sst > 0 else None
    return scores


def _diversity(gram: ErrorGram, chosen: NDArray[np.int64]) -> float | None:
    if len(chosen) < 2:
        return None
    product_KK = gram.keep(chosen).product_MM
    length_K = np.sqrt(product_KK.diagonal())
    if not (length_K > 0).all():
        return None
    cosine_KK = product_KK / np.outer(length_K, length_K)
    return float(cosine_KK[np.triu_indices(len(chosen), 1)].mean())
