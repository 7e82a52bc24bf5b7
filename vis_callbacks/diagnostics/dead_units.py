"""Channels that give the same for all images."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import weights
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict

STEPS = 100
CERTAIN, CONVOLUTIONAL, CONNECTED = 0.6, 0.25, 0.6


def judge(facts: Facts) -> Verdict | None:
    """Look for layers of which many channels are the same for all images and at all places."""
    found = [
        layer
        for layer in facts.layers
        if layer.dead >= (CONVOLUTIONAL if layer.convolutional else CONNECTED) * layer.channels
    ]
    worst = max(found, key=lambda layer: layer.dead / layer.channels, default=None)
    if facts.steps < STEPS or worst is None:
        return None
    return Verdict(
        "alarm" if worst.dead >= CERTAIN * worst.channels else "note",
        f"{worst.dead} of {worst.channels} channels of {worst.name} give the same for all images: they are dead. Lower "
        "the learning rate or the weight decay, look at the initialisation, or use an activation that passes negative "
        "values.",
    )


CHECK = Check("dead-units", judge, weights, silenced_by=("not-finite", "not-in-optimizer", "no-gradient", "frozen"))
