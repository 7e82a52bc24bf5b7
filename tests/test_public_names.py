"""The public names: complete for type checkers, editors and `dir`, and imported only when they are used."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import subprocess
import sys
from importlib.metadata import version
from types import ModuleType

import pytest

import vis_callbacks
from vis_callbacks import functional, synthesis

MODULES = [vis_callbacks, functional, synthesis]
HEAVY = {"torch", "torchvision", "pytorch_lightning", "lightning", "matplotlib", "numpy", "PIL"}


def stated(module: ModuleType) -> dict[str, str]:
    """The names in the block for type checkers, each with the module that it is imported from."""
    blocks = (node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.If))
    block = next(node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING")
    imports = (node for node in block.body if isinstance(node, ast.ImportFrom))
    return {alias.asname: node.module for node in imports for alias in node.names}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_what_type_checkers_see_is_what_is_imported(module: ModuleType) -> None:
    names = stated(module)
    assert sorted(names) == module.__all__
    for name, home in names.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)


@pytest.mark.parametrize("module", [vis_callbacks, functional], ids=lambda module: module.__name__)
def test_a_name_is_imported_from_where_it_is_defined(module: ModuleType) -> None:
    for name, home in stated(module).items():
        assert getattr(module, name).__module__ == home


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_dir_and_star_import_know_every_name(module: ModuleType) -> None:
    names: dict[str, object] = {}
    exec(f"from {module.__name__} import *", names)
    assert set(module.__all__) <= names.keys()
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_an_unknown_name_is_an_attribute_error(module: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'grad_kam'"):
        module.grad_kam  # noqa: B018


def test_the_version_is_that_of_the_installed_package() -> None:
    assert vis_callbacks.__version__ == version("vis-callbacks")


def test_a_public_class_is_pickled_by_its_own_module() -> None:
    assert pickle.loads(pickle.dumps(vis_callbacks.GradCAM)) is vis_callbacks.GradCAM


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_importing_loads_nothing(module: ModuleType) -> None:
    code = f"import sys, {module.__name__}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True, timeout=120).split())
    assert "vis_callbacks" in loaded
    assert loaded & HEAVY == set()
