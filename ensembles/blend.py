"""Fit a blend on a library and write its card, with the nested score; apply a card to predictions of its members.

The nested score is weighted R2 of the rows that spec.nested_rows predicts: in each nest rule, members, weights and
follow-ups are chosen without that nest. honest.score_estimate gives its error.
M members, N images, T = 5 targets; masses in grams. Of a target that was never measured a blend's masses are NaN, and
the card has no number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biomass_models.errors import UserError
from biomass_models.targets import (
    TARGETS,
    FloatArray,
    project_coherent,
    spread_of,
    squared_error,
    weight_T,
    weighted_r2_score,
    weighted_sst,
    weights_in,
)
from ensembles.card import Card, CardStateRule, TargetScore
from ensembles.choice import SINGLE_BEST, TOP_MEAN, chosen_rule, rule_named
from ensembles.flips import Flipped, flips_gain, nested_rows_with_flips
from ensembles.gram import ErrorGram
from ensembles.honest import METHOD, paired_difference, score_estimate, units_of
from ensembles.intervals.rows import IntervalRows
from ensembles.measured import counted_text, images_by_target, measured_targets, sums_by_target
from ensembles.members.library import Library
from ensembles.nests import fold_nests, nested_all, shortlist
from ensembles.optimum import simplex_optimum
from ensembles.rules import Rule, ranking
from ensembles.spec import Blender, BlendSpec, choose_follow_ups, fit_spec, nested_rows
from ensembles.states import COMPONENTS, StateRule


def fit_blend(
    library: Library,
    spec: str | Rule | BlendSpec = "default",
    seed: int = 0,
    *,
    references: Mapping[str, FloatArray] | None = None,
    flipped: Flipped | None = None,
) -> Card:
    """Choose members and weights by a rule, and score rule and all that follows it by nests.

    spec: a rule's name (choice.RULES), a rule, or a rule with follow-ups; tried ones, and flips, are used
    where they gain more than their standard error. references: pred_NT in grams by name, rows as the library's, to
    compare with; flipped: of the members that flips.members_in_nests names. Raises UserError for an unknown rule and
    for a library with a single fold and group.
    """
    if not isinstance(spec, BlendSpec):
        spec = BlendSpec(rule=rule_named(spec) if isinstance(spec, str) else spec)
    gram = library.gram
    used, gains = choose_follow_ups(library, spec, seed=seed) if spec.tried else (spec, {})
    blender = fit_spec(library, used, seed=seed)
    pred_MNT, gain, copies = library.pred_MNT, None, 1
    by_fold = fold_nests(gram)
    fold_NT = None
    if flipped is None:
        nested_RNT = nested_rows(library, spec, seed=seed)
        if by_fold is not None:
            fold_NT = nested_rows(library, spec, seed=seed, nest_RC=by_fold)[0]
    else:
        flipped_MNT = flipped.beside(library)
        gain = flips_gain(library, flipped_MNT, used, blender, seed=seed)
        nested_RNT = nested_rows_with_flips(library, flipped_MNT, spec, seed=seed)
        if by_fold is not None:
            fold_NT = nested_rows_with_flips(library, flipped_MNT, spec, seed=seed, nest_RC=by_fold)[0]
        if gain.value > gain.se:
            pred_MNT, copies = flipped_MNT, flipped.copies
    blend_NT = blender.blend(pred_MNT)
    loss_RC = library.loss_by_cell(nested_RNT)
    single, top5 = nested_all(gram, [SINGLE_BEST, TOP_MEAN], seed=seed)
    rivals = {"best single": single.loss_RC, "mean of top 5": top5.loss_RC}
    for name, pred_NT in (references or {}).items():
        rivals[name] = library.loss_by_cell(project_coherent(pred_NT, library.norm_T))
    shown = gram.keep(shortlist(gram))
    ceiling = simplex_optimum(shown.gram_MM)
    best = int(ranking(gram)[0])
    estimate = score_estimate(gram, loss_RC)
    several_units = units_of(gram) > 1
    weights = _weights(library, blender)
    measured = measured_targets(library.weight)
    return Card(
        rule=used.rule.name,
        follow_ups=tuple(used.follow_ups),
        chosen_rule=chosen_rule(gram, used.rule, seed=seed).name,
        members={name: float(weight_t[library.norm_T > 0].mean()) for name, weight_t in weights.items()},
        target_weights=_per_target(weights, measured) if used.per_target else None,
        calibration=_pairs(blender, measured) if used.calibrate else None,
        floors=_floors(blender, measured) if used.zeros else None,
        state_rule=None if library.states is None or not used.state else _state_rule(blender, library.states.names),
        follow_up_gains=gains,
        flips=copies,
        flips_gain=gain,
        library_size=len(library.names) - len(library.unskilled),
        images=len(library.truth_NT),
        groups=len(np.unique(gram.group_C)),
        seed=seed,
        in_sample_score=weighted_r2_score(library.truth_NT, blend_NT, library.weight),
        nested_score=estimate.value,
        nested_se=estimate.se,
        nested_low=_known(estimate.low),
        nested_high=_known(estimate.high),
        nested_by=library.unit if several_units else "fold",
        method=METHOD,
        units=units_of(gram),
        cut_groups=library.cut_groups,
        nested_fold_scores=_scores_within(gram, loss_RC.mean(0), gram.fold_C),
        nested_group_score=None,
        nested_group_se=None,
        group_scores=_scores_within(gram, loss_RC.mean(0), gram.group_C),
        bootstrap=None,
        ceiling_score=1 - ceiling.loss,
        ceiling_gap=ceiling.gap,
        best_single=library.names[best],
        best_single_score=1 - float(gram.loss_M[best]),
        best_single_nested_score=single.score,
        top5_nested_score=top5.score,
        versus={name: paired_difference(gram, loss_RC, rival) for name, rival in rivals.items()},
        targets=_by_target(library, blend_NT, nested_RNT),
        state_scores=_by_state(library, nested_RNT),
        diversity=_diversity(gram, blender.support),
        left_out=(*library.left_out, *library.unskilled),
        merged=library.merged,
        counted=counted_text(library.weight),
        target_norm=None if library.weight.ndim == 1 else _known_norm(library.norm_T),
        intervals=None if fold_NT is None else _interval_rows(library, fold_NT, seed),
    )


def apply_blend(card: Card, predictions: Mapping[str, ArrayLike], likely_NS: FloatArray | None = None) -> FloatArray:
    """Blend members' predictions ([N, 5] grams by name) by a card; coherent and non-negative masses [N, 5].

    Members are projected onto the identities first, as they were when the blend was fitted. Targets that were not
    measured where it was fitted are not looked at, and NaN. likely_NS: chances of the states of card.state_rule, which
    needs them.
    Raises UserError for members whose predictions are missing or not finite, ValueError where shapes differ.
    """
    missing = [name for name in card.members if name not in predictions]
    if missing:
        raise UserError(f"a blend needs the predictions of all its members, missing: {', '.join(missing)}")
    given = {name: np.asarray(predictions[name], dtype=np.float64) for name in card.members}
    if len({pred_NT.shape for pred_NT in given.values()}) != 1:
        shapes = ", ".join(f"{name} {pred_NT.shape}" for name, pred_NT in given.items())
        raise ValueError(f"members must predict the same images, got shapes {shapes}")
    norm_T = weight_T if card.target_norm is None else np.array([card.target_norm.get(name, 0.0) for name in TARGETS])
    if bad := [name for name, pred_NT in given.items() if not np.isfinite(pred_NT[..., norm_T > 0]).all()]:
        raise UserError(f"predictions must be finite, {', '.join(bad)} are not; blend without them")
    pred_MNT = project_coherent(np.stack(list(given.values())), norm_T)
    by_target = card.target_weights or {}
    weight_TM = np.array([[by_target.get(target, card.members).get(name, 0.0) for name in given] for target in TARGETS])
    pair_T2 = np.array([(card.calibration or {}).get(target, (1.0, 0.0)) for target in TARGETS])
    floor_3 = np.array([(card.floors or {}).get(component, 0.0) for component in TARGETS[:3]])
    if card.state_rule is not None and likely_NS is None:
        raise UserError("a blend with a state rule needs how likely each photograph is of each state; got none")
    blender = Blender(
        weight_TM=weight_TM,
        slope_T=pair_T2[:, 0],
        offset_T=pair_T2[:, 1],
        floor_3=floor_3,
        norm_T=norm_T,
        state_rule=None if card.state_rule is None else _rule_of(card.state_rule),
        likely_NS=likely_NS,
    )
    return blender.blend(pred_MNT)


def _interval_rows(library: Library, fold_NT: FloatArray, seed: int) -> IntervalRows:
    """Of rows that were predicted without their fold: an average over partitions would err less than a blend does."""
    return IntervalRows.of(
        library.truth_NT,
        fold_NT,
        np.broadcast_to(library.weight > 0, library.truth_NT.shape),
        (library.group_N if library.unit_N is None else library.unit_N).tolist(),
        unit=library.unit,
        seed=seed,
    )


def _weights(library: Library, blender: Blender) -> dict[str, FloatArray]:
    """Chosen members' weights per target, heaviest member first."""
    mean_M = blender.weight_TM[library.norm_T > 0].mean(0)
    chosen = blender.support
    chosen = chosen[np.argsort(-mean_M[chosen], kind="stable")]
    return {library.names[member]: blender.weight_TM[:, member] for member in chosen}


