"""A likelihood of numbers that are no log-probabilities."""

from vis_callbacks.diagnostics.check import Check
from vis_callbacks.diagnostics.exhibits import answers
from vis_callbacks.diagnostics.facts import Facts
from vis_callbacks.diagnostics.finding import Verdict

WHY = {
    "logits": "the loss has no lower bound, and falls without teaching much",
    "probabilities": "its gradients all but vanish where the answer is most wrong",
}


def judge(facts: Facts) -> Verdict | None:
    """Look for it in the graphs of the first losses."""
    given = facts.loss.likelihood_of
    if not given:
        return None
    return Verdict(
        "alarm",
        f"nll_loss gets {given} and wants log-probabilities: {WHY[given]}. Use cross_entropy with the logits, or give "
        "nll_loss what log_softmax returns.",
    )


CHECK = Check("wrong-loss", judge, answers)
