"""The package's files stand in layers, and each imports only from its own layer and below."""

from __future__ import annotations

import ast
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

import kpflow_sklearn

PACKAGE = "kpflow_sklearn"
SOURCE = Path(kpflow_sklearn.__file__).parent

# Modules, without the package's name, by layer. "cells.*" stands for the subpackage and all that
# is in it; a module named on its own goes before its subpackage. Files may yet be unwritten.
LAYERS = {
    0: "_arrays _validation _random _tensors _digest _memory _files _callbacks _estimator "
    "exceptions",
    1: "datasets.* cells.* coactivation layers network named_parts readouts recognition tangent "
    "targets operators._base",
    2: "losses linearization operators.* feedforward.* gramians unit_blocks half_factor sketches "
    "sketcher traces krylov density costs _spectrum operator_spectra spectra modes alignment "
    "weight_maps lyapunov similarity gram_overlap grouping",
    3: "training _loop _batches run_folder recurrent_model checkpoint_files state_dicts rebuild "
    "checkpoints results analysis verification task_verification gram_verification bottleneck "
    "trials pooling sub_tasks task_flow alignment_history alignment_rows feedforward_model "
    "feedforward_training feedforward_saved gram_analysis gram_modes gram_prediction gram_tables "
    "gram_training",
    4: "analyzer analyzer_base task_analyzer gram_analyzer preprocessing",
    5: "plotting.* reporting.* _reading _alignment_reading _gram_reading _training_reading "
    "_options _tasks _sweep_cache sweep compare report __main__ __init__",
}
FIRST_WITHOUT_TORCH = 4
NOT_FOR_OPERATORS = {"spectra", "sketches", "traces", "lyapunov"}


@dataclass(frozen=True)
class Import:
    """One name that a module imports, and where."""

    module: str
    target: str
    line: int
    at_import_time: bool

    def __str__(self) -> str:
        return f"{self.module or '__init__'} (line {self.line}) imports {self.target}"


def layer_of(module: str) -> float:
    """Return a module's layer; not a number, and so in no order, if the table has none."""
    table = {name: layer for layer, names in LAYERS.items() for name in names.split()}
    if (module or "__init__") in table:
        return table[module or "__init__"]
    return table.get(f"{module.split('.')[0]}.*", math.nan)


def modules_of(source: Path) -> dict[str, Path]:
    """Return the files of the package by module name; a subpackage has the folder's name."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def is_type_checking(node: ast.AST) -> bool:
    """Tell whether a node is ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def import_statements(node: ast.AST, at_import_time: bool = True) -> list[tuple[ast.AST, bool]]:
    """Return the import statements below a node, and whether importing the module runs them."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            found.append((child, at_import_time))
        elif is_type_checking(child):
            for other in child.orelse:
                found += import_statements(ast.Module([other], []), at_import_time)
        else:
            deferred = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            found += import_statements(child, at_import_time and not deferred)
    return found


def targets_of(statement: ast.AST, package: str, modules: dict[str, Path]) -> list[str]:
    """Return the full names of the modules that a statement imports."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    base = statement.module or ""
    if statement.level:
        above = package.split(".")[: len(package.split(".")) - statement.level + 1]
        base = ".".join([*above, base]).rstrip(".")
    names = [f"{base}.{alias.name}" for alias in statement.names]
    return [name if name.removeprefix(f"{PACKAGE}.") in modules else base for name in names]


def imports_of(source: Path) -> list[Import]:
    """Return what the package's modules import; inside the package, without its name."""
    modules, found = modules_of(source), []
    for module, path in modules.items():
        full = f"{PACKAGE}.{module}".rstrip(".")
        package = full if path.name == "__init__.py" else full.rpartition(".")[0]
        for statement, at_import_time in import_statements(ast.parse(path.read_text())):
            for target in dict.fromkeys(targets_of(statement, package, modules)):
                inside = target == PACKAGE or target.startswith(f"{PACKAGE}.")
                name = target.removeprefix(PACKAGE).removeprefix(".") if inside else f"/{target}"
                found.append(Import(module, name, statement.lineno, at_import_time))
    return found


def is_outside(target: str) -> bool:
    """Tell whether an imported module is not the package's."""
    return target.startswith("/")


# ---------------------------------------------------------------- the rules, as lists of breaches


def without_layer(source: Path) -> list[str]:
    """Return the files that the table does not list."""
    return [
        f"{PACKAGE}.{module} ({path}) has no layer: add it to LAYERS in tests/test_layers_order.py"
        for module, path in modules_of(source).items()
        if math.isnan(layer_of(module))
    ]


