"""The order of imports: a room imports from those before it only, and there is no circle."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "vtadl_jax"
# Each row may import from its own and from the rows above.
ORDER = (
    ("__init__", "errors", "metrics"),
    ("ops", "options", "config_data", "config", "legacy", "runtime"),
    ("networks", "data"),
    ("detectors", "weights"),
    ("experiment", "configs"),
    ("training",),
    ("evaluation",),
    ("predictor", "report", "export"),
    ("run", "sweep", "compiling", "serving"),
    ("plans", "selection"),
    ("estimates", "dry_run", "comparing"),
    ("main", "evaluate", "predict", "prepare", "compile", "experiments", "import_weights", "serve"),
    ("comparison", "pdf", "update", "validate", "regions"),
    ("methods",),
    ("import_torch", "export_torch"),  # names of version 0.1
    ("benchmarks",),
)
RANK = {room: rank for rank, row in enumerate(ORDER) for room in row}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Modules of this package that a file imports when it is loaded; not those within functions."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in [*tree.body, *(n for b in tree.body if isinstance(b, ast.If) for n in b.body)]:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vtadl_jax"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if module_file(name) else node.module)
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("vtadl_jax")}
    return found


def module_file(name: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_file_imports_from_rooms_below_it(path):
    if path == PACKAGE / "__init__.py":
        return  # loads its names at first use
    rank = RANK[room_of(path)]
    for name in imports_of(path):
        room = name.removeprefix("vtadl_jax").lstrip(".").partition(".")[0] or "__init__"
        assert RANK[room] <= rank, f"{path.relative_to(PACKAGE)} imports {name}"


def test_no_two_rooms_import_each_other():
    edges: dict[str, set[str]] = {}
    for path in FILES:
        here = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        edges[here.removesuffix(".__init__")] = {
            name.removeprefix("vtadl_jax.") for name in imports_of(path)
        }
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state.get(name) != 1, f"a circle: {' -> '.join((*trail, name))}"
        if name in state or name not in edges:
            return
        state[name] = 1
        for other in sorted(edges[name]):
            visit(other, (*trail, name))
        state[name] = 2

    for name in sorted(edges):
        visit(name, ())


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    return set(done.stdout.split())


def test_the_pure_step_loads_no_files_no_data_and_no_checkpoints():
    loaded = loaded_by("import vtadl_jax.training.step")
    assert not loaded & {"orbax", "orbax.checkpoint", "grain", "PIL", "tensorflow_datasets"}


def test_importing_the_package_defines_no_flags_and_loads_nothing_heavy():
    assert not loaded_by("import vtadl_jax") & {"jax", "flax", "orbax", "grain", "PIL"}
    code = (
        "from absl import flags; from vtadl_jax import Predictor, load_run; "
        "ours = [m for m in flags.FLAGS.flags_by_module_dict() if m.startswith('vtadl_jax')]; "
        "assert not ours, ours"
    )
    loaded_by(code)


def test_only_the_http_interface_imports_what_the_extra_serve_installs():
    extra = ("fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client", "multipart")
    http = {f"serving/{name}.py" for name in ("app", "bodies", "http", "measured", "schema")}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] in extra for name in names):
                assert path.relative_to(PACKAGE).as_posix() in http
    command = ast.parse((PACKAGE / "serve.py").read_text(encoding="utf-8"))
    own = {f"vtadl_jax.{name[:-3].replace('/', '.')}" for name in http}
    assert not own & {node.module for node in command.body if isinstance(node, ast.ImportFrom)}


def test_what_the_package_offers_is_there():
    package = importlib.import_module("vtadl_jax")
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        package.Predicter  # noqa: B018
