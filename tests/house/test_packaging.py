"""What is installed: the package, nothing else, and no import beyond jax and optax."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import optax_adamp
from optax_adamp import layouts

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


# Modules that are about Flax, and imported only for its models.
ABOUT_FLAX = ("_linen.py", "_linen_stacks.py", "_nnx.py")


def library_files():
    """The package without its demonstrations, which have an extra of their own."""
    return [
        path
        for path in PACKAGE.rglob("*.py")
        if path.name != "__main__.py" and path.parent.name != "_demo"
    ]


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_library_imports_public_names_of_jax_and_optax_only():
    # jax returns NumPy arrays, and so cannot be without it.
    known = sys.stdlib_module_names | {"jax", "numpy", "optax", "optax_adamp"}
    for path in library_files():
        for module in imported_modules(path):
            root, *parts = module.split(".")
            is_known = root in known or (root == "flax" and path.name in ABOUT_FLAX)
            assert is_known, f"{path.name} imports {module}"
            private = any(part.startswith("_") for part in parts)
            assert root == "optax_adamp" or not private, f"{path.name}: {module}"


def test_import_warns_of_nothing_and_loads_nothing_optional():
    code = """
import sys
import optax
before = set(sys.modules)
import optax_adamp
print(*sorted(set(sys.modules) - before))
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    loaded = done.stdout.split()
    ours = {name for name in loaded if name.split(".")[0] == "optax_adamp"}
    assert "optax_adamp._alias" in ours
    # As far as jax and optax have not loaded it before.
    known = sys.stdlib_module_names | {"jax"}
    assert not {name.split(".")[0] for name in loaded} - known - {"optax_adamp"}


def test_flax_is_imported_for_its_models_only():
    code = """
import sys
import jax
import optax_adamp

params = {"w": jax.numpy.ones((2, 3))}
layout = optax_adamp.layouts.from_function(
    lambda params: jax.numpy.ones(2) @ params["w"], params
)
optax_adamp.describe(params, layout)
optax_adamp.measure(params, params)
optax_adamp.detect_scale_invariance(
    lambda params, batch: params["w"].sum() * batch, params, [1.0], num_batches=1
)
assert "flax" not in sys.modules
optax_adamp.layouts.from_nnx
assert "flax" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_attributes_are_public_too():
    """`optax._src` could be reached as an attribute as well."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                private = node.attr.startswith("_") and not node.attr.endswith("__")
                public = ("_replace", "_asdict")  # Of named tuples, they are.
                own = node.value.id == "self"
                assert not private or own or node.attr in public, (
                    f"{path.name}:{node.lineno} {node.attr}"
                )


def test_public_names():
    assert " ".join(optax_adamp.__all__) == (
        "ProjectionDimensionNumbers adamp describe detect_scale_invariance layouts "
        "measure scale_by_projection sgdp with_gradient"
    )
    assert " ".join(layouts.__all__) == (
        "Layout Rule from_function from_linen from_nnx output_first output_last stacked"
    )
    for module in (optax_adamp, layouts):
        assert {*module.__all__} <= {*dir(module)}
        for name in module.__all__:
            assert hasattr(module, name)
