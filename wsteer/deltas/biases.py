"""Activation vectors as the biases of `mlp.down_proj` that they equal."""

import re
from dataclasses import replace

from wsteer.checkpoints.names import layer_of
from wsteer.deltas.delta import Delta

BIAS = "model.layers.{}.mlp.down_proj.bias"
BIAS_PATTERN = re.compile(r"model\.layers\.(?:0|[1-9][0-9]{0,8})\.mlp\.down_proj\.bias")


def as_biases(delta: Delta) -> Delta:
    """An activation delta as the change of biases that equals it, at every position; other deltas are unchanged."""
    if delta.kind != "activation":
        return delta
    terms = {BIAS.format(layer_of(name, None)): parts for name, parts in delta.terms.items()}
    return replace(delta, kind="task_vector", terms=terms)
