"""What is installed: the package, nothing else, and no import beyond jax and optax."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import optax_adamp

PACKAGE = Path(optax_adamp.__file__).parent
CHECKOUT = PACKAGE.parent


def test_wheel_contains_the_package_and_nothing_else(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    metadata = f"optax_adamp-{optax_adamp.__version__}.dist-info"
    installed = {
        name
        for name in zipfile.ZipFile(wheel).namelist()
        if not name.startswith(f"{metadata}/")
    }
    sources = {
        path.relative_to(CHECKOUT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert installed == sources
    assert "optax_adamp/py.typed" in installed


def test_the_library_imports_public_names_of_jax_and_optax_only():
    for path in PACKAGE.glob("_*.py"):
        if path.name == "__main__.py":
            continue  # The demonstration, which has its own extra.
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                root, *parts = module.split(".")
                known = sys.stdlib_module_names | {"jax", "optax", "optax_adamp"}
                assert root in known, f"{path.name} imports {module}"
                private = any(part.startswith("_") for part in parts)
                assert root == "optax_adamp" or not private, f"{path.name}: {module}"


def test_attributes_are_public_too():
    """`optax._src` could be reached as an attribute as well."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                private = node.attr.startswith("_") and not node.attr.endswith("__")
                replace = node.attr == "_replace"  # Public, for named tuples.
                assert not private or replace, f"{path.name}:{node.lineno} {node.attr}"
