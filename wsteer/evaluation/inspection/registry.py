"""What inspect_ai finds of wsteer by its entry point: models under the name `wsteer/`, and the paper's tasks."""

from collections.abc import Callable

from inspect_ai import Task
from inspect_ai.model import ModelAPI, modelapi

from wsteer.evaluation.paper.cot_consistency import cot_consistency
from wsteer.evaluation.paper.emergent_misalignment import emergent_misalignment
from wsteer.evaluation.paper.evil_mcqa import evil_mcqa
from wsteer.evaluation.paper.gcd_sycophancy import gcd_sycophancy
from wsteer.evaluation.paper.gsm8k import gsm8k
from wsteer.evaluation.paper.harm_refusal import harm_refusal
from wsteer.evaluation.paper.sycophancy import sycophancy
from wsteer.evaluation.paper.tinymmlu import tinymmlu
from wsteer.evaluation.paper.trait import trait

# the paper's tasks, `wsteer/NAME`
PAPER = (
    sycophancy,
    gcd_sycophancy,
    evil_mcqa,
    cot_consistency,
    gsm8k,
    tinymmlu,
    harm_refusal,
    emergent_misalignment,
    trait,
)
TASKS: dict[str, Callable[..., Task]] = {task.__name__: task for task in PAPER}


@modelapi(name="wsteer")
def wsteer() -> type[ModelAPI]:
    """`wsteer/BASE`, with -M delta=DELTA -M k=K and more: a base with k·delta applied."""
    from wsteer.evaluation.inspection.provider import SteeredAPI  # noqa: PLC0415  imports torch, which other models do not need

    return SteeredAPI


@modelapi(name="wsteer-no-judge")
def no_judge() -> type[ModelAPI]:
    """The judge of those who named none: it refuses."""
    from wsteer.evaluation.inspection.provider import NoJudge  # noqa: PLC0415

    return NoJudge