def _per_target(weights: Mapping[str, FloatArray], measured: Sequence[str]) -> dict[str, dict[str, float]]:
    return {
        target: {name: float(weight_t[column]) for name, weight_t in weights.items() if weight_t[column] > 0}
        for column, target in enumerate(TARGETS)
        if target in measured
    }


def _pairs(blender: Blender, measured: Sequence[str]) -> dict[str, tuple[float, float]]:
    triples = zip(TARGETS, blender.slope_T, blender.offset_T, strict=True)
    return {target: (float(slope), float(offset)) for target, slope, offset in triples if target in measured}


def _floors(blender: Blender, measured: Sequence[str]) -> dict[str, float]:
    floors = zip(TARGETS, map(float, blender.floor_3), strict=False)
    return {component: floor for component, floor in floors if component in measured}


def _state_rule(blender: Blender, names: tuple[str, ...]) -> CardStateRule:
    rule = blender.state_rule
    assert rule is not None
    never = {
        state: [component for component, absent in zip(COMPONENTS, absent_3, strict=True) if absent]
        for state, absent_3 in zip(names, rule.absent_S3, strict=True)
    }
    return CardStateRule(threshold=rule.threshold, never=never)


def _rule_of(rule: CardStateRule) -> StateRule:
    absent_S3 = np.array([[component in absent for component in COMPONENTS] for absent in rule.never.values()])
    return StateRule(absent_S3=absent_S3, threshold=rule.threshold)


