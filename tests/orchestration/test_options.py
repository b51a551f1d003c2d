"""One option, one name: from the command line through the preset to the study's settings and to a slot's worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, get_type_hints

import pandas as pd
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from biomass_models.backbones.weights import WeightsSource
from biomass_models.data.table import read_train
from orchestration.cli import app
from orchestration.commands import complete
from orchestration.commands.options import Cache
from orchestration.option import PANELS, Option, option_of
from orchestration.search.on_ray import run as on_ray
from orchestration.search.presets.options import NOTED, OPTION_FIELDS, PART_OF, PARTS
from orchestration.search.proposer import Proposer
from orchestration.search.pruning import RULES
from orchestration.study.ledger import Ledger
from orchestration.study.storage import Storage
from orchestration.workers.context import WorkerContext
from orchestration.workers.resources import Resources
from orchestration.workers.slots.leases import Slots

pytestmark = pytest.mark.slow

OF_THE_COMMAND = {"study", "data", "preset"}  # parameters of `search` that are no fields of a preset
TYPED: dict[str, tuple[str, Any]] = {  # field -> what is typed, and the value that it gives
    "families": ("--family probe=2 --family baseline=1", ("probe", "baseline")),
    "shares": ("", (2.0, 1.0)),
    "backbones": ("--backbone test_vit", ("test_vit.r160_in1k",)),
    "weights": ("--weights random", "random"),
    "scale": ("--scale smoke", "smoke"),
    "seed": ("--seed 3", 3),
    "space": ("--space my.toml", Path("my.toml")),
    "set_": ("--set probe.layers=1", ("probe.layers=1",)),
    "fit": ("--fit pad", "pad"),
    "sharing": ("--shares earned", "earned"),
    "aim": ("--aim blend", "blend"),
    "engine": ("--engine random", "random"),
    "folds": ("--folds 3", 3),
    "scheme": ("--scheme random", "random"),
    "exam": ("--exam 0.25", 0.25),
    "from_": ("--from old", "old"),
    "fold_file": ("--fold-file folds.csv", Path("folds.csv")),
    "trials": ("--trials 7", 7),
    "hours": ("--hours 2", 2.0),
    "prune": ("--prune strict", "strict"),
    "max_fold_seconds": ("--max-fold-seconds 999", 999.0),
    "retry_failed": ("--retry-failed", True),
    "second_round": ("--second-round submission", "submission"),
    "pseudo_weight": ("--pseudo-weight 0.5", 0.5),
    "cpus_per_fold": ("--cpus-per-fold 0.5", 0.5),
    "gpus_per_fold": ("--gpus-per-fold 0.25", 0.25),
    "slots": ("--slots 2", 2),
    "fold_timeout": ("--fold-timeout 77", 77.0),
    "folds_together": ("--folds-apart", False),
    "compile": ("--compile", True),
    "cache": ("--cache kept", Path("kept")),
    "cache_gb": ("--cache-gb 3", 3.0),
    "weights_gb": ("--weights-gb 2", 2.0),
    "address": ("--address local", "local"),
    "inline": ("--inline", True),
}
# not without a study, beside --scheme, beside --slots, without a file; a second round: test_second_round.py
OTHERWISE = {"from_", "fold_file", "inline", "space", "second_round", "pseudo_weight"}


class Started(Exception):
    """Instead of the broker's process."""


class Arrived(NamedTuple):
    """What a search on Ray was started with."""

    proposer: Proposer
    rule: Any
    resources: Resources
    context: WorkerContext
    slots: Slots