def upward_imports(source: Path) -> list[str]:
    """Return the imports from a higher layer."""
    return [
        f"{i}, layer {layer_of(i.module)} from layer {layer_of(i.target)}"
        for i in imports_of(source)
        if not is_outside(i.target) and layer_of(i.target) > layer_of(i.module)
    ]


def torch_above_estimators(source: Path) -> list[str]:
    """Return the imports of torch where it must not appear."""
    return [
        str(i)
        for i in imports_of(source)
        if i.target.split(".")[0] == "/torch" and layer_of(i.module) >= FIRST_WITHOUT_TORCH
    ]


def operators_that_know_their_users(source: Path) -> list[str]:
    """Return the imports by operators of what is computed from operators."""
    return [
        str(i)
        for i in imports_of(source)
        if i.module.split(".")[0] == "operators" and i.target.split(".")[0] in NOT_FOR_OPERATORS
    ]


def cycles(source: Path) -> list[str]:
    """Return the import cycles that importing the package would run into."""
    edges: dict[str, set[str]] = {module: set() for module in modules_of(source)}
    for i in imports_of(source):
        if i.at_import_time and not is_outside(i.target) and i.target != i.module:
            edges[i.module].add(i.target)
    found, done = [], set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            found.append(" -> ".join((*path[path.index(module) :], module)))
        elif module not in done:
            for target in sorted(edges.get(module, ())):
                visit(target, (*path, module))
            done.add(module)

    for module in edges:
        visit(module, ())
    return found


RULES = [
    without_layer,
    upward_imports,
    torch_above_estimators,
    operators_that_know_their_users,
    cycles,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_to_its_layers(rule):
    breaches = rule(SOURCE)
    assert not breaches, "\n" + "\n".join(breaches)


# ----------------------------------------------------------------- the rules see what breaks them

BREACHES = [
    ("new_file", "", without_layer),
    ("plot", "", without_layer),
    ("network", "from kpflow_sklearn.spectra import spectrum", upward_imports),
    ("network", "from kpflow_sklearn import linearization", upward_imports),
    ("network", "from kpflow_sklearn import linearize", upward_imports),
    ("network", "import kpflow_sklearn.training", upward_imports),
    ("operators._base", "from kpflow_sklearn.operators import _parameter", upward_imports),
    ("cells._base", "from ..losses import Objective", upward_imports),
    ("cells._base", "from .. import losses", upward_imports),
    ("_random", "def f():\n    from kpflow_sklearn.network import build_network", upward_imports),
    ("analyzer", "import torch", torch_above_estimators),
    ("plotting._displays", "from torch import nn", torch_above_estimators),
    ("report", "def f():\n    import torch.nn", torch_above_estimators),
    ("__init__", "import torch", torch_above_estimators),
    ("operators._new", "from kpflow_sklearn.traces import trace", operators_that_know_their_users),
    ("layers", "import kpflow_sklearn.network", cycles),
    ("cells._base", "from kpflow_sklearn.cells import Cell", cycles),
]
ALLOWED = [
    ("network", "from kpflow_sklearn.layers import MappedLayer\nimport torch"),
    ("analyzer", "import torchinfo\nfrom kpflow_sklearn import spectra"),
    ("layers", "def f():\n    import kpflow_sklearn.network"),
    ("cells._user", "from . import _base"),
    ("_random", "if TYPE_CHECKING:\n    from kpflow_sklearn.network import RecurrentNetwork"),
]


def write_package(folder: Path, module: str, text: str) -> Path:
    """Write a small package that keeps to the layers, but for one module's text."""
    files = {
        "__init__": "from kpflow_sklearn.linearization import linearize",
        "linearization": "from kpflow_sklearn.network import f",
        "network": "from kpflow_sklearn.layers import f",
        "layers": "from kpflow_sklearn.cells import Cell",
        "cells.__init__": "from kpflow_sklearn.cells._base import Cell",
        "cells._base": "import torch",
        "operators.__init__": "from kpflow_sklearn.operators import _base, _parameter",
        "operators._base": "import torch",
        "operators._parameter": "from ._base import LinearOperator",
        "losses": "",
        "spectra": "",
        "training": "",
        "traces": "",
    }
    for name, content in {**files, module: text}.items():
        path = folder.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(content))
    return folder


@pytest.mark.parametrize("module, text, rule", BREACHES)
def test_breaches_are_found(tmp_path, module, text, rule):
    source = write_package(tmp_path, module, text)
    assert len(rule(source)) == 1


@pytest.mark.parametrize("module, text", ALLOWED)
def test_what_is_allowed_passes(tmp_path, module, text):
    source = write_package(tmp_path, module, text)
    assert [rule(source) for rule in RULES] == [[]] * len(RULES)
