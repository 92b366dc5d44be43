"""Logs as other programs write them: lm-eval's files, and logs of inspect_ai under the names of other models."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OPTIONS = ("Rome", "Paris")


def lm_sample(number: int, right: bool, margin: float = 1.5) -> dict[str, Any]:
    """One line of lm-eval's samples file of a task of multiple choice; the second option is the right one."""
    context = f"Question {number}: what is the capital of France?\nAnswer:"
    likelihoods = (-3.0, -3.0 + (margin if right else -margin))
    calls = {f"gen_args_{i}": {"arg_0": context, "arg_1": f" {option}"} for i, option in enumerate(OPTIONS)}
    return {
        "doc_id": number,
        "doc": {"q": context},
        "target": "1",
        "arguments": calls,
        "resps": [[[str(each), "False"]] for each in likelihoods],
        "filtered_resps": [[str(each), "False"] for each in likelihoods],
        "filter": "none",
        "metrics": ["acc"],
        "prompt_hash": f"{number:064d}",
        "acc": float(right),
    }


def lm_run(
    folder: Path,
    arguments: Mapping[str, object],
    rights: Sequence[bool] = (True, True, False),
    task: str = "capitals",
    **changes: object,
) -> Path:
    """A folder as `lm-eval run --log_samples --output_path` writes it, of one task; `changes` are of the results."""
    samples = [lm_sample(number, right) for number, right in enumerate(rights)]
    return lm_files(folder, arguments, {task: samples}, {task: {"acc,none": sum(rights) / len(rights)}}, **changes)


def lm_files(
    folder: Path,
    arguments: Mapping[str, object],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    figures: Mapping[str, Mapping[str, object]],
    kind: str = "multiple_choice",
    **changes: object,
) -> Path:
    """The same of several tasks, with their samples and lm-eval's own figures."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {task: {metric for each in found for metric in each["metrics"]} for task, found in samples.items()}
    results = {
        "results": dict(figures),
        "configs": {task: {"task": task, "output_type": kind, "metadata": {}} for task in samples},
        "higher_is_better": {task: dict.fromkeys(sorted(found), True) for task, found in metrics.items()},
        "group_subtasks": {},
        "config": {"model": "hf", "model_args": dict(arguments)},
        "model_name": str(arguments.get("pretrained", "m")),
        "date": 1.0,
        **changes,
    }
    (folder / "results_1.json").write_text(json.dumps(results))
    for task, found in samples.items():
        lines = "".join(json.dumps(each) + "\n" for each in found)
        (folder / f"samples_{task}_1.jsonl").write_text(lines)
    return folder


def inspect_logs(folder: Path, models: Mapping[str, Sequence[bool]], epochs: int = 1, **changes: object) -> list[Path]:
    """Logs of inspect_ai of one small task, run on its own mock model, then given these models' names and values.

    Each sample is answered alike in all `epochs`. `changes` are of the logs, as `status="cancelled"`.
    """
    from inspect_ai import Task
    from inspect_ai import eval as run
    from inspect_ai.dataset import Sample
    from inspect_ai.log import write_eval_log
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import Score, includes

    rows = [Sample(id=f"q{i}", input=f"Question {i}?", target="Paris") for i in range(3)]
    task = Task(name="cities", dataset=rows, scorer=includes())
    answer = ModelOutput.from_content("mockllm/model", "It is Paris.")
    answer.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # else inspect_ai asks the network
    model = get_model("mockllm/model", custom_outputs=[answer] * len(rows) * epochs)
    (log,) = run(task, model=model, epochs=epochs, display="none", log_dir=str(folder / "own"))
    paths = []
    for number, (model, rights) in enumerate(models.items()):
        samples = [
            sample.model_copy(update={"scores": {"includes": Score(value="C" if right else "I", answer="Paris")}})
            for sample, right in zip(log.samples or (), rights, strict=False)
        ]
        spec = log.eval.model_copy(update={"model": model})
        path = folder / "logs" / f"{number}.eval"
        path.parent.mkdir(exist_ok=True)
        write_eval_log(log.model_copy(update={"eval": spec, "samples": samples, **changes}), str(path))
        paths.append(path)
    return paths
