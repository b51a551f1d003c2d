"""Conditions under ranges of the user's own: what a field needs of another one, whichever values that has."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from changed_spaces import NETS, changed

from biomass_models.families import registry
from biomass_models.families.field_notes import field_notes
from search_spaces.conditions import values_in
from search_spaces.domain import Choice, Uniform, When
from search_spaces.needs import Needs
from search_spaces.own_ranges import changed_space
from search_spaces.range_files import RangesError, read_changes
from search_spaces.ranges_text import space_toml
from search_spaces.spaces import SCALES, needs_of, space_of


def test_a_condition_stays_until_it_is_taken_away(tmp_path: Path) -> None:
    gpu = space_of("distilled", NETS, "gpu")
    condition = gpu.domains["grid"]
    assert isinstance(condition, When)
    fixed, _ = changed(tmp_path, "[distilled]\ngrid = 6", scale="gpu")
    assert fixed.domains["grid"] == When(condition.field, condition.values, Choice((6,)))
    free, _ = changed(tmp_path, "[distilled]\ngrid = {choice = [4, 8], when = {}}", scale="gpu")
    assert free.domains["grid"] == Choice((4, 8))
    of_fixed, said = changed(tmp_path, "[distilled]\ntrained_blocks = 0", scale="gpu")
    rng = Random(0)
    drawn = [of_fixed.draw(rng, {}) for _ in range(40)]
    assert all("grid" in params and "backbone_lr" not in params for params in drawn)
    assert any("trained_blocks=0" in line for line in said)


NEVER_USED = {  # family, scale, what is typed -> what is said
    ("probe", "cpu", "layers=2", "taps=0.67+0.83+1"): "used while layers = 1, and layers is 2 alone; set layers = 1",
    ("probe", "cpu", "size=336", "more_sizes=336"): "drawn while size = 224, and size is 336 alone; change size",
    ("baseline", "gpu", "trained_blocks=0", "backbone_lr=1e-4"): "trained_blocks is 0 alone",
    ("baseline", "gpu", "interval_bins=0", "interval_weight=0.1"): "interval_bins is not 0, and interval_bins is 0",
    ("baseline", "gpu", "trained_blocks=0", "adapter_rank=4"): "adapters is not none, and adapters is not drawn",
    ("baseline", "cpu", "backbone_lr=1e-4"): "trained_blocks is not 0, and trained_blocks is 0 alone; give trained",
    ("baseline", "cpu", "adapters=lora"): "trained_blocks is not 0, and trained_blocks is 0 alone",
    ("baseline", "cpu", "adapter_rank=8"): "adapters is not none, and adapters is none alone",
    ("baseline", "smoke", "interval_weight=0.2"): "interval_bins is not 0, and interval_bins is 0 alone",
    ("distilled", "cpu", "distillation_weight=0", "teacher_lr=0.01"): "distillation_weight is 0.0 alone",
    ("stack", "cpu", "regressor=ridge", "kernel_width=2.0"): "set regressor = kernel | svr as well",
}  # fmt: skip


@pytest.mark.parametrize("case", NEVER_USED, ids=range(len(NEVER_USED)))
def test_a_value_that_would_never_be_used_is_refused_with_its_condition(case: tuple[str, ...], tmp_path: Path) -> None:
    family, scale, *typed = case
    with pytest.raises(RangesError) as refused:
        changed(tmp_path, "", family, scale, [f"{family}.{one}" for one in typed])
    (problem,) = refused.value.problems
    assert problem.startswith(f"--set {family}.{typed[-1]}: ") and NEVER_USED[case] in problem, problem
    remedies = r"(as well, or leave it out|take the condition away in a file of --space \(when = {}\))$"
    assert re.search(remedies, problem), problem


def test_no_condition_makes_a_field_of_use_that_does_nothing(tmp_path: Path) -> None:
    """Three learning rates of blocks that do not train would be three trials of one model."""
    for when in ("", ", when = {}", ", when = {size = [224]}"):
        with pytest.raises(RangesError, match="used while trained_blocks is not 0, and trained_blocks is 0 alone"):
            changed(tmp_path, f"[baseline]\nbackbone_lr = {{choice = [1e-4, 2e-4]{when}}}", "baseline")


def test_the_remedies_of_a_value_that_would_never_be_used_work(tmp_path: Path) -> None:
    """Another value of the condition's field, or no condition."""
    for scale, typed in (("gpu", 4), ("gpu", 3), ("cpu", 4)):
        both = [f"baseline.trained_blocks={typed}", "baseline.backbone_lr=1e-4"]
        space, _ = changed(tmp_path, "", "baseline", scale, both)
        assert space.draw(Random(0), {})["backbone_lr"] == 1e-4
    text = "[probe]\nmore_sizes = {choice = ['448'], when = {}}"
    space, _ = changed(tmp_path, text, "probe", typed=["probe.size=336"])
    assert space.draw(Random(0), {})["more_sizes"] == "448"


