"""Conditions told from the names of models in other programs' logs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import BASE, Condition

NUMBER = r"(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
# what `steer --sweep` calls its folders, `k-1.5`, alone or behind another name, as a server's name of an adapter
SWEPT = re.compile(rf"(?:(.+)[-_.])?k{NUMBER}")
CHECKPOINT = re.compile(r"(?:(.+)-)?checkpoint-(\d+)")
OURS = re.compile(rf"(.+?)(?:_k_{NUMBER}|_step_(\d+))?-[0-9a-f]{{12}}")  # a condition's name in a log of `wsteer eval`
OF_PROVIDER = re.compile(r"(.+)~[^~/]+-[0-9a-f]{12}")  # BASE~CONDITION, as the provider `wsteer/` calls a model
# the arguments of a model that name what is added to it, and those that name the model itself
CHANGES, PATHS = ("delta", "peft", "lora", "adapter"), ("pretrained", "model_path", "path")


@dataclass(frozen=True)
class ModelName:
    """A model of a log: `name` as the log has it; where something is added, its `method`, k and training step."""

    name: str
    method: str | None = None
    k: float | None = None
    step: int | None = None

    @property
    def plain(self) -> str:
        """The last part of the name, the same under whatever path or provider the model was served."""
        return _last(self.name)

    @property
    def shown(self) -> str:
        """The name, or the condition that it is, as messages have it."""
        return self.plain if self.method is None else self.condition().label

    def condition(self) -> Condition:
        """The condition that it is, unless it is the base."""
        if self.method is None:
            return Condition(self.plain)
        k = 1.0 if self.k is None else self.k
        return Condition(self.method, k, delta=self.method, step=self.step)


def named(model: str, arguments: Mapping[str, object]) -> ModelName:
    """The model of a log by its name and arguments.

    Known are `vllm/MODEL:sweep/k1`, `wsteer/MODEL` with the arguments delta and k, `peft=sweep/k1`,
    `pretrained=sweep/k1` and folders `checkpoint-N`. Any other model is itself, with nothing added.
    """
    provider, _, served = model.partition("/")
    if provider == "wsteer" and (match := OF_PROVIDER.fullmatch(served)):
        served = match[1]  # behind it the provider repeats what the arguments say
    change = next((str(arguments[key]) for key in CHANGES if arguments.get(key)), None)
    if change is None and provider == "vllm" and ":" in served:
        served, _, change = served.partition(":")
    if change is not None:
        return _changed(served or model, change, _number(arguments.get("k")))
    path = next((str(arguments[key]) for key in PATHS if arguments.get(key)), served or model)
    if provider == "wsteer" and (match := OURS.fullmatch(_last(path))):
        if match[2] or match[3]:
            return ModelName(path, match[1], _number(match[2]), int(match[3]) if match[3] else None)
        return ModelName(match[1])
    last = _last(path)
    return _changed(path, path) if SWEPT.fullmatch(last) or CHECKPOINT.fullmatch(last) else ModelName(path)


def _changed(name: str, change: str, k: float | None = None) -> ModelName:
    """The model with a change added; its path tells k or the step where they are not given."""
    last = _last(change).removesuffix(".safetensors")
    above = _last(change.rstrip("/").rpartition("/")[0])
    if k is None and (match := SWEPT.fullmatch(last)):
        return ModelName(name, match[1] or above or "change", float(match[2]))
    if match := CHECKPOINT.fullmatch(last):
        return ModelName(name, match[1] or above or "checkpoint", k, int(match[2]))
    return ModelName(name, last, k)


def _last(path: str) -> str:
    """The last part of a path or of a model's name."""
    return path.rstrip("/").rpartition("/")[2] or path


def _number(value: object) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(str(value))
    except ValueError:
        return None


def base_among(models: Sequence[ModelName], wanted: str | None) -> ModelName | None:
    """The model that the others are compared with: the `wanted` one, else the only one to which nothing is added.

    Where each has something added, the one with k = 0. Raises WsteerError if `wanted` is none of them, or if it is not
    told which it is; None if there are no models.
    """
    models = list(dict.fromkeys(models))
    shown = list(dict.fromkeys(each.shown for each in models))
    if not models:
        return None
    if wanted is not None:
        found = [each for each in models if wanted in (each.name, each.shown, each.plain if not each.method else None)]
        if not found:
            raise WsteerError(f"--base {wanted} is no model of these logs; they are {', '.join(shown)}")
        return found[0]
    plain = [each for each in models if each.method is None]
    choices = list(dict.fromkeys(each.plain for each in plain))
    if len(choices) > 1:
        raise WsteerError(f"which model is the base is not told; name one with --base: {', '.join(choices)}")
    found = plain or [each for each in models if each.k == 0]
    if not found:
        raise WsteerError(
            f"no model of these logs is without a change, to compare with; add its log, or name one with --base: "
            f"{', '.join(shown)}"
        )
    return found[0]


def conditions_of(
    models: Sequence[ModelName], base: ModelName | None, as_base: Condition | None
) -> dict[ModelName, Condition]:
    """The condition of each model; the base's is `as_base`, where other logs have one already."""
    found = {}
    for each in models:
        is_base = base is not None and each.shown == base.shown
        found[each] = (as_base or Condition(BASE)) if is_base else each.condition()
    return found
