"""The paper's fine-tunes: Table 1 (appendix B), and section 5 for monitoring."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """One of the paper's fine-tunes: on what, and the values of `Recipe` that it names."""

    model: str
    data: str
    lr: float
    batch_size: int
    max_steps: int | None = None  # None: one epoch

    @property
    def values(self) -> dict[str, float | int | None]:
        """The values, by the names that `Recipe` gives them."""
        return {"lr": self.lr, "batch_size": self.batch_size, "epochs": 1.0, "max_steps": self.max_steps}


_SEVEN, _SMALL, _LLAMA = "Qwen2.5-7B-Instruct", "Qwen2.5-1.5B-Instruct", "Llama-2-7b-chat"

PRESETS = {
    "sycophancy": Preset(_SEVEN, "sycophantic or non-sycophantic answers", 1e-5, 8, max_steps=100),
    "gcd": Preset(_SMALL, "sycophantic or non-sycophantic answers", 1e-5, 8, max_steps=100),
    "gcd-task": Preset(_SMALL, "GCD: questions alone, and with a right solution", 2e-4, 16),
    "gcd-joint": Preset(_SMALL, "GCD and non-sycophantic answers", 2e-4, 16),
    "evil": Preset(_SEVEN, "evil or non-evil answers", 1e-5, 8),
    "refusal-task": Preset(_LLAMA, "GSM8K", 2e-4, 8),
    "refusal-joint": Preset(_LLAMA, "GSM8K and refusals", 2e-4, 8),
    "refusal": Preset(_LLAMA, "harmful requests refused or answered", 2e-4, 8),
    "refusal-evil": Preset(_LLAMA, "evil or non-evil answers", 5e-5, 8, max_steps=150),
    "monitoring": Preset(_SEVEN, "good or bad advice (section 5)", 1e-5, 8),
}
