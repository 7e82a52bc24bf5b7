"""Load the package first: pytest's importlib mode would load a module twice that its package's face has loaded."""

import vis_callbacks.functional  # noqa: F401