@pytest.fixture
def search(tmp_path: Path, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Arrived, str]]:
    """Runs the command up to where Ray would start the broker; what arrived there, and the remarks."""
    found: dict[str, Any] = {}
    whole = on_ray.search_on_ray

    def remember(ledger: Any, context: Any, proposer: Any, rule: Any, resources: Any, *more: Any) -> Any:
        found.update(proposer=proposer, rule=rule, resources=resources)
        return whole(ledger, context, proposer, rule, resources, *more)

    def start(context: WorkerContext, slots: Slots, worker_class: type) -> None:
        found.update(context=context, slots=slots)
        raise Started

    @contextmanager
    def no_cluster(*_: Any, **__: Any) -> Iterator[Any]:
        yield SimpleNamespace(guard=lambda call: call())

    actor = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start))
    plenty = {"CPU": 64.0, "GPU": 8.0}
    monkeypatch.setattr(on_ray, "search_on_ray", remember)
    monkeypatch.setattr("orchestration.workers.cluster.ray_cluster", no_cluster)
    monkeypatch.setattr("ray.remote", lambda _: actor)
    monkeypatch.setattr("ray.cluster_resources", lambda: plenty)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": plenty}])
    monkeypatch.chdir(tmp_path)

    def run(*typed: str) -> tuple[Arrived, str]:
        result = CliRunner().invoke(app, ["search", "study", "--data", str(tiny_pasture), *typed])
        assert isinstance(result.exception, Started), (result.output, result.exception)
        return Arrived(**found), result.stderr

    return run


def test_every_field_has_one_option_and_every_option_a_field() -> None:
    """Under the name of the field; lists are typed one by one, in the singular."""
    command: Any = get_command(app)
    options = {one.name: one for one in command.commands["search"].params if one.name not in (*OF_THE_COMMAND, "help")}
    with_option = {name for name, field in OPTION_FIELDS.items() if "option" in field.metadata}
    assert options.keys() == with_option
    others = OPTION_FIELDS.keys() - with_option
    assert all(OPTION_FIELDS[name].metadata["typed_with"] in with_option for name in others) and others == {"shares"}
    assert len(PART_OF) == sum(len(fields(part)) for part in PARTS.values()), "two parts have a field of one name"
    for name in with_option:
        # numbers beside --family were the first to be called shares: their field keeps the name
        singular = {"families": "family", "backbones": "backbone", "sharing": "shares"}.get(name, name)
        assert f"--{singular.rstrip('_').replace('_', '-')}" in (*options[name].opts, *_switches(options[name])), name
    assert TYPED.keys() == OPTION_FIELDS.keys(), "what is typed for a new field, and what arrives"


def _switches(option: Any) -> list[str]:
    """--folds-together/--folds-apart is the option of folds_together."""
    return [*option.opts, *option.secondary_opts]


@pytest.mark.parametrize("name", [name for name, field in OPTION_FIELDS.items() if option_of(field) is not None])
def test_what_a_field_tells_the_command_line_is_sound(name: str) -> None:
    field, option = OPTION_FIELDS[name], option_of(OPTION_FIELDS[name])
    assert isinstance(option, Option) and option.panel in PANELS and option.help.endswith(".")
    hint = get_type_hints(PARTS[PART_OF[name]])[name]
    assert option.minimum is None or hint in (int, float, int | None, float | None)
    assert option.completion is None or getattr(complete, option.completion)("")
    if option.minimum is not None and field.default is not None:
        assert field.default >= option.minimum


def test_a_value_below_the_minimum_of_its_field_is_wrong_usage(tmp_path: Path, tiny_pasture: Path) -> None:
    least = {name: option.minimum for name, field in OPTION_FIELDS.items() if (option := option_of(field)) is not None}
    bounded = {name: minimum for name, minimum in least.items() if minimum is not None}
    assert len(bounded) > 8
    for name, minimum in bounded.items():
        typed = f"--{name.replace('_', '-')}"
        arguments = ["search", str(tmp_path / "s"), "--data", str(tiny_pasture), "--trials", "1", typed]
        result = CliRunner().invoke(app, [*arguments, f"{minimum - 1:g}"])
        assert result.exit_code == 2 and typed in result.stderr, (typed, result.stderr)


