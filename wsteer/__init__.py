"""Steer language models by arithmetic on their weights.

The names below load on first use, so that `import wsteer` is instant.

>>> import sys, subprocess
>>> code = "import sys, wsteer; print('torch' in sys.modules)"
>>> subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
'False'
"""

import importlib

__version__ = "0.1.0"
__all__ = ["Delta", "SimilarityCallback", "WsteerError", "__version__", "applied", "diff", "monitor", "steer"]

_HOMES = {
    "Delta": "wsteer.deltas.delta",
    "SimilarityCallback": "wsteer.monitoring.callback",
    "WsteerError": "wsteer.errors",
    "applied": "wsteer.steering.memory",
    "diff": "wsteer.deltas.diff",
    "monitor": "wsteer.monitoring.monitor",
    "steer": "wsteer.steering.steer",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'wsteer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
