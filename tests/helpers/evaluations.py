"""Evaluations made up from a seed: conditions, and rows whose values follow k."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.rows import ABSTAINED, Measure, Row, prompt_digest

MEASURES = (
    Measure("agreement", "agreement", "share", "lower", "behaviour"),
    Measure("agreement", "accuracy", "share", "higher", "capability"),
    Measure("text", "perplexity", "perplexity", "lower", "capability", "per token"),
)


def conditions(count: int) -> list[Condition]:
    """The base and `count` others: one k, a sweep of w, or several methods, checkpoints, a prompt and a control."""
    base = Condition(BASE, model="m")
    if count == 1:
        return [base, Condition("w", 1.0, "m", "w")]
    if count < 10:
        half = count // 2
        return [base, *(Condition("w", k / 2, "m", "w") for k in range(-half, count - half + 1) if k)]
    found = [Condition("w", k / 2, "m", "w") for k in range(-4, 5) if k]
    found += [Condition("a@12", k, "m", "a", (12,), "response") for k in (-2.0, -1.0, 1.0, 2.0)]
    found += [Condition("w random", k, "m", "r", control="random") for k in (-1.0, 1.0)]
    found += [Condition("ft", 1.0, "m", f"c{step}", step=step) for step in range(50, 500, 50)]
    found += [Condition("bias", 1.0, "m", "b"), Condition("system", model="m", system="Be honest.")]
    return [base, *found[:count]]


def sweep(blocks: int, k: float = -1.0) -> list[Condition]:
    """The base, and an activation vector at each block."""
    each = [Condition(f"a@{block}", k, "m", f"a{block}", (block,), "response") for block in range(blocks)]
    return [Condition(BASE, model="m"), *each]


def parts(names: Sequence[str], k: float = -1.0) -> list[Condition]:
    """The base, a whole change, and of each part the change alone, without it, and a random one of its norm."""
    found = [Condition(BASE, model="m"), Condition("w", k, "m", "w")]
    for name in names:
        found.append(Condition("w", k, "m", f"keep {name}", part=f"keep {name}"))
        found.append(Condition("w", k, "m", f"drop {name}", part=f"drop {name}"))
        found.append(Condition("w random", k, "m", f"random {name}", control="random", part=f"keep {name}"))
    return found


def strength(condition: Condition) -> float:
    """How far a made-up condition moves the behaviour, from -1 to 1."""
    if condition.is_base or condition.control:
        return 0.0
    if condition.step is not None:
        return condition.step / 500
    if condition.system is not None:
        return -0.5
    if condition.layers is not None and condition.part is None:
        return condition.k * math.exp(-((condition.layers[0] - 7) ** 2) / 20) / 2
    scale = {"keep": 0.3, "drop": 0.8}.get((condition.part or "").split(" ")[0], 1.0)
    return max(-1.0, min(1.0, condition.k * scale / 2))


def values(results: Mapping[str, Any], metric: str, what: str = "value") -> dict[str, Any]:
    """The value of a metric, or another field, by the condition's label, of what results.json or --json holds."""
    labels = {each["name"]: each["label"] for each in results["conditions"]}
    return {labels[e["condition"]]: e[what] for e in results["estimates"] if e["metric"] == metric}


def rows(chosen: Sequence[Condition], questions: int = 48, seed: int = 0, prompts: int = 1) -> list[Row]:
    """Rows of the three `MEASURES` on `questions`; one in twelve answers cannot be graded."""
    found = []
    for condition in chosen:
        moved = strength(condition)
        for question in range(questions):
            draw = random.Random(f"{seed}-{question}")
            limits = draw.random(), draw.random()
            own = random.Random(f"{seed}-{condition.name}-{question}")
            text = f"Question {question}: what is the capital of country {question}?"
            chance = {"agreement": 0.45 + 0.45 * moved, "accuracy": 0.9 - 0.45 * moved**2}
            for (metric, most), limit in zip(chance.items(), limits, strict=True):
                for prompt in range(prompts):
                    unscored = own.random() < 1 / 12
                    value = float(limit + 0.05 * own.random() < most)
                    found.append(
                        Row(
                            *("agreement", metric, condition.name, f"q{question}.{prompt}"),
                            None if unscored else value,
                            ABSTAINED if unscored else "",
                            f"q{question}",
                            prompt_digest(text, str(prompt)),
                            f"{text} (prompt {prompt})",
                            f"Under {condition.label} it is {'right' if value else 'wrong'}, I think. " * 3,
                        )
                    )
            nats = 3 + limits[0] + 0.8 * moved**2
            found.append(Row("text", "perplexity", condition.name, f"t{question}", nats, input=text, weight=20.0))
    return found
