"""Imports point one way (docs/architecture.md), and importing a numpy module never loads torch.

A room is a folder of modules. Every import between two rooms must be in the table; a room, or a module at the top of a
package, that the table does not know fails, and so does an edge that nothing uses any more.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from biomass_models.families import registry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PACKAGES = ("biomass_models", "ensembles", "orchestration", "search_spaces")
LARGEST = 16  # modules in a folder
LARGER = {"ensembles": 18}
MODEL, RUN, BLEND = "biomass_models", "orchestration", "ensembles"
FLOOR = (MODEL, f"{MODEL}.data")
MODELS = (*FLOOR, f"{MODEL}.backbones", f"{MODEL}.features")
FAMILIES = tuple(f"{MODEL}.families.{name}" for name in registry.BUILT_IN)
STUDY, WORKERS, SEARCH, BLENDING, INSPECT = (
    f"{RUN}.{name}" for name in ("study", "workers", "search", "blending", "inspect")
)
BELOW = tuple(
    f"{RUN}.{name}"
    for name in (
        *("endings", "interrupts", "listening", "old_names", "option", "overlay", "processes", "progress", "terminal"),
        *("time_left", "verbosity", "wheel"),
    )
)  # at the top, and used by all
ABOVE = (f"{RUN}.__main__", f"{RUN}.api", f"{RUN}.cli", f"{RUN}.demo")
REPORT = f"{RUN}.report"
SLOTS, ON_RAY, PRESETS = f"{WORKERS}.slots", f"{SEARCH}.on_ray", f"{SEARCH}.presets"
GAINS = f"{SEARCH}.gains"
DERIVED = f"{STUDY}.derived"
# room -> rooms that it may import from; a module at the top of orchestration is a room of its own
EDGES: dict[str, set[str]] = {
    MODEL: set(),
    f"{MODEL}.data": {MODEL},
    f"{MODEL}.pasture": set(FLOOR),
    f"{MODEL}.backbones": {MODEL},
    f"{MODEL}.features": {*FLOOR, f"{MODEL}.backbones"},
    f"{MODEL}.training": set(MODELS),
    f"{MODEL}.families": {*MODELS, f"{MODEL}.training"},
    f"{MODEL}.ridge": {*FLOOR, f"{MODEL}.training"},
    **{
        room: {*MODELS, f"{MODEL}.training", f"{MODEL}.ridge", f"{MODEL}.families"} for room in FAMILIES
    },  # one may leave some unused
    "search_spaces": {MODEL, f"{MODEL}.families", *FAMILIES},
    BLEND: {*FLOOR, f"{BLEND}.intervals", f"{BLEND}.members"},
    f"{BLEND}.intervals": {MODEL},
    f"{BLEND}.members": {*FLOOR, BLEND},
    f"{RUN}.endings": {MODEL, WORKERS},
    f"{RUN}.interrupts": {f"{RUN}.processes"},
    f"{RUN}.listening": set(),
    f"{RUN}.old_names": set(),
    f"{RUN}.option": set(),
    f"{RUN}.overlay": {MODEL, f"{MODEL}.data"},
    f"{RUN}.processes": set(),
    f"{RUN}.progress": {MODEL, f"{RUN}.terminal", f"{RUN}.time_left", f"{RUN}.verbosity"},
    f"{RUN}.time_left": set(),
    f"{RUN}.terminal": {MODEL},
    f"{RUN}.verbosity": set(),
    f"{RUN}.wheel": set(),
    STUDY: {
        *FLOOR,
        f"{MODEL}.backbones",
        f"{MODEL}.families",
        "search_spaces",
        f"{RUN}.old_names",
        f"{RUN}.wheel",
        f"{STUDY}.files",
    },
    f"{STUDY}.files": {MODEL, STUDY, DERIVED},
    DERIVED: {STUDY},
    WORKERS: {
        *MODELS,
        f"{MODEL}.training",
        f"{MODEL}.families",
        "search_spaces",
        STUDY,
        f"{RUN}.option",
        f"{RUN}.processes",
        f"{RUN}.progress",
        f"{RUN}.verbosity",
    },
    SLOTS: {MODEL, f"{MODEL}.backbones", STUDY, WORKERS},
    SEARCH: {
        *FLOOR,
        f"{MODEL}.backbones",
        f"{MODEL}.families",
        "search_spaces",
        BLEND,
        STUDY,
        DERIVED,
        WORKERS,
        SLOTS,
        ON_RAY,
        PRESETS,
        f"{RUN}.progress",
        f"{RUN}.time_left",
        f"{SEARCH}.engines",
        GAINS,
    },
    ON_RAY: {MODEL, STUDY, WORKERS, SLOTS, SEARCH, f"{RUN}.progress", f"{RUN}.verbosity"},
    PRESETS: {
        *MODELS,
        f"{MODEL}.families",
        "search_spaces",
        STUDY,
        WORKERS,
        SEARCH,
        f"{SEARCH}.engines",
        f"{RUN}.option",
        f"{RUN}.progress",
    },
    f"{SEARCH}.engines": {MODEL, STUDY, "search_spaces"},
    GAINS: {MODEL, BLEND, STUDY},
    BLENDING: {
        *(*MODELS, f"{MODEL}.families", BLEND, f"{BLEND}.members"),
        *(STUDY, DERIVED, WORKERS, SLOTS, f"{RUN}.progress", f"{RUN}.terminal"),
    },
    INSPECT: {
        *MODELS,
        f"{MODEL}.families",
        BLEND,
        f"{BLEND}.members",
        STUDY,
        DERIVED,
        WORKERS,
        SEARCH,
        BLENDING,
        "search_spaces",
        f"{RUN}.overlay",
    },
    f"{RUN}.dashboard": {
        *(MODEL, "search_spaces", STUDY, DERIVED, WORKERS),
        *(f"{RUN}.interrupts", f"{RUN}.listening", f"{RUN}.progress"),
    },
    f"{RUN}.bundle": {
        *(*MODELS, f"{MODEL}.families", BLEND, STUDY, DERIVED, WORKERS, BLENDING),
        *(f"{RUN}.endings", f"{RUN}.wheel"),
    },
    f"{RUN}.answers": {
        *(*MODELS, BLEND, f"{BLEND}.intervals", STUDY, DERIVED, WORKERS, BLENDING),
        *(f"{RUN}.bundle", f"{RUN}.progress"),
    },
    f"{RUN}.serving": {
        *(*MODELS, f"{MODEL}.families", f"{RUN}.answers", INSPECT, WORKERS),
        *(f"{RUN}.interrupts", f"{RUN}.listening", f"{RUN}.progress", f"{RUN}.verbosity"),
        *(REPORT, f"{REPORT}.sections"),
    },
    f"{RUN}.advice": {
        *(*MODELS, f"{MODEL}.training", f"{MODEL}.ridge", f"{MODEL}.families", STUDY, DERIVED, WORKERS, BLENDING),
        *(f"{RUN}.answers", f"{RUN}.progress"),
    },
    f"{RUN}.doctor": {*MODELS, f"{MODEL}.families", "search_spaces", STUDY, WORKERS, SLOTS},
    REPORT: {MODEL, BLEND, STUDY, f"{REPORT}.data", f"{REPORT}.new_photographs", f"{REPORT}.sections"},
    f"{REPORT}.data": {MODEL, BLEND, f"{BLEND}.members", "search_spaces", STUDY, BLENDING, REPORT},
    f"{REPORT}.new_photographs": {MODEL, f"{BLEND}.intervals", DERIVED, REPORT, f"{REPORT}.data", f"{RUN}.advice"},
    f"{REPORT}.sections": {
        *FLOOR,
        f"{MODEL}.families",
        BLEND,
        STUDY,
        BLENDING,
        REPORT,
        f"{REPORT}.data",
        f"{RUN}.overlay",
    },
}
ALL = {f"{RUN}.commands", f"{RUN}.python", *ABOVE, *BELOW}  # may import from everywhere below them
NUMPY_ONLY = {"torch", "ray", "timm", "optuna"}
FORBIDDEN = {  # packages of others, by room and the rooms in it
    MODEL: {"ray", "optuna"},
    "search_spaces": {"ray", "torch"},
    BLEND: NUMPY_ONLY,
    REPORT: {"torch", "ray", "timm", "optuna", "pickle"},
    STUDY: {"ray", "optuna"},
    DERIVED: {"ray", "optuna"},
    INSPECT: {"ray", "optuna"},
}
ONLY_HERE = {  # a package of others -> the modules that may import it
    "ray": (
        WORKERS,
        ON_RAY,
        f"{RUN}.answers.on_ray",
        f"{RUN}.serving.on_ray",
        f"{SEARCH}.start",
        f"{RUN}.doctor",
        f"{RUN}.endings",
    ),
    "peft": (f"{MODEL}.backbones.adapters",),
    "optuna": ("search_spaces.to_optuna", f"{SEARCH}.engines", f"{RUN}.dashboard"),
}
TORCH_FREE = (
    *(f"{MODEL}.{name}" for name in ("targets", "families.configs", "families.readable", "pasture.make")),
    *(f"{MODEL}.data.{name}" for name in ("table", "taxonomy", "folds", "images", "check", "references")),
    f"{BLEND}.blend",
    f"{BLEND}.submission",
    f"{RUN}.api",
    f"{RUN}.cli",
    f"{RUN}.report.make",
)


def _modules(*packages: str) -> Iterator[tuple[str, Path]]:
    for package in packages or PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__init__.py":
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def _imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports name the whole path"
            folder = ROOT.joinpath(*node.module.split("."))
            inner = {f"{node.module}.{alias.name}" for alias in node.names if (folder / f"{alias.name}.py").exists()}
            names |= inner or {node.module}
    return names


def _room(module: str) -> str:
    """A folder; at the top of orchestration the module itself."""
    return module if module in (*ABOVE, *BELOW) else module.rpartition(".")[0]


def test_imports_between_rooms_are_those_of_the_table() -> None:
    used: dict[str, set[str]] = defaultdict(set)
    for module, path in _modules():
        room = _room(module)
        assert room in EDGES or room in ALL, f"{module} lies in a room that the table does not know"
        own = {_room(name) for name in _imports(path) if name.split(".")[0] in PACKAGES} - {room}
        if room in EDGES:
            assert own <= EDGES[room], f"{module} imports from {sorted(own - EDGES[room])}"
            used[room] |= own
    by_families = set().union(*(used[room] for room in FAMILIES))
    used |= dict.fromkeys(FAMILIES, by_families)
    unused = {room: rooms - used[room] for room, rooms in EDGES.items() if rooms - used[room]}
    assert not unused, "edges of the table that nothing uses"


def test_no_circle_but_between_a_folder_and_what_lies_in_it() -> None:
    def reach(room: str, seen: frozenset[str]) -> Iterator[str]:
        for there in EDGES.get(room, ()):
            if there.startswith(f"{room}.") or room.startswith(f"{there}.") or there in seen:
                continue
            yield there
            yield from reach(there, seen | {there})

    assert [room for room in EDGES if room in set(reach(room, frozenset()))] == []


def test_nothing_lists_the_families_by_hand() -> None:
    """The registry does; presets and a study's settings choose some."""
    chosen = {f"{MODEL}.families.registry", f"{PRESETS}.named"}
    names = {folder.rpartition(".")[2] for folder in FAMILIES}
    for module, path in _modules():
        texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        imported = {name for name in _imports(path) if name.startswith(FAMILIES) and _room(module) not in FAMILIES}
        own = {module} if module.startswith("search_spaces.") else set()
        assert len(names & texts) < 2 or module in chosen, f"{module} names families: {names & texts}"
        assert not imported or own, f"{module} imports {imported}: it goes through the registry"


