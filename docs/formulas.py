"""The formula of each technique, as its page shows it, and what its letters mean."""

import re

LETTERS = {
    "S": "S the logit",
    "x": "x the image",
    "A": "A the output of a layer",
    "k": "k a channel",
    "p": "p a place",
}
FORMULAS = {
    "Gradient": "∂S/∂x",
    "Saliency": "max over colours |∂S/∂x|",
    "GradientXInput": "x · ∂S/∂x",
    "IntegratedGradients": "(x − x₀) · mean over t in [0, 1] of ∂S/∂x at x₀ + t (x − x₀)",
    "SmoothGrad": "mean over noise ε of ∂S/∂x at x + ε",
    "GuidedBackprop": "∂S/∂x, where each ReLU passes g · [input > 0] · [g > 0] back",
    "Deconvnet": "∂S/∂x, where each ReLU passes g · [g > 0] back",
    "GradCAM": "ReLU( Σₖ wₖ Aₖ ),  wₖ = mean over p of ∂S/∂Aₖ(p)",
    "GradCAMPlusPlus": "ReLU( Σₖ wₖ Aₖ ),  wₖ = Σ over p of αₖ(p) · ReLU(∂S/∂Aₖ(p))",
    "HiResCAM": "ReLU( Σₖ Aₖ · ∂S/∂Aₖ )",
    "LayerCAM": "ReLU( Σₖ Aₖ · ReLU(∂S/∂Aₖ) )",
    "XGradCAM": "ReLU( Σₖ wₖ Aₖ ),  wₖ = Σ over p of Aₖ(p) · ∂S/∂Aₖ(p) / Σ over p of Aₖ(p)",
    "EigenCAM": "the first principal component of A over its channels",
    "ScoreCAM": "ReLU( Σₖ wₖ Aₖ ),  w = softmax over k of S(x · scaled Aₖ)",
    "AblationCAM": "ReLU( Σₖ wₖ Aₖ ),  wₖ = (S − S without channel k) / S",
    "GuidedGradCAM": "guided backpropagation · Grad-CAM",
    "Occlusion": "S(x) − S(x with the window covered)",
    "AttentionRelevance": "R ← R + mean over heads of ReLU(a · ∂S/∂a) R, from layer to layer; a is the attention",
    "AttentionRollout": "R ← (a/2 + I/2) R, from layer to layer; a is the attention, averaged over heads",
    "FineCAM": "Grad-CAM of a deep layer · (HiResCAM of a finer layer / its mean + a floor)",
    "Attention": "softmax( q·k / √d )",
    "ClassAppearance": "argmax over x of S(x) − penalties, under small shifts, turns and scales of x",
    "FeatureAppearance": "argmax over x of mean over p of Aₖ(p) − penalties, under small shifts, turns and scales of x",
    "DeepDream": "argmax over x of mean A(x)², from a photograph, at several sizes",
    "FeatureInversion": "argmin over x of ‖A(x) − A(photograph)‖² / ‖A(photograph)‖² + penalties",
    "FoolModel": "x ← x + step · ∂S/∂x, S of the other class, until it is probable enough",
}


def formula(name: str) -> str:
    """Return the formula of a technique in Markdown, with its letters; "" if it has none."""
    found = FORMULAS.get(name, "")
    if not found:
        return ""
    used = set(re.findall(r"\b[SxAp]\b|[SA](?=ₖ)|(?<=∂)[Sx]", found)) | ({"k", "A"} if "ₖ" in found else set())
    said = ", ".join(meaning for letter, meaning in LETTERS.items() if letter in used)
    return f"`{found}`" + (f"  \n<small>{said}</small>" if said else "")
