"""Tables of the simulation study, in markdown.

S replicates, R rules. The nested score minus the true one is split in two: what a fixed member, which selects nothing,
also differs by (the sample's dates, and R2's own bias with few of them), and the rest: the bias of nesting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biomass_models.targets import FloatArray

TOP5, DEFAULT = "top-5", "default"
HEAD = """# What blending rules promise and what they keep

Written by `python tests/benchmarks/simulate_blending.py --out docs/blending-study.md`. Weighted R2 of simulated
libraries; the true score is that on a test set of 200 other dates. ± is one standard error of the mean over replicates.
"""
COLUMNS = (
    "in_sample", "nested", "nested_se", "true", "gain", "gain_se", "true_gain", "noise_gain",
    "noise_gain_se",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Study:
    """All replicates of one setting."""

    title: str
    noise: bool
    rules: tuple[str, ...]
    values: Mapping[str, FloatArray]  # each [S, R]
    drift_S: FloatArray  # in-sample minus true score of fixed members
    seconds: float

    @classmethod
    def of(cls, setting: Mapping[str, int], rules: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> Study:
        table_SRC = np.array([line["table"] for line in lines], dtype=np.float64)
        noise = f" + {setting['noise']} of noise" if setting["noise"] else ""
        return cls(
            title=f"{setting['members']} models{noise}, {setting['images']} images, {setting['dates']} dates",
            noise=bool(setting["noise"]),
            rules=tuple(rules),
            values={name: table_SRC[:, :, column] for column, name in enumerate(COLUMNS)},
            drift_S=np.array([line["drift"] for line in lines]),
            seconds=sum(line["seconds"] for line in lines),
        )

    def of_rule(self, column: str, rule: str) -> FloatArray:
        return self.values[column][:, self.rules.index(rule)]

    def bias_S(self, rule: str) -> FloatArray:
        """Nested minus true score, less what fixed members differ by."""
        return self.of_rule("nested", rule) - self.of_rule("true", rule) - self.drift_S


def render(studies: Sequence[Study]) -> str:
    """The three tables for a reader in a hurry, then everything, setting by setting."""
    return "\n".join([HEAD, _scores(studies), _true_gains(studies), _default(studies), *map(_everything, studies)])


def _scores(studies: Sequence[Study]) -> str:
    """Rules by settings: in-sample / nested / true."""
    rows = [["in sample / nested / true", *(study.title for study in studies)]]
    for rule in studies[0].rules:
        means = [[study.of_rule(name, rule).mean() for name in ("in_sample", "nested", "true")] for study in studies]
        rows.append([rule, *(" / ".join(f"{mean:.3f}".lstrip("0") for mean in three) for three in means)])
    return _markdown(rows)


def _true_gains(studies: Sequence[Study]) -> str:
    """What the choice of a default is made by: true score minus that of the mean of five, and the worst setting."""
    rows = [["true score minus mean of top 5, in 0.001", *(study.title for study in studies), "worst"]]
    for rule in studies[0].rules:
        gain = [1000 * study.of_rule("true_gain", rule).mean() for study in studies]
        rows.append([rule, *(f"{value:+.1f}" for value in gain), f"{min(gain):+.1f}"])
    return _markdown(rows)


def _default(studies: Sequence[Study]) -> str:
    """The default rule, setting by setting: is its nested score unbiased, does it hold against the mean of five?"""
    rows = [
        [
            "default", "nested - true", "the same, less the drift of fixed members", "SE that one card reports",
            "nested - top 5", "SE that one card reports", "libraries above -1 SE",
        ]
    ]  # fmt: skip
    for study in studies:
        gain_S, se_S = study.of_rule("gain", DEFAULT), study.of_rule("gain_se", DEFAULT)
        rows.append(
            [
                study.title,
                _plus_minus(study.of_rule("nested", DEFAULT) - study.of_rule("true", DEFAULT)),
                _plus_minus(study.bias_S(DEFAULT)),
                f"{study.of_rule('nested_se', DEFAULT).mean():.4f}",
                _plus_minus(gain_S),
                f"{se_S.mean():.4f}",
                f"{(gain_S >= -se_S).mean():.0%}",
            ]
        )
    return _markdown(rows)


def _everything(study: Study) -> str:
    head = [
        "rule", "in sample", "nested", "true", "nested - true", "bias of nested",
        "nested - top-5 (SE in one library)", "true - top-5", "above -1 SE",
    ]  # fmt: skip
    rows = [[*head, "nested - same rule without the noise (SE in one library)"] if study.noise else head]
    for rule in study.rules:
        gain_S, se_S = study.of_rule("gain", rule), study.of_rule("gain_se", rule)
        cells = [
            rule,
            f"{study.of_rule('in_sample', rule).mean():.4f}",
            f"{study.of_rule('nested', rule).mean():.4f}",
            f"{study.of_rule('true', rule).mean():.4f}",
            _plus_minus(study.of_rule("nested", rule) - study.of_rule("true", rule)),
            _plus_minus(study.bias_S(rule)),
            f"{_plus_minus(gain_S)} ({se_S.mean():.4f})",
            _plus_minus(study.of_rule("true_gain", rule)),
            f"{(gain_S >= -se_S).mean():.0%}",
        ]
        if study.noise:
            typical = study.of_rule("noise_gain_se", rule).mean()
            cells.append(f"{_plus_minus(study.of_rule('noise_gain', rule))} ({typical:.4f})")
        rows.append(cells)
    drift = f"Fixed members score {_plus_minus(study.drift_S)} more in the sample than on the test set."
    return f"### {study.title}\n\n{len(study.drift_S)} replicates, {study.seconds:.0f} s. {drift}\n\n{_markdown(rows)}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


def _plus_minus(value_S: FloatArray) -> str:
    """Mean over replicates and its standard error."""
    error = value_S.std(ddof=1) / np.sqrt(len(value_S))
    return f"{value_S.mean():+.4f} ± {error:.4f}"
