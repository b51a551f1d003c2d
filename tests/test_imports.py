"""Imports point one way (DESIGN, Folders), and importing a numpy module never loads torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PACKAGES = ("biomass_models", "ensembles", "orchestration", "search_spaces")
FORBIDDEN = {
    "biomass_models": {"ensembles", "orchestration", "search_spaces", "ray", "optuna"},
    "search_spaces": {"ensembles", "orchestration", "ray", "torch"},
    "ensembles": {"orchestration", "search_spaces", "ray", "torch", "optuna"},
    "orchestration": set[str](),
}
TORCH_FREE = ("targets", "configs", "table", "taxonomy", "folds", "images", "check", "pasture", "references")


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    files = sorted((ROOT / package).glob("*.py"))
    assert files
    for path in files:
        tops = {name.split(".")[0] for name in _imports(path)}
        assert not tops & FORBIDDEN[package], f"{path.name} imports {tops & FORBIDDEN[package]}"


def test_ensembles_use_only_the_ground_floor_of_the_models() -> None:
    allowed = {f"biomass_models.{name}" for name in ("errors", "targets", "table", "problems")}
    for path in (ROOT / "ensembles").glob("*.py"):
        used = {name for name in _imports(path) if name.startswith("biomass_models")}
        assert used <= allowed, f"{path.name} imports {used - allowed}"


def test_errors_are_the_users_to_mend_or_never_leave_the_project() -> None:
    """Whoever adds an error class decides which it is: exit code 1 or 70 hangs on it."""
    inner = {"StopRequested", "_Reached", "ReadOnlyError"}
    bases: dict[str, set[str]] = {}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).rpartition(".")[2] for base in node.bases}

    def derives(name: str, *ends: str) -> bool:
        return name.endswith(ends) or any(derives(base, *ends) for base in bases.get(name, ()))

    errors = {name for name, of in bases.items() if any(derives(base, "Error", "Exception") for base in of)}
    assert {name for name in errors if not derives(name, "UserError")} == inner


def test_search_spaces_know_only_configs_and_optuna_in_one_file() -> None:
    for path in (ROOT / "search_spaces").glob("*.py"):
        names = _imports(path)
        assert {name for name in names if name.startswith("biomass_models")} <= {"biomass_models.configs"}
        assert path.name == "to_optuna.py" or not any(name.startswith("optuna") for name in names)


@pytest.mark.parametrize("package", PACKAGES)
def test_package_files_are_empty(package: str) -> None:
    assert (ROOT / package / "__init__.py").read_text() == ""


def test_light_modules_load_neither_torch_nor_ray() -> None:
    modules = [f"biomass_models.{name}" for name in TORCH_FREE]
    modules += ["ensembles.blend", "ensembles.submission", "orchestration.cli"]
    code = f"import sys, {', '.join(modules)}; print(sorted({{'torch', 'ray', 'timm', 'optuna'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_a_report_loads_neither_torch_nor_ray_nor_optuna() -> None:
    """It is read on laptops: the page must be there in seconds (test_report_pages holds it for a whole report)."""
    code = "import sys, orchestration.report.make; print(sorted({'torch', 'ray', 'timm', 'optuna'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_the_files_of_a_report_import_neither_torch_nor_ray() -> None:
    files = sorted((ROOT / "orchestration" / "report").glob("*.py"))
    assert files and (ROOT / "orchestration" / "report" / "__init__.py").read_text() == ""
    for path in files:
        tops = {name.split(".")[0] for name in _imports(path)}
        assert not tops & {"torch", "ray", "timm", "pickle"}, path.name
