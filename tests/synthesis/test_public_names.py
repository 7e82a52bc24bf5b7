from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from vis_callbacks import synthesis


def test_every_name_is_that_of_its_module():
    assert sorted(synthesis.__all__) == synthesis.__all__
    assert set(synthesis.__all__) <= set(dir(synthesis))
    for name, place in synthesis._MODULES.items():
        assert getattr(synthesis, name) is getattr(importlib.import_module(f"vis_callbacks.{place}"), name)
    with pytest.raises(AttributeError, match="has no attribute 'Receipt'"):
        synthesis.Receipt  # noqa: B018


def test_importing_loads_no_technique():
    # The package above it is left out, as it imports by itself what it names.
    code = """if True:
        import importlib.util, sys
        spec = importlib.util.find_spec("vis_callbacks")
        sys.modules["vis_callbacks"] = importlib.util.module_from_spec(spec)
        import vis_callbacks.synthesis
        print(*sys.modules)
    """
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60).split()
    assert [name for name in loaded if name.startswith("vis_callbacks")] == ["vis_callbacks", "vis_callbacks.synthesis"]
    assert "torch" not in loaded
