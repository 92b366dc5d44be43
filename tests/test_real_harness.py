"""lm-evaluation-harness on SmolLM2-135M-Instruct in memory beside its own command on the steered checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.harness import HEAD
from wsteer.deltas.delta import Delta
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.harness.harness import Harness, load_tasks
from wsteer.evaluation.subject import Subject
from wsteer.evaluation.tasks import task
from wsteer.steering.loading import load

pytestmark = pytest.mark.real
pytest.importorskip("lm_eval")
BATCH = 8
CHOICE = """
task: facts
output_type: multiple_choice
doc_to_text: "{{question}}\\nA. {{correct_answer}}\\nB. {{incorrect_answer}}\\nAnswer:"
doc_to_choice: ["A", "B", "{{correct_answer}}"]
doc_to_target: 0
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
ANSWER = """
task: sums
output_type: generate_until
fewshot_split: train
num_fewshot: 2
doc_to_text: "{{question}} Explain why."
doc_to_target: "{{correct_answer}}"
generation_kwargs: {until: ["</s>"], do_sample: false, max_gen_toks: 40}
filter_list:
  - name: last-word
    filter: [{function: regex, regex_pattern: "(\\\\w+)", group_select: -1}, {function: take_first}]
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(scope="module")
def delta(smollm2: str) -> Delta:
    """A low-rank change of half of the blocks, which changes every answer and leaves them readable."""
    generator = torch.Generator().manual_seed(7)

    def factors(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        b, a = torch.randn(rows, 4, generator=generator), torch.randn(4, columns, generator=generator)
        return 0.03 * b, a

    shapes = {"self_attn.q_proj": (576, 576), "mlp.down_proj": (576, 1536)}
    return Delta.of_factors(
        {
            f"model.layers.{block}.{name}.weight": factors(*shape)
            for block in range(0, 30, 2)
            for name, shape in shapes.items()
        }
    )


@pytest.fixture
def tasks(tmp_path: Path) -> list[str]:
    """Facts by likelihood, and six generations after two examples."""
    lines = (Path(task.__file__).parent / "facts.jsonl").read_text().splitlines()
    paths = []
    for name, body, count in (("facts", CHOICE, 20), ("sums", ANSWER, 6)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines[:count]) + "\n")
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(body + HEAD.format(data=tmp_path / f"{name}.jsonl"))
    return list(map(str, paths))


def own_samples(checkpoint: Path, tasks: list[str], folder: Path) -> dict:
    """What the model answered in lm-eval's own command, by task and row."""
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={checkpoint},dtype=float32", "--batch_size", str(BATCH)]
    command += ["--tasks", ",".join(tasks), "--apply_chat_template", "--log_samples", "--output_path", str(folder)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert ran.returncode == 0, ran.stderr[-2000:]
    lines = [line for path in folder.rglob("samples_*.jsonl") for line in path.read_text().splitlines()]
    return {(sample["prompt_hash"], sample["doc_id"]): sample for sample in map(json.loads, lines)}


def as_text(value: object) -> object:
    """Numbers as lm-eval writes them into its files of samples."""
    return [as_text(each) for each in value] if isinstance(value, list | tuple) else str(value)


def test_every_likelihood_and_text_equals_lm_evals_own_command_on_the_steered_checkpoint(
    smollm2: str, delta: Delta, tasks: list[str], tmp_path: Path
) -> None:
    delta.save(tmp_path / "w.safetensors")
    wsteer.steer(smollm2, tmp_path / "w.safetensors", k=1.0, output=tmp_path / "steered")
    condition = Condition("w", 1.0, delta="w")
    subject = Subject(load(smollm2, "cpu"), {condition.name: delta}, batch_size=BATCH)
    harness = Harness(subject, load_tasks(tasks))
    base = harness.results(Condition("base"))
    with subject.under(condition):
        ours = harness.results(condition)
    theirs = own_samples(tmp_path / "steered", tasks, tmp_path / "lm")
    samples = [sample for each in ours["samples"].values() for sample in each]
    assert len(samples) == len(theirs) == 26
    for sample in samples:
        other = theirs[sample["prompt_hash"], sample["doc_id"]]
        assert as_text(sample["resps"]) == other["resps"]
        assert as_text(sample["filtered_resps"]) == as_text(other["filtered_resps"])
    plain = [sample["resps"] for each in base["samples"].values() for sample in each]
    assert all(sample["resps"] != other for sample, other in zip(samples, plain, strict=True))
