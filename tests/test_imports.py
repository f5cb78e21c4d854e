"""The structure that the design fixes: who may import whom, read from the source."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("compression", "trainables", "analysis", "clusters", "study")
ALLOWED = {
    "compression": ("compression",),
    "trainables": ("trainables", "compression"),
    "analysis": ("analysis", "trainables.record"),
    "clusters": ("clusters",),
    "study": PACKAGES,
}
UNSAFE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# Beside plain imports, a plugin may import an extra inside the function that needs it.
HEAVY = {"torch", "ray"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))}


@cache
def tree(module):
    return ast.parse(FILES[module].read_text(), str(FILES[module]))


def names(module, node):
    """The modules that one import statement reads, as near to the file as can be told."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    source = node.module or ""
    if node.level:
        parts = module.split(".")
        is_package = FILES[module].name == "__init__.py"
        base = parts[: len(parts) - node.level + is_package]
        source = ".".join([*base, source] if source else base)
    below = [f"{source}.{alias.name}" for alias in node.names]
    return [name if name in FILES else source for name in below]


def statements(module):
    """Every import statement, those in functions too."""
    return [n for n in ast.walk(tree(module)) if isinstance(n, ast.Import | ast.ImportFrom)]


def imports(module):
    return {name for node in statements(module) for name in names(module, node)}


def within(name, allowed):
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


def at_import(module):
    """The import statements that run when the module is imported."""
    found, stack = [], list(tree(module).body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            stack.extend(ast.iter_child_nodes(node))
    return found


def parents(name):
    parts = name.split(".")
    return {".".join(parts[:i]) for i in range(1, len(parts))}


def edges(module):
    """Our modules that must be complete before this one: those it names, and their packages.

    A package that the module itself lies in is not waited for: Python begins it first.
    """
    named = {name for node in at_import(module) for name in names(module, node)}
    around = {package for name in named for package in parents(name)} - parents(module)
    return {name for name in named | around if name in FILES and name != module}


def cycle(graph):
    """A path that comes back to its start, or nothing."""
    done = set()

    def visit(node, path):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph[node]):
            if found := visit(following, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in graph if (found := visit(node, []))), [])


@pytest.mark.parametrize("module", FILES)
def test_imports_follow_the_table(module):
    package = module.split(".")[0]
    ours = {name for name in imports(module) if name.split(".")[0] in PACKAGES}
    assert {name for name in ours if not within(name, ALLOWED[package])} == set()


def test_no_module_waits_for_itself():
    assert cycle({module: edges(module) for module in FILES}) == []


def test_a_cycle_would_be_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_nobody_imports_the_command_line():
    assert [module for module in FILES if within("study.run", imports(module))] == []


def test_one_file_of_trainables_knows_ray():
    inside = [module for module in FILES if module.startswith("trainables")]
    users = [m for m in inside if any(within(name, ["ray"]) for name in imports(m))]
    assert users == ["trainables.trainable"]


@pytest.mark.parametrize("package", ["compression", "clusters"])
def test_compression_and_clusters_do_without_tune(package):
    inside = [module for module in FILES if module.startswith(package)]
    assert [m for m in inside if any(within(n, ["ray.tune"]) for n in imports(m))] == []


def test_analysis_needs_neither_torch_nor_ray():
    inside = [module for module in FILES if module.startswith("analysis")]
    assert [m for m in inside if any(within(name, HEAVY) for name in imports(m))] == []


@pytest.mark.parametrize("name", ["measured", "record", "serial", "verified"])
def test_the_core_types_need_the_standard_library_only(name):
    known = {*sys.stdlib_module_names, "trainables"}
    assert {read.split(".")[0] for read in imports(f"trainables.{name}")} <= known


LOADED = """
import importlib, sys
for name in sys.argv[1].split(","):
    importlib.import_module(name)
print(*{name.split(".")[0] for name in sys.modules} & {"torch", "ray", "mlflow", "peft"})
"""


@pytest.mark.parametrize("package", ["analysis", "compression", "trainables", "study"])
def test_importing_what_is_light_loads_nothing_heavy(package):
    light = {
        "compression": ["compression"],
        "trainables": ["trainables.record"],
        "study": ["study"],
    }
    modules = light.get(package) or [m for m in FILES if m.startswith("analysis")]
    command = [sys.executable, "-c", LOADED, ",".join(modules)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_trainables_init_is_empty():
    assert (ROOT / "trainables/__init__.py").read_text() == ""


def is_call_for_weights_only(node):
    """`torch.load(..., weights_only=True)`: a published .pth file, from which no code is run."""
    if not isinstance(node, ast.Call) or ast.unparse(node.func) != "torch.load":
        return False
    return any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)


@pytest.mark.parametrize("module", FILES)
def test_nothing_is_unpickled(module):
    assert not {name.split(".")[0] for name in imports(module)} & UNSAFE
    harmless = {id(n.func) for n in ast.walk(tree(module)) if is_call_for_weights_only(n)}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            unsafe = (node.value.id, node.attr) in {("torch", "load"), ("torch", "save")}
            assert not unsafe or id(node) in harmless
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle" or ast.unparse(node.value) == "False"
    from_torch = [n for n in statements(module) if getattr(n, "module", None) == "torch"]
    assert not {alias.name for node in from_torch for alias in node.names} & {"load", "save"}


@pytest.mark.parametrize("module", FILES)
def test_checks_do_not_vanish_under_optimisation(module):
    lines = [node.lineno for node in ast.walk(tree(module)) if isinstance(node, ast.Assert)]
    assert lines == [], "assert is left out under python -O: raise an error instead"


def test_no_file_of_analysis_hides_a_library():
    """`python analysis/pareto.py` has analysis/ first on its path."""
    stems = {path.stem for path in (ROOT / "analysis").glob("*.py")} - {"__init__"}
    hidden = {s for s in stems if s in sys.stdlib_module_names or installed(s)}
    assert hidden == set()


def installed(name):
    """Whether there is such a module, this project's own files (a benchmark's, say) apart."""
    spec = importlib.util.find_spec(name)
    return spec is not None and not str(spec.origin).startswith(str(ROOT))


def test_tests_have_no_folder_that_hides_a_package():
    assert not {p.name for p in (ROOT / "tests").iterdir() if p.is_dir()} & set(PACKAGES)


PLUGINS = [
    *(ROOT / "compression" / kind for kind in ("methods", "inits", "adapters", "edits", "export")),
    *(
        ROOT / "trainables" / kind
        for kind in ("tasks", "recipes", "optimizers", "lr_schedules", "losses", "hooks")
    ),
    *(ROOT / "study" / kind for kind in ("searchers", "schedulers")),
]


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_plugin_folder_lists_its_contents(folder):
    package = module_name(folder / "__init__.py")
    plugins = [
        module
        for module in FILES
        if module.startswith(f"{package}.")
        and re.search(r"^@[A-Z_]+\.register\(", FILES[module].read_text(), re.MULTILINE)
    ]
    assert plugins
    assert set(plugins) <= imports(package)