def test_what_does_nothing_at_a_scale_is_drawn_where_a_change_makes_it_do_something(tmp_path: Path) -> None:
    typed = ["baseline.trained_blocks=4", "baseline.backbone_lr=1e-4", "baseline.prefix_bank=float16"]
    space, _ = changed(tmp_path, "", "baseline", typed=typed)
    config = space.config(space.draw(Random(0), {}))
    assert (config.trained_blocks, config.backbone_lr, config.prefix_bank) == (4, 1e-4, "float16")
    text = "[baseline]\ntrained_blocks = {choice = [0, 4]}\nbackbone_lr = {choice = [1e-4, 2e-4]}"
    space, _ = changed(tmp_path, text, "baseline")
    assert space.domains["backbone_lr"] == When("trained_blocks", (4,), Choice((1e-4, 2e-4)))
    text = "[baseline]\ninterval_bins = {choice = [0, 5]}\ninterval_weight = {uniform = [0.1, 0.2]}"
    space, _ = changed(tmp_path, text, "baseline", "smoke")  # which has neither
    assert space.domains["interval_weight"] == When("interval_bins", (5,), Uniform(0.1, 0.2))


def test_a_default_counts_where_the_other_field_is_not_always_drawn(tmp_path: Path) -> None:
    """Four blocks train by default: with another dropout the learning rate is of use."""
    blocks = "trained_blocks = {choice = [0], when = {dropout = [0.3]}}\ndropout = {choice = [0.0, 0.3]}"
    text = f"[baseline]\n{blocks}\nbackbone_lr = {{choice = [1e-4], when = {{dropout = [0.0]}}}}"
    space, _ = changed(tmp_path, text, "baseline")
    config = space.config(space.draw(Random(0), {"dropout": 0.0}))
    assert (config.trained_blocks, config.backbone_lr) == (4, 1e-4)


def test_a_field_that_an_older_study_has_fixed_stays_fixed(tmp_path: Path) -> None:
    """The same command again changes nothing."""
    plain = space_of("distilled", NETS, "cpu")
    older = replace(plain, fixed={**plain.fixed, "teacher_lr": 0.01})
    changes = read_changes(None, ["distilled.teacher_lr=0.01"])
    assert changed_space(older, changes, lambda line: None).to_json() == older.to_json()
    new = changed_space(plain, changes, lambda line: None)
    assert new.domains["teacher_lr"] == When("distillation_weight", (0.5, 0.25, 1.0, 2.0), Choice((0.01,)))
    assert changed_space(new, changes, lambda line: None).to_json() == new.to_json()


FOLLOWING = {  # family, scale, range of a field -> what depends on it: with which values
    ("distilled", "cpu", "distillation_weight = {choice = [0.3, 0.7]}"): {"teacher_epochs": (0.3, 0.7)},
    ("distilled", "cpu", "distillation_weight = {choice = [0.3, 0.0]}"): {"teacher_width": (0.3,)},
    ("distilled", "cpu", "distillation_weight = {uniform = [0.1, 2]}"): {"teacher_epochs": None},
    ("distilled", "cpu", "distillation_weight = {uniform = [0.5, 0.5]}"): {"teacher_epochs": (0.5, 0.25, 1.0, 2.0)},
    ("distilled", "gpu", "layout = 'tiles-3x4'"): {"local_size": ("tiles-3x4",)},
    ("baseline", "gpu", "trained_blocks = {choice = [1, 3]}"): {"backbone_lr": (1, 3), "prefix_bank": (1, 3)},
    ("baseline", "gpu", "trained_blocks = {integer = [0, 6], step = 3}"): {"backbone_lr": (3, 6)},
    ("baseline", "gpu", "trained_blocks = {choice = [0, 4]}"): {"backbone_lr": (4, 2, 6)},  # narrower: as it was
    ("baseline", "cpu", "interval_bins = 5"): {"interval_weight": (5,)},
    ("density", "cpu", "trained_blocks = {choice = [0, 2]}"): {"grid": (0,)},
    ("probe", "cpu", "layout = {choice = ['whole', 'tiles-3x4']}"): {"view_merge": ("tiles-3x4",)},
}  # fmt: skip


@pytest.mark.parametrize("case", FOLLOWING, ids=range(len(FOLLOWING)))
def test_what_depends_on_a_changed_field_is_searched_with_its_new_values(case: tuple[str, ...], tmp_path: Path) -> None:
    family, scale, text = case
    space, _ = changed(tmp_path, f"[{family}]\n{text}", family, scale)
    for name, values in FOLLOWING[case].items():
        domain = space.domains[name]
        assert (domain.values if isinstance(domain, When) else None) == values
    field = text.split()[0]
    needs = {name: one for name, one in needs_of(family).items() if one.field == field and name in space.domains}
    assert needs
    for params in (space.draw(rng, {}) for rng in (Random(seed) for seed in range(60))):
        used = {name for name, one in needs.items() if one.holds({**space.fixed, **params}[field])}
        assert used == set(params) & set(needs)


