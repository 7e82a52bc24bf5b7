"""A user's model: run it without disturbing its training, find its layers, and read their outputs and gradients.

These are the names that techniques use; modules of this package import from each other's files.
"""

from vis_callbacks.model.attention import AttentionCall, AttentionReads
from vis_callbacks.model.attention_places import (
    PlacedCall,
    no_attention,
    placed_calls,
    relevance_of,
    rolled_out,
    with_heads,
)
from vis_callbacks.model.batching import (
    add_by_row,
    gradients_of,
    in_chunks,
    in_small_chunks,
    pixels_of,
    scores_of,
    trace_in_chunks,
)
from vis_callbacks.model.classifier import (
    Targets,
    likelihoods_of,
    logits_of,
    outputs_of,
    probabilities,
    resolve_targets,
    rounding_of,
    target_scores,
)
from vis_callbacks.model.features import default_layer, find_layout, layers_across_depth, middle_layer, output_layout
from vis_callbacks.model.guard import device_of, undisturbed
from vis_callbacks.model.inputs import (
    Sides,
    baseline_for,
    check_images,
    fixed_targets,
)
from vis_callbacks.model.layers import (
    filter_layers,
    filter_weight,
    find_layer,
    full_name,
    hookable_layers,
    named_layers,
)
from vis_callbacks.model.layout import Layout
from vis_callbacks.model.meaning import Meaning, seen_meaning
from vis_callbacks.model.refusal import guarded
from vis_callbacks.model.trace import Trace, captured, check_differentiable, trace

__all__ = [
    "AttentionCall",
    "AttentionReads",
    "Layout",
    "Meaning",
    "PlacedCall",
    "Sides",
    "Targets",
    "Trace",
    "add_by_row",
    "baseline_for",
    "captured",
    "check_differentiable",
    "check_images",
    "default_layer",
    "device_of",
    "filter_layers",
    "filter_weight",
    "find_layer",
    "find_layout",
    "fixed_targets",
    "full_name",
    "gradients_of",
    "guarded",
    "hookable_layers",
    "in_chunks",
    "in_small_chunks",
    "layers_across_depth",
    "likelihoods_of",
    "logits_of",
    "middle_layer",
    "named_layers",
    "no_attention",
    "output_layout",
    "outputs_of",
    "pixels_of",
    "placed_calls",
    "probabilities",
    "relevance_of",
    "resolve_targets",
    "rolled_out",
    "rounding_of",
    "scores_of",
    "seen_meaning",
    "target_scores",
    "trace",
    "trace_in_chunks",
    "undisturbed",
    "with_heads",
]
