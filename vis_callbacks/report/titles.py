"""Names of callbacks in words, for readers of a page."""

import re

_WORDS = {
    "LayerCAM": "LayerCAM",
    "HiResCAM": "HiResCAM",
    "AblationCAM": "Ablation-CAM",
    "ClassAppearance": "Class images",
    "Deconvnet": "Deconvnet",
    "DeepDream": "Deep dreams",
    "EigenCAM": "Eigen-CAM",
    "FeatureAppearance": "Feature images",
    "FoolModel": "Fooling images",
    "GradCAM": "Grad-CAM",
    "GradCAMPlusPlus": "Grad-CAM++",
    "GradientXInput": "Gradient × input",
    "GuidedGradCAM": "Guided Grad-CAM",
    "ScoreCAM": "Score-CAM",
    "SmoothGrad": "SmoothGrad",
    "XGradCAM": "XGrad-CAM",
}
_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def title_of(callback: str) -> str:
    """Return a callback's name in words; a name that its user chose stays as it is.

    Example:
        >>> title_of("ClassAppearance"), title_of("HardSamples"), title_of("FineCAM"), title_of("my maps")
        ('Class images', 'Hard samples', 'Fine CAM', 'my maps')
    """
    if callback in _WORDS:
        return _WORDS[callback]
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", callback):
        return callback
    first, *others = _BOUNDARY.split(callback)
    return " ".join([first, *(word if word.isupper() else word.lower() for word in others)])