def test_what_is_not_searched_any_more_is_named(tmp_path: Path) -> None:
    lost = {
        "[baseline]\ntrained_blocks = 0": r"backbone_lr, prefix_bank.* with trained_blocks: not searched any more: "
        "used while trained_blocks is not 0, and trained_blocks is 0 alone",
        "[baseline]\ntrained_blocks = 2": "stamped with trained_blocks: not searched any more.*; add a line",
        "[baseline]\ninterval_bins = 0": "interval_weight with interval_bins: not searched any more",
        "[probe]\nsize = {choice = [224, 256]}": "more_sizes with size: not searched where size = 256; add a line",
        "[probe]\nsize = {choice = [256, 512]}": "more_sizes with size: not searched any more: drawn while size = 224, "
        r"and size is 256 \| 512; add a line",
    }
    for text, line in lost.items():
        family = text[1:].split("]")[0]
        _, said = changed(tmp_path, text, family, "gpu")
        assert any(re.search(f"^{family}: {line}", one) for one in said), said
    _, said = changed(tmp_path, "[probe]\nsize = 224", "probe", "gpu")
    assert not any("more_sizes" in one for one in said)
    narrow, _ = changed(tmp_path, "[probe]\nsize = 336", "probe", "gpu")
    changed_space(narrow, read_changes(None, ["probe.size=224"]), said.append)
    assert "probe: more_sizes with size: searched again when size = 224" in said


@pytest.mark.parametrize("line", ["{choice = [1, 3]}", "{integer = [1, 6]}", "3", "{choice = [4, 0]}"])
def test_a_whole_file_with_one_other_line_is_the_same_when_it_is_read_again(line: str, tmp_path: Path) -> None:
    """Its conditions name values that the other field had: where none is left, they are as their meaning says."""
    text = space_toml(space_of("baseline", NETS, "gpu"))
    text = re.sub("^trained_blocks = .*", f"trained_blocks = {line}", text, flags=re.MULTILINE)
    space, said = changed(tmp_path, text, "baseline", "gpu")
    assert "backbone_lr" in {**space.draw(Random(0), {"trained_blocks": 4}), **space.draw(Random(1), {})}
    if line.startswith("{integer"):
        assert any("backbone_lr, prefix_bank" in one and "where trained_blocks = 1 | 3 | 5" in one for one in said)
    again = changed_space(space, read_changes(tmp_path / "my.toml"), said.append)
    assert again.domains == space.domains and again.fixed == space.fixed


@pytest.mark.parametrize("family", registry.BUILT_IN)
def test_the_conditions_of_a_family_are_what_its_fields_need(family: str) -> None:
    """Those that are not in NEEDS are a choice of the ranges: elsewhere the field would do something as well."""
    needs, seen = needs_of(family), set()
    for scale in SCALES:
        space = space_of(family, NETS, scale)
        for name, domain in space.domains.items():
            if isinstance(domain, When) and name in needs:
                seen.add(name)
                on = values_in(space, domain.field)
                assert on is not None and domain.field == needs[name].field
                assert all(map(needs[name].holds, domain.values))
                assert all(needs[name].holds(value) == (value in domain.values) for value in on)
            elif isinstance(domain, When):
                assert name in ("more_sizes", "stamped", "grid")
    assert set(needs) - seen <= {"adapters", "adapter_rank", "interval_weight", "prefix_bank"} | {
        name for name in needs if name.startswith("teacher_")
    }
    assert set(needs) | {one.field for one in needs.values()} <= set(field_notes(registry.family(family).config_class))


def test_needs_name_values_or_those_that_are_not() -> None:
    assert str(Needs(field="layers", one_of=(1, 2))) == "layers = 1 | 2"
    assert str(Needs(field="layout", other_than=("none",))) == "layout is not none"
    for wrong in ({}, {"one_of": (1,), "other_than": (2,)}):
        with pytest.raises(ValueError, match="needs name values"):
            Needs(field="layers", **wrong)


@pytest.mark.slow
@pytest.mark.parametrize("family", registry.names())
def test_a_written_file_stays_right_where_a_field_of_its_conditions_is_fixed(family: str, tmp_path: Path) -> None:
    """What a file says as it was is not at fault, nor a condition on some values that the field has no more."""
    for scale in SCALES:
        space = space_of(family, NETS, scale)
        text = space_toml(space)
        for name, domain in space.domains.items():
            if isinstance(domain, Choice) and name != "backbone":
                for option in domain.options:
                    found, _ = changed(tmp_path, text, family, scale, [f"{family}.{name}={option}"])
                    assert found.fixed[name] == option
    text = "[probe]\nview_merge = {choice = ['mean'], when = {layout = ['halves', 'tiles-2x4']}}"
    assert "view_merge" in changed(tmp_path, text, "probe", typed=["probe.layout=halves"])[0].domains
