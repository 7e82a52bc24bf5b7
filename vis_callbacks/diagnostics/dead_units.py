"""Channels that give the same for all images."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import weights
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict

STEPS = 100
CONVOLUTIONAL, CONNECTED = 0.25, 0.6


def judge(facts: Facts) -> Verdict | None:
    """Look for layers of which many channels are the same for all images and at all places."""
    if facts.steps < STEPS:
        return None
    for layer in facts.layers:
        if layer.dead >= (CONVOLUTIONAL if layer.convolutional else CONNECTED) * layer.channels:
            return Verdict(
                "alarm",
                f"{layer.dead} of {layer.channels} channels of {layer.name} give the same for all images: they are "
                "dead. Lower the learning rate, look at the initialisation, or use an activation that passes negative "
                "values.",
            )
    return None


CHECK = Check("dead-units", judge, weights, silenced_by=("not-finite", "not-in-optimizer", "no-gradient", "frozen"))
