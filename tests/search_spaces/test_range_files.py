"""Ranges of the user's own: a file or typed settings over a family's ranges, checked against its configuration."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from changed_spaces import NETS, changed, written
from optuna.distributions import IntDistribution

from biomass_models.families import registry
from biomass_models.families.field_notes import field_notes
from biomass_models.families.probe.config import ProbeConfig
from biomass_models.families.registry import BUILT_IN
from biomass_models.toml_files import TomlError, TomlFile, read_toml, toml_key, toml_value
from search_spaces.domain import Choice, Integer, LogUniform, SearchSpace, Uniform, When
from search_spaces.nearest import nearest_point
from search_spaces.own_ranges import changed_space
from search_spaces.range_files import Change, RangesError, read_changes
from search_spaces.ranges_text import HOW, default_of, domain_text, domain_toml, space_toml
from search_spaces.spaces import SCALES, reasons_of, space_of
from search_spaces.to_optuna import distributions_of


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("family", registry.names())
def test_a_written_space_read_again_is_the_same_space(family: str, scale: str, tmp_path: Path) -> None:
    space = space_of(family, NETS, scale)
    again, said = changed(tmp_path, HOW + space_toml(space), family, scale)
    assert json.dumps(again.to_json()) == json.dumps(space.to_json()) and said == []
    named = read_changes(tmp_path / "my.toml")
    never = {name for name, one in space.domains.items() if isinstance(one, When) and not one.values}
    assert {change.field for change in named} == {*space.domains, *space.fixed} - {"backbone"} - never


def test_a_field_is_changed_added_fixed_and_conditioned(tmp_path: Path) -> None:
    text = """
    [distilled]
    head_lr = {log-uniform = [1e-4, 1e-3]}
    batch_size = {integer = [8, 40], step = 8}
    huber_delta = 1
    dropout = {uniform = [0, 0.3], when = {epochs = [10, 15]}}
    """
    space, _ = changed(tmp_path, text)
    assert space.domains["head_lr"] == LogUniform(1e-4, 1e-3) and space.domains["batch_size"] == Integer(8, 40, 8)
    assert space.fixed["huber_delta"] == 1.0 and type(space.fixed["huber_delta"]) is float
    assert "huber_delta" not in space.domains
    assert space.domains["dropout"] == When("epochs", (10, 15), Uniform(0.0, 0.3))
    order = list(space.domains)
    assert order.index("epochs") < order.index("dropout")  # a condition is drawn first
    untouched = space_of("distilled", NETS, "cpu")
    assert {name: one for name, one in space.domains.items() if name not in ("head_lr", "dropout", "batch_size")} == {
        name: one for name, one in untouched.domains.items() if name not in ("head_lr", "dropout", "huber_delta")
    }
    for params in space.first_trials:
        assert space.misfits(params) == [] and params["batch_size"] == 24  # 20 is published: the nearest that may be
    assert [space.config(params).distillation_weight for params in space.first_trials] == [0.5, 0.0]


def test_what_is_typed_goes_over_the_file(tmp_path: Path) -> None:
    typed = ["probe.transform=none", "probe.more_sizes=336", "probe.alpha_per_target=True", "probe.alphas=5"]
    space, _ = changed(tmp_path, '[probe]\ntransform = "sqrt"\nlayers = 1\n', "probe", typed=typed)
    assert {"transform": "none", "alpha_per_target": True, "alphas": 5, "layers": 1}.items() <= space.fixed.items()
    assert space.domains["more_sizes"] == When("size", (224,), Choice(("336",)))
    assert read_changes(None, ["probe.taps="])[0].value == ""
    assert read_changes(None, ['probe.transform="sqrt"'])[0].value == "sqrt"


WRONG = {  # a file of one fault -> what is said of it
    "distilled = 3": ["my.toml:1", "below its family"],
    "[distiled]\nsize = 3": ["my.toml:1", "did you mean distilled"],
    "\n[distilled]\n\nhuber_detla = 1.0": ["my.toml:4", "'huber_detla'", "did you mean huber_delta"],
    "[distilled]\nhuber_delta = 'much'": ["my.toml:2", "type float", "'much' (str)"],
    "[distilled]\nsize = true": ["my.toml:2", "type int", "True (bool)"],
    "[distilled]\nsize = {choice = [224, 2.5]}": ["my.toml:2", "type int", "2.5 (float)"],
    "[distilled]\ndropout = {uniform = [0.5, 0.1]}": ["my.toml:2", "low <= high", "0.5 and 0.1"],
    "[distilled]\nhead_lr = {log-uniform = [0.0, 0.1]}": ["my.toml:2", "above 0", "low=0.0"],
    "[distilled]\nhead_lr = {loguniform = [0.1, 0.2]}": ["my.toml:2", "'loguniform'", "did you mean log-uniform"],
    "[distilled]\nhead_lr = {uniform = [0.1, 0.2], choice = [0.1]}": ["my.toml:2", "one of the keys"],
    "[distilled]\nhead_lr = {uniform = [0.1]}": ["my.toml:2", "upper end", "1 values"],
    "[distilled]\nhead_lr = {uniform = 0.1}": ["my.toml:2", "is a list"],
    "[distilled]\nhead_lr = {when = {size = 224}}": ["my.toml:2", "one of the keys", "got none"],
    "[distilled]\ndropout = {uniform = [0.1, inf]}": ["my.toml:2", "finite"],
    "[distilled]\ndropout = nan": ["my.toml:2", "finite"],
    "[distilled]\nepochs = {uniform = [1, 5]}": ["my.toml:2", "whole number"],
    "[distilled]\nepochs = {integer = [9, 5]}": ["my.toml:2", "low <= high"],
    "[distilled]\nepochs = {integer = [1, 5], step = 0}": ["my.toml:2", "step", "got 0"],
    "[distilled]\nepochs = {integer = [1, 5], step = 0.5}": ["my.toml:2", "step", "0.5"],
    "[distilled]\nhead_lr = {integer = [1, 5]}": ["my.toml:2", "real number"],
    "[distilled]\nepochs = {choice = [1, 2], step = 2}": ["my.toml:2", "integer range"],
    "[distilled]\nsize = {choice = []}": ["my.toml:2", "at least one option"],
    "[distilled]\nsize = {choice = [224, 224]}": ["my.toml:2", "differ"],
    "[distilled]\nlayout = {uniform = ['a', 'b']}": ["my.toml:2", "str", "choice"],
    "[distilled.size]\nchoice = [224]\nwen = {layout = 'none'}": ["my.toml:1", "'wen'", "did you mean when"],
    "[distilled]\nsize = {choice = [224], when = {lay_out = 'none'}}": ["my.toml:2", "did you mean layout"],
    "[distilled]\nsize = {choice = [224], when = {layout = []}}": ["my.toml:2", "got none"],
    "[distilled]\nsize = {choice = [224], when = {layout = 'none', epochs = 3}}": ["my.toml:2", "one field"],
    "[distilled]\nsize = {choice = [224], when = {layout = 4}}": ["my.toml:2", "type str", "4 (int)"],
    "[distilled]\nsize = {choice = [224], when = {clip_norm = 5.0}}": ["my.toml:2", "clip_norm", "neither"],
    "[distilled]\nsize = {choice = [224], when = {size = 224}}": ["my.toml:2", "another field"],
    "[distilled]\nsize = {choice = [224], when = {layout = 'none'}}\nlayout = {choice = ['none'], when = {size = 224}}":
        ["my.toml:2", "circle"],
    "[distilled]\ndropout = {uniform = [0.0, 1.0]}": ["my.toml:2", "refuses 1.0", "must lie in [0, 1)"],
    "[distilled]\nlayout = {choice = ['none', 'thirds']}": ["my.toml:2", "refuses 'thirds'", "tiles-RxC"],
    "[distilled]\nflips = 3": ["my.toml:2", "refuses 3"],
    "[distilled]\nflips = 3\nstamp = 'keep'\nclip_norm = 0.2": ["my.toml:2", "refuses 3"],
    "[distilled]\nflips = 8\nclip_norm = {uniform = [0, 3]}": ["my.toml:3", "refuses 0.0"],
    "[distilled]\nclip_norm = {uniform = [0, 3], when = {flips = 8}}\nflips = {choice = [4, 8]}":
        ["my.toml:2", "refuses 0.0"],
    f"[distilled]\nhead_lr = 1{'0' * 400}": ["my.toml:2", "head_lr is finite", "above 1.79769e+308", "smaller"],
    f"[distilled]\nepochs = {{integer = [1, 1{'0' * 400}]}}": ["my.toml:2", "epochs is finite", "whole number"],
    f"[distilled]\nepochs = -1{'0' * 400}": ["my.toml:2", "epochs is finite"],
    "[distilled]\nclip_norm = {choice = [3.0], when = {layout = ['halve']}}":
        ["my.toml:2", "one that layout can have", "got 'halve'; did you mean halves?"],
    "[distilled]\nclip_norm = {choice = [3.0], when = {size = [224, 999]}}":
        ["my.toml:2", "one that size can have", "got 999", "leave it out"],
    "[distilled]\nclip_norm = {choice = [3.0], when = {dropout = [0.3]}}":
        ["my.toml:2", "single values", "dropout, which is 0 .. 0.6", "give dropout a choice"],
    "[distilled]\nclip_norm = {choice = [3.0], when = {flips = [8]}}\nflips = 4":
        ["my.toml:2", "one that flips can have, 4; got 8"],
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_searched_is_refused_with_its_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(RangesError) as refused:
        changed(tmp_path, text)
    (problem,) = refused.value.problems
    assert all(part in problem for part in WRONG[text]), problem
    assert len(problem) <= 3 * 80, problem


def test_where_only_all_changes_together_are_refused_each_is_named(tmp_path: Path) -> None:
    with pytest.raises(RangesError) as refused:
        changed(
            tmp_path, "[probe]\nsize = 336\nmore_sizes = {choice = ['336'], when = {}}\ntransform = 'sqrt'", "probe"
        )
    assert [problem.split(": ")[0] for problem in refused.value.problems] == ["my.toml:2", "my.toml:3", "my.toml:4"]


def test_all_problems_are_raised_together(tmp_path: Path) -> None:
    with pytest.raises(RangesError) as refused:
        read_changes(written(tmp_path, "[probe]\nlayer = 1\n[prob]\nx = 1\n"), ["probe.layers=many", "nothing"])
    assert [problem.split(": ")[0] for problem in refused.value.problems] == [
        "my.toml:2",
        "my.toml:3",
        "--set probe.layers=many",
        "--set nothing",
    ]
    assert str(refused.value).startswith("4 problems in the ranges:\n")


def test_a_file_that_is_no_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(TomlError, match=r"my\.toml:2: my\.toml is TOML") as refused:
        read_changes(written(tmp_path, "[probe]\nlayers = one\n"))
    assert refused.value.line == 2
    (tmp_path / "my.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(TomlError, match="UTF-8"):
        read_changes(tmp_path / "my.toml")
    many = "1" * 5000  # digits, more than Python reads
    with pytest.raises(TomlError, match="4300 digits"):
        read_changes(written(tmp_path, f"[baseline]\nhead_lr = {many}"))
    with pytest.raises(RangesError, match="head_lr is finite"):
        read_changes(None, [f"baseline.head_lr={many}"])
    with pytest.raises(ValueError, match="can be read"):
        read_changes(tmp_path / "none.toml")


def test_first_trials_that_cannot_be_adapted_are_left_out_with_a_line(tmp_path: Path) -> None:
    space, said = changed(tmp_path, '[distilled]\ndistillation_weight = 0.0\nlayout = "none"\n')
    assert len(space.first_trials) == 1  # the second differed in that alone
    assert any("first trial 2 of distilled is left out" in line for line in said)
    # more_sizes must be others than size: half of the points are refused, and so are the first trials, at 224 px
    text = '[probe]\nsize = {choice = [224, 336]}\nmore_sizes = {choice = ["224", "336"], when = {}}\n'
    space, said = changed(tmp_path, text, "probe")
    assert any(re.search(r"refuses (4|5)\d % of the points of probe, which are drawn again", line) for line in said)
    assert space.first_trials == ()
    assert sum("the configuration refuses it (more_sizes must be other sizes" in line for line in said) == 2


@pytest.mark.parametrize("family", registry.names())
def test_the_nearest_point_lies_in_the_space(family: str) -> None:
    """For any values of a configuration, at any scale; and a point of the space is its own nearest."""
    rng = Random(3)
    spaces = {scale: space_of(family, NETS, scale) for scale in SCALES}
    for origin in spaces.values():
        for _ in range(20):
            params = origin.draw(rng, {})
            values = {**{name: default_of(origin, name) for name in params}, **origin.fixed, **params}
            assert nearest_point(origin, values) == params
            for space in spaces.values():
                assert space.misfits(nearest_point(space, values)) == []


def test_the_nearest_value_is_in_range() -> None:
    space = SearchSpace(
        family="probe",
        config_class=ProbeConfig,
        domains={
            "alphas": Integer(3, 10, 4),
            "inner_folds": Choice((2, 8)),
            "log10_alpha_low": Uniform(-4.0, -1.0),
            "transform": Choice(("none", "sqrt")),
        },
        fixed={"backbone": "net"},
    )
    far = {"alphas": 10, "inner_folds": 4, "log10_alpha_low": -9.0, "transform": "log1p"}
    assert nearest_point(space, far) == {
        "alphas": 7, "inner_folds": 2, "log10_alpha_low": -4.0, "transform": "none",
    }  # fmt: skip
    assert nearest_point(space, {}) == {"alphas": 3, "inner_folds": 2, "log10_alpha_low": -4.0, "transform": "none"}


def test_a_point_of_older_ranges_is_completed_from_its_configuration() -> None:
    """A field that was fixed then and is drawn now has the value that it had; one under a condition only where it is
    drawn."""
    space = space_of("probe", NETS, "cpu")
    params = {"size": 224, "layout": "whole"}
    config = {"layers": 2, "view_merge": "mean", "taps": "", "size": 336, "unknown": 1, "flips": 8}  # 1 or 4 today
    assert space.completed(params, config) == {**params, "layers": 2}
    assert space.completed(space.first_trials[0], {"layers": 9}) == space.first_trials[0]


def test_lines_of_keys_are_found() -> None:
    text = 'a = 1\n[b]\n"c d" = 2\ne.f = {g = 1}\n[b.h]\ni = [\n 1,\n]\n[[k]]\nl = 1\n'
    file = TomlFile(name="x", content={}, text=text)
    places = {("a",): 1, ("b",): 2, ("b", "c d"): 3, ("b", "e", "f", "g"): 4, ("b", "h"): 5, ("b", "h", "i"): 6}
    assert {path: file.line_of(*path) for path in places} == places
    assert {path: file.exact_line(*path) for path in places if "g" not in path} == {
        path: line for path, line in places.items() if "g" not in path
    }
    assert file.exact_line("b", "nothing") is None and file.exact_line("b", "e", "f", "g") is None
    assert file.line_of("b", "nothing") == 2 and file.line_of("z") is None and file.line_of("k", "l") == 10


def test_values_survive_toml(tmp_path: Path) -> None:
    values = {"t": 'a "b" \\ \x1b[0m é', "f": 5e-05, "i": 3, "yes": True, "l": ["", 1.0], "m": {"k-1": {"x y": 2}}}
    text = "\n".join(f"{toml_key(name)} = {toml_value(value)}" for name, value in values.items())
    (tmp_path / "v.toml").write_text(text)
    assert read_toml(tmp_path / "v.toml", "").content == values


@pytest.mark.parametrize("family", BUILT_IN)
@pytest.mark.parametrize("scale", SCALES)
def test_each_line_of_a_written_file_may_be_edited(family: str, scale: str, tmp_path: Path) -> None:
    """Also one whose condition names values that are not searched at this scale."""
    space = space_of(family, ("net",), scale)
    for name, domain in space.domains.items():
        inner = domain.domain if isinstance(domain, When) else domain
        if isinstance(domain, When) and domain.values and isinstance(inner, Uniform | LogUniform):
            edited = replace(inner, high=(inner.low + inner.high) / 2)
            file = space_toml(replace(space, domains={**space.domains, name: replace(domain, domain=edited)}))
            found = changed_space(space, read_changes(written(tmp_path, file)), lambda line: None)
            assert found.domains[name] == replace(domain, domain=edited)


def test_a_step_that_does_not_divide_its_range_ends_below_it(recwarn: pytest.WarningsRecorder, tmp_path: Path) -> None:
    space, _ = changed(tmp_path, "[baseline]\nepochs = {integer = [20, 80], step = 7}", family="baseline")
    epochs = space.domains["epochs"]
    assert domain_text(epochs) == "20, 27 .. 76" and domain_text(Integer(20, 80, 100)) == "20"
    assert distributions_of(space)["epochs"] == IntDistribution(20, 76, step=7) and not recwarn.list
    assert domain_toml(epochs) == "{integer = [20, 80], step = 7}"


def test_real_numbers_may_be_typed_as_people_write_them() -> None:
    for text, value in ((".4", 0.4), ("1.", 1.0), ("2e-1", 0.2), ("1", 1.0)):
        (change,) = read_changes(None, [f"baseline.dropout={text}"])
        assert change.value == value and type(change.value) is float
    with pytest.raises(RangesError, match="dropout is finite"):
        read_changes(None, ["baseline.dropout=NaN"])


def test_domains_in_words() -> None:
    assert domain_text(LogUniform(5e-5, 0.003)) == "5e-05 .. 0.003 (log)" and domain_text(Uniform(0, 0.5)) == "0 .. 0.5"
    assert domain_text(Integer(10, 40, 5)) == "10, 15 .. 40" and domain_text(Integer(1, 4)) == "1 .. 4"
    assert domain_text(When("size", (224,), Choice(("", "336")))) == '"" | 336, when size = 224'


@pytest.mark.parametrize("family", registry.BUILT_IN)
def test_every_field_is_explained_and_every_reason_is_of_a_field(family: str) -> None:
    config_class = registry.family(family).config_class
    notes = field_notes(config_class)
    searched = {name for scale in SCALES for name in space_of(family, NETS, scale).domains}
    assert set(reasons_of(family)) <= set(notes)
    assert {name for name in searched if not notes.get(name) and not reasons_of(family).get(name)} <= {
        "pooling_dropout", "adapter_rank", "beta",
    }  # fmt: skip
    assert field_notes(int) == {}


def test_what_a_change_may_be_is_known() -> None:
    fixed = Change(family="probe", field="backbone", place="x", value="net")
    assert fixed.values == ("net",)
    assert Change(family="probe", field="backbone", place="x", domain=Choice(("a", "b"))).values == ("a", "b")
