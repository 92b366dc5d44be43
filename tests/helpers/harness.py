"""Tasks of lm-evaluation-harness as a user writes them: YAML files, and questions in JSONL beside them."""

import json
from pathlib import Path

QUESTIONS = [
    {"question": "Two and two?", "options": ["four", "five"], "right": 0},
    {"question": "Which colour has the sky?", "options": ["green", "blue"], "right": 1},
    {"question": "And grass?", "options": ["green", "blue", "red"], "right": 0},
]
HEAD = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}, train: {data}}}
test_split: test
"""
CHOICE = """
task: choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{right}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
ANSWER = """
task: answer
output_type: generate_until
fewshot_split: train
num_fewshot: 1
doc_to_text: "{{question}}"
doc_to_target: "{{options[right]}}"
generation_kwargs: {until: ["zzz"], max_gen_toks: 12}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
TEXT = """
task: text
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{options[right]}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""


def write_task(folder: Path, body: str, name: str | None = None, questions: list[dict] = QUESTIONS) -> str:
    """A task's YAML file, with its questions in `questions.jsonl` beside it."""
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in questions), encoding="utf-8")
    path = folder / f"{name or body.split()[1]}.yaml"
    path.write_text(body + HEAD.format(data=data), encoding="utf-8")
    return str(path)