def _known_norm(norm_T: FloatArray) -> dict[str, float]:
    return {name: float(norm) for name, norm in zip(TARGETS, norm_T, strict=True) if norm > 0}


def _scores_within(gram: ErrorGram, loss_C: FloatArray, key_C: NDArray[np.generic]) -> dict[str, float | None]:
    """Weighted R2 within each fold or group, around its own mean; None without spread."""
    scores: dict[str, float | None] = {}
    for key in np.unique(key_C):
        part = gram.select(key_C == key)
        scores[str(key)] = float(1 - loss_C[key_C == key].sum() / part.sst) if part.sst > 0 else None
    return scores


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _by_target(library: Library, blend_NT: FloatArray, nested_RNT: FloatArray) -> dict[str, TargetScore]:
    """Of the cells that were measured; squared errors are means over partitions."""
    truth_NT, weight = library.truth_NT, library.weight
    images_T = images_by_target(weight, len(truth_NT))
    around_T = sums_by_target((truth_NT - sums_by_target(truth_NT, weight) / images_T) ** 2, weight)
    spread_T = spread_of(around_T, sums_by_target(truth_NT**2, weight))
    in_sample_T = sums_by_target((truth_NT - blend_NT) ** 2, weight)
    nested_T = sums_by_target((truth_NT - nested_RNT) ** 2, weight).mean(0)
    measured = measured_targets(weight)
    return {
        name: TargetScore(
            in_sample_r2=float(1 - in_sample / spread) if spread > 0 else None,
            nested_r2=float(1 - nested / spread) if spread > 0 else None,
            nested_rmse=float(np.sqrt(nested / images)),
        )
        for name, spread, in_sample, nested, images in zip(
            TARGETS, spread_T, in_sample_T, nested_T, images_T, strict=True
        )
        if name in measured
    }


def _by_state(library: Library, nested_RNT: FloatArray) -> dict[str, float | None]:
    scores: dict[str, float | None] = {}
    for state in [] if library.state_N is None else np.unique(library.state_N):
        rows = library.state_N == state
        truth_NT, weight = library.truth_NT[rows], weights_in(library.weight, rows)
        sst = weighted_sst(truth_NT, weight)
        loss = float(squared_error(truth_NT, nested_RNT[:, rows], weight).sum(-1).mean())
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
