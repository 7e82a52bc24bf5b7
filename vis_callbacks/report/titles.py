"""The heads of sections in words."""

import re

_TITLES = {
    "ClassAppearance": "Class images",
    "FeatureAppearance": "Feature images",
    "GradientXInput": "Gradient × input",
    "GradCAM": "Grad-CAM",
    "GradCAMPlusPlus": "Grad-CAM++",
    "HiResCAM": "HiResCAM",
    "LayerCAM": "LayerCAM",
    "XGradCAM": "XGrad-CAM",
    "EigenCAM": "Eigen-CAM",
    "ScoreCAM": "Score-CAM",
    "AblationCAM": "Ablation-CAM",
    "GuidedGradCAM": "Guided Grad-CAM",
    "SmoothGrad": "SmoothGrad",
    "LeGrad": "LeGrad",
    "FoolModel": "Fooling images",
}


def title_of(callback: str) -> str:
    """Return the name of a callback in words; a name that a user gave stays as it is.

    Example:
        >>> title_of("ClassAppearance"), title_of("MaximalPatches"), title_of("GradCAM-2"), title_of("my maps")
        ('Class images', 'Maximal patches', 'Grad-CAM-2', 'my maps')
    """
    name, number = re.fullmatch(r"(.*?)(-\d+)?", callback, re.DOTALL).groups()  # type: ignore[union-attr]
    if name in _TITLES:
        return _TITLES[name] + (number or "")
    words = re.findall(r"[A-Z][a-z]+", name)
    if len(words) < 2 or "".join(words) != name:
        return callback
    return " ".join([words[0], *(word.lower() for word in words[1:])]) + (number or "")
