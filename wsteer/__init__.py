"""Steer language models by arithmetic on their weights.

The names below load on first use, so that `import wsteer` is instant.

>>> import sys, subprocess
>>> code = "import sys, wsteer; print('torch' in sys.modules)"
>>> subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
'False'
>>> import wsteer
>>> [name for name in wsteer.__all__ if not hasattr(wsteer, name)]
[]
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "Added",
    "Delta",
    "ProjectionCallback",
    "Recipe",
    "Selection",
    "Settings",
    "SimilarityCallback",
    "WsteerError",
    "__version__",
    "actvec",
    "answer_prompts",
    "applied",
    "diff",
    "evaluate",
    "finetune",
    "generate",
    "links_followed",
    "load",
    "monitor",
    "prompt_lengths",
    "steer",
]

_HOMES = {
    "Added": "wsteer.evaluation.compared",
    "Delta": "wsteer.deltas.delta",
    "ProjectionCallback": "wsteer.monitoring.projection_callback",
    "Recipe": "wsteer.training.recipe",
    "Selection": "wsteer.deltas.selection",
    "Settings": "wsteer.monitoring.settings",
    "SimilarityCallback": "wsteer.monitoring.callback",
    "WsteerError": "wsteer.errors",
    "actvec": "wsteer.activations.actvec",
    "answer_prompts": "wsteer.elicitation.answer",
    "applied": "wsteer.steering.memory",
    "diff": "wsteer.deltas.diff",
    "evaluate": "wsteer.evaluation.evaluate",
    "finetune": "wsteer.training.finetune",
    "generate": "wsteer.elicitation.generate",
    "links_followed": "wsteer.checkpoints.contents",
    "load": "wsteer.steering.loading",
    "monitor": "wsteer.monitoring.monitor",
    "prompt_lengths": "wsteer.steering.positions",
    "steer": "wsteer.steering.steer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wsteer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