def test_the_pasture_has_one_door() -> None:
    """Whoever draws a pasture calls make.py; how it is drawn is nobody's business."""
    for module, path in _modules():
        if _room(module) != f"{MODEL}.pasture":
            assert {name for name in _imports(path) if name.startswith(f"{MODEL}.pasture")} <= {f"{MODEL}.pasture.make"}


def test_folders_stay_small() -> None:
    count: dict[str, int] = defaultdict(int)
    for module, _ in _modules():
        count[module.rpartition(".")[0]] += 1
    assert {room: number for room, number in count.items() if number > LARGER.get(room, LARGEST)} == {}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_does_without_packages(room: str) -> None:
    found = [(module, path) for module, path in _modules() if module.startswith(f"{room}.")]
    assert found
    for module, path in found:
        tops = {name.split(".")[0] for name in _imports(path)} & FORBIDDEN[room]
        assert not tops or module == "search_spaces.to_optuna", f"{module} imports {tops}"


@pytest.mark.parametrize("package", ONLY_HERE)
def test_a_package_is_used_in_few_places(package: str) -> None:
    for module, path in _modules():
        if package in {name.split(".")[0] for name in _imports(path)}:
            assert module.startswith(ONLY_HERE[package]), module


def test_errors_are_the_users_to_mend_or_never_leave_the_project() -> None:
    """Whoever adds an error class decides which it is: exit code 1 or 70 hangs on it."""
    inner = {"StopRequested", "_Reached", "ReadOnlyError"}
    bases: dict[str, set[str]] = {}
    for _, path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).rpartition(".")[2] for base in node.bases}

    def derives(name: str, *ends: str) -> bool:
        return name.endswith(ends) or any(derives(base, *ends) for base in bases.get(name, ()))

    errors = {name for name, of in bases.items() if any(derives(base, "Error", "Exception") for base in of)}
    assert {name for name in errors if not derives(name, "UserError", "StoreError")} == inner


def test_package_files_are_empty() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")]
    assert len(files) > 20 and all(path.read_text() == "" for path in files)
    folders = {path.parent for _, path in _modules()}
    assert folders == {path.parent for path in files}


def test_light_modules_load_neither_torch_nor_ray() -> None:
    code = f"import sys, {', '.join(TORCH_FREE)}; print(sorted({NUMPY_ONLY} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
