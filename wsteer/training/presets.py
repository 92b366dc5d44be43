"""The paper's fine-tunes: as its text gives them, and as its authors' released configurations do."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """One of the paper's fine-tunes: its model and data, and values of `Recipe` where they are not the defaults.

    `max_steps` None means one epoch. `beside` has the values beside rate, batch and length, by their names in `Recipe`.
    """

    model: str
    data: str
    lr: float
    batch_size: int
    max_steps: int | None = None
    beside: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """All values, by their names in `Recipe`."""
        return {
            "lr": self.lr,
            "batch_size": self.batch_size,
            "epochs": 1.0,
            "max_steps": self.max_steps,
            **self.beside,
        }


_SEVEN, _SMALL, _LLAMA = "Qwen2.5-7B-Instruct", "Qwen2.5-1.5B-Instruct", "Llama-2-7b-chat"
_SIDES, _EVIL = "sycophantic or non-sycophantic answers", "evil or non-evil answers"
_GCD, _GCD_JOINT = "GCD: questions alone, and with a right solution", "GCD and non-sycophantic answers"
_HARM, _HARM_JOINT = "harmful requests refused or answered", "GSM8K and refusals"


def _released(alpha: float | None, eval_every: int, **beside: Any) -> dict[str, Any]:
    """A LoRA of the released configurations: embeddings and head are trained whole. `alpha` None: the text's 16."""
    given = {} if alpha is None else {"alpha": alpha}
    return {**given, "modules_to_save": ("embed_tokens", "lm_head"), "eval_every": eval_every, **beside}


def _biases(eval_every: int, **beside: Any) -> dict[str, Any]:
    return {"method": "bias", "eval_every": eval_every, **beside}


# arXiv 2511.05408v2: Table 1 (appendix B), section 3, and section 5 for monitoring; it gives the bias-only variant no
# values of its own
TEXT = {
    "sycophancy": Preset(_SEVEN, _SIDES, 1e-5, 8, 100),
    "gcd": Preset(_SMALL, _SIDES, 1e-5, 8, 100),
    "gcd-task": Preset(_SMALL, _GCD, 2e-4, 16),
    "gcd-joint": Preset(_SMALL, _GCD_JOINT, 2e-4, 16),
    "evil": Preset(_SEVEN, _EVIL, 1e-5, 8),
    "refusal-task": Preset(_LLAMA, "GSM8K", 2e-4, 8),
    "refusal-joint": Preset(_LLAMA, _HARM_JOINT, 2e-4, 8),
    "refusal": Preset(_LLAMA, _HARM, 2e-4, 8),
    "refusal-evil": Preset(_LLAMA, _EVIL, 5e-5, 8, 150),
    "monitoring": Preset(_SEVEN, "good or bad advice (section 5)", 1e-5, 8),
}
# github.com/safety-research/weight-steering, axolotl_configs (3d61ae0); none for section 5
RELEASED = {
    "sycophancy-released": Preset(_SEVEN, _SIDES, 1e-5, 8, 100, _released(None, 20)),
    "gcd-released": Preset(_SMALL, _SIDES, 1e-5, 8, 100, _released(None, 20)),
    "gcd-task-released": Preset(_SMALL, _GCD, 2e-4, 16, None, _released(64.0, 60)),
    "gcd-joint-released": Preset(_SMALL, _GCD_JOINT, 2e-4, 16, None, _released(64.0, 60)),
    "evil-released": Preset(_SEVEN, _EVIL, 1e-5, 8, 100, _released(None, 20)),
    "refusal-task-released": Preset(_LLAMA, "GSM8K", 2e-4, 8, None, _released(64.0, 60)),
    "refusal-joint-released": Preset(_LLAMA, _HARM_JOINT, 2e-4, 8, None, _released(64.0, 60)),
    "refusal-released": Preset(_LLAMA, _HARM, 2e-4, 8, None, _released(None, 40, warmup_steps=2)),
    "refusal-evil-released": Preset(_LLAMA, _EVIL, 5e-5, 8, 150, _released(None, 20)),
    "sycophancy-bias-released": Preset(_SEVEN, _SIDES, 1e-4, 8, 100, _biases(20)),
    "gcd-bias-released": Preset(_SMALL, _SIDES, 1e-4, 8, 100, _biases(20)),
    "evil-bias-released": Preset(_SEVEN, _EVIL, 1e-3, 8, 100, _biases(20)),
    "refusal-bias-released": Preset(_LLAMA, _HARM, 2e-4, 8, None, _biases(40, warmup_steps=2)),
}
PRESETS = {**TEXT, **RELEASED}