def test_every_typed_value_arrives_under_its_name(search: Any, tmp_path: Path) -> None:
    """In the study's settings, in the resources, in the context of a slot's worker: wherever there is such a field."""
    words = " ".join(text for name, (text, _) in TYPED.items() if name not in OTHERWISE).split()
    began = time.time()
    arrived, remarks = search(*words)
    settings = Ledger(Storage(tmp_path / "study")).study().settings
    places = (settings, arrived.resources, arrived.context, arrived.slots)
    special = {
        "trials": arrived.proposer.max_trials == 7,
        "hours": began + 7200 <= (arrived.proposer._deadline or 0) <= time.time() + 7200,
        "prune": arrived.rule is RULES["strict"],
        "set_": arrived.proposer.spaces["probe"].fixed["layers"] == 1,
        "retry_failed": "0 failed trials are taken up again" in remarks,
    }
    for name, (_, value) in TYPED.items():
        if name in OTHERWISE:
            continue
        held = [getattr(place, name) for place in places if any(one.name == name for one in fields(place))]
        expected: tuple[Any, ...] = (value,)
        if name == "cache":  # a worker gets it with its folder
            expected = (Path("kept"), str(tmp_path / "kept"))
        if name == "weights":  # and what weights are, instead of their name
            expected = ("random", WeightsSource("random"))
        assert special[name] if name in special else held and all(one in expected for one in held), (name, held)
    assert (arrived.slots.cpus, arrived.slots.gpus, arrived.context.gpus, arrived.slots.most) == (0.5, 0.25, 0.25, 2)


def test_a_new_study_notes_what_was_typed_but_what_is_of_this_run_alone(search: Any, tmp_path: Path) -> None:
    search(*" ".join(text for name, (text, _) in TYPED.items() if name not in OTHERWISE).split())
    noted = Ledger(Storage(tmp_path / "study")).study().made_with.overrides
    assert noted.keys() == NOTED - OTHERWISE
    typed = {name: TYPED[name][1] for name in noted} | {"backbones": ("test_vit",)}
    assert noted == {name: list(value) if isinstance(value, tuple) else value for name, value in typed.items()}


def test_own_folds_arrive(search: Any, tmp_path: Path, tiny_pasture: Path) -> None:
    image_ids = read_train(tiny_pasture)["image_id"]
    own = pd.DataFrame({"image_id": image_ids, "fold": [row % 3 for row in range(len(image_ids))]})
    own.to_csv(tmp_path / "folds.csv", index=False)
    search(
        *TYPED["fold_file"][0].split(),
        *["--folds", "3", "--trials", "1", "--backbone", "test_vit", "--weights", "random"],
    )
    ledger = Ledger(Storage(tmp_path / "study"))
    assert ledger.study().settings.scheme == "file" and ledger.study().made_with.overrides["fold_file"] == "folds.csv"
    merged = own.merge(ledger.quadrats()[["image_id", "fold"]], on="image_id")
    assert len(merged) == len(own) and (merged["fold_x"] == merged["fold_y"]).all()


def test_inline_starts_no_ray(search: Any, tiny_pasture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(ledger: Any, context: Any, proposer: Any, rule: Any, resources: Resources, *_: Any) -> None:
        assert resources.inline
        raise Started

    monkeypatch.setattr("orchestration.search.inline.search_inline", start)
    arrived = CliRunner().invoke(app, ["search", "s", "--data", str(tiny_pasture), "--preset", "smoke", "--inline"])
    assert isinstance(arrived.exception, Started), arrived.output


def test_without_a_word_about_it_a_field_has_the_presets_value(search: Any, tmp_path: Path) -> None:
    arrived, _ = search("--preset", "smoke")
    ledger = Ledger(Storage(tmp_path / "study"))
    assert (ledger.study().settings.folds, arrived.proposer.max_trials) == (3, 6)
    assert ledger.study().made_with.overrides == {} and ledger.study().made_with.preset == "smoke"
    assert arrived.slots.fold_timeout == Resources().fold_timeout


def test_other_commands_share_the_options() -> None:
    command: Any = get_command(app)
    for name in ("doctor", "ensemble", "refit", "audit", "explain", "demo"):
        for one in command.commands[name].params:
            if one.name in ("cache", "address", "weights", "scale", "slots", "backbones", "families"):
                option = option_of(OPTION_FIELDS[one.name])
                assert option is not None and one.help.startswith(option.help), (name, one.name)
    assert Cache.__metadata__[0].envvar == "BIOMASS_CACHE"
