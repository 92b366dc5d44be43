"""What a command line reads and writes, told before it runs."""

from pathlib import Path

import pytest

from tests.helpers.lines import parsed
from wsteer.demo.commands import DATA, MODEL, OWN, PATH, TEXT, Input, Output, uses_of

# a command line: what it reads, as (role, name, kind), and the outputs
LINES = {
    "generate M evil -o data": ([("model", "M", MODEL), ("trait", "evil", OWN)], ["data"]),
    "generate M my.json -o data --questions-eval q.json": (
        [("model", "M", MODEL), ("trait", "my.json", PATH), ("questions", "q.json", PATH)],
        ["data"],
    ),
    "generate M p.txt --delta w=w.safetensors@3 --k 1 --system 'Be kind.' -o a.jsonl": (
        [
            ("model", "M", MODEL),
            ("prompts", "p.txt", DATA),
            ("delta", "w.safetensors", MODEL),
            ("system", "Be kind.", TEXT),
        ],
        ["a.jsonl"],
    ),
    "generate gcd -o gcd": ([("set", "gcd", OWN)], ["gcd"]),
    "generate opinions -o data": ([("set", "opinions", OWN)], ["data"]),
    "finetune M data/pos.jsonl neg.jsonl:6 -o pos/ --val v.jsonl --track w.safetensors,u": (
        [
            *(("base", "M", MODEL), ("data", "data/pos.jsonl", DATA), ("data", "neg.jsonl", DATA)),
            *(("validation data", "v.jsonl", DATA), ("tracked", "w.safetensors", MODEL), ("tracked", "u", MODEL)),
        ],
        ["pos"],
    ),
    "finetune M org/name:train:0.5 --template t.jinja -o pos": (
        [("base", "M", MODEL), ("data", "org/name:train", DATA), ("template", "t.jinja", PATH)],
        ["pos"],
    ),
    "diff pos/ neg --base M -o w.safetensors --spectrum s": (
        [("pos", "pos", MODEL), ("neg", "neg", MODEL), ("base", "M", MODEL)],
        ["w.safetensors", "s"],
    ),
    "steer org/M w.safetensors --k 1": ([("base", "org/M", MODEL), ("delta", "w.safetensors", MODEL)], ["M-w-k1"]),
    "steer M@main run/checkpoint-8 --k -1.5 --as delta": (
        [("base", "M@main", MODEL), ("delta", "run/checkpoint-8", MODEL)],
        ["M-run-checkpoint-8-k-1.5.safetensors"],
    ),
    "steer M w --sweep=-1,2": ([("base", "M", MODEL), ("delta", "w", MODEL)], ["M-w-sweep-1,2"]),
    "steer M w --k 1 --dry-run": ([("base", "M", MODEL), ("delta", "w", MODEL)], []),
    "actvec M p.jsonl n.jsonl -o a.safetensors --export a.gguf --picture a.png": (
        [("model", "M", MODEL), ("pos", "p.jsonl", DATA), ("neg", "n.jsonl", DATA)],
        ["a.safetensors", "a.gguf", "a.png"],
    ),
    "actvec --import v.pt --base M -o a.safetensors": (
        [("vectors", "v.pt", PATH), ("base", "M", MODEL)],
        ["a.safetensors"],
    ),
    "eval M --delta b=w.safetensors@3 --checkpoints run --system p.txt --task agreement --task t.yaml -o e": (
        [
            *(("model", "M", MODEL), ("delta", "w.safetensors", MODEL), ("system", "p.txt", PATH)),
            *(("checkpoints", "run", PATH), ("task", "agreement", OWN), ("task", "t.yaml", PATH)),
        ],
        ["e"],
    ),
    "eval M --task inspect:wsteer/evil_mcqa --task inspect:wsteer/gsm8k -T evil_mcqa.data=../x.jsonl -o e": (
        [
            *(("model", "M", MODEL), ("task", "wsteer/evil_mcqa", OWN), ("data", "../x.jsonl", DATA)),
            *(("task", "wsteer/gsm8k", OWN), ("data", "openai/gsm8k/main:test", DATA)),
        ],
        ["e"],
    ),
    "eval M --task lm:gsm8k --task lm:my.yaml --task inspect:f.py@g --task perplexity:t -T judge_prompt=j.txt -o e": (
        [
            *(("model", "M", MODEL), ("task", "gsm8k", OWN), ("task", "my.yaml", PATH), ("task", "f.py", PATH)),
            *(("judge_prompt", "j.txt", PATH), ("texts", "t", DATA)),
        ],
        ["e"],
    ),
    "eval M --task agreement --data d.jsonl -o e": (
        [("model", "M", MODEL), ("task", "agreement", OWN), ("data", "d.jsonl", DATA)],
        ["e"],
    ),
    "monitor w --of a b --controls c --centre d --ceiling w=e --scores s.csv --correlate r.csv --base M -o m": (
        [
            *(("delta", "w", MODEL), ("item", "a", MODEL), ("item", "b", MODEL), ("control", "c", MODEL)),
            *(("centre", "d", MODEL), ("ceiling", "e", MODEL), ("base", "M", MODEL)),
            *(("scores", "s.csv", PATH), ("correlate", "r.csv", PATH)),
        ],
        ["m"],
    ),
    "monitor a --of d.jsonl org/x:test --base M --shift run -o m": (
        [
            *(("delta", "a", MODEL), ("item", "d.jsonl", DATA), ("item", "org/x:test", DATA)),
            *(("tuned model", "run", MODEL), ("base", "M", MODEL)),
        ],
        ["m"],
    ),
    "report logs more -o r.html": ([("log", "logs", PATH), ("log", "more", PATH)], ["r.html"]),
}


@pytest.mark.parametrize("line", LINES)
def test_inputs_and_outputs(line: str, tmp_path: Path) -> None:
    reads, writes = LINES[line]
    found = uses_of(parsed(line, tmp_path), tmp_path)
    assert sorted((each.role, each.name, each.kind) for each in found.inputs) == sorted(reads)
    assert [each.path for each in found.outputs] == writes


def made(line: str, folder: Path = Path()) -> Output:
    (output,) = uses_of(parsed(line, folder), folder).outputs
    return output


@pytest.mark.parametrize(
    ("line", "there", "never"),
    [
        ("generate M evil -o d", ["d", "d/pos.jsonl", "d/questions_eval.json"], ["d/judged.csv", "d/test.jsonl"]),
        ("generate M evil --judge a/b --all-questions -o d", ["d/judged.csv"], ["d/questions_eval.json"]),
        ("generate opinions -o d", ["d/pos.jsonl", "d/neg.jsonl"], ["d/rows.jsonl"]),
        ("generate gcd -o d", ["d/train_query.jsonl", "d/test.jsonl"], ["d/train.jsonl"]),
        ("finetune M x -o p", ["p/adapter_model.safetensors", "p/log.jsonl"], ["p/pos.jsonl", "p/checkpoint-8"]),
        ("finetune M x -o p --method bias", ["p/delta.safetensors"], ["p/adapter_config.json"]),
        ("finetune M x -o p --method full", ["p/config.json", "p/model.safetensors"], ["p/delta.safetensors"]),
        ("finetune M x -o p --max-steps 16 --save-every 8", ["p/checkpoint-8", "p/checkpoint-16"], ["p/checkpoint-24"]),
        ("finetune M x -o p --save-every 8", ["p/checkpoint-800/adapter_config.json"], ["p/8"]),
        ("finetune M x -o p --seeds 0,1", ["p/seed-0", "p/seed-1/log.jsonl"], ["p/seed-2", "p/log.jsonl"]),
        ("steer M w --sweep=-1,0.5 -o s", ["s/k-1", "s/k0.5"], ["pos/k1"]),
        ("steer M w --k 1 --as adapter -o s", ["s/adapter_config.json"], ["s/config.json"]),
        ("eval M --task agreement -o e", ["e/rows.jsonl", "e/report.html", "e/tradeoff.svg"], ["e/scores.csv"]),
        ("eval M --task agreement --checkpoints r -o e", ["e/scores.csv"], ["e/log.jsonl"]),
        ("monitor w -o m", ["m/similarity.json", "m/trajectory.csv"], ["m/results.json"]),
        ("diff a b -o w.safetensors", ["w.safetensors"], ["w.safetensors/x"]),
    ],
)
def test_which_files_a_folder_will_have(line: str, there: list[str], never: list[str]) -> None:
    output = made(line)
    assert [name for name in there if not output.makes(name)] == []
    assert [name for name in never if output.makes(name)] == []


def test_pairs_name_more_inputs_and_outputs(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pos.jsonl").touch()
    (tmp_path / "pairs.yaml").write_text("x: a\ny: {pos: [p.jsonl:2, org/n:train], neg: n.jsonl}\n")
    found = uses_of(parsed("finetune M --pairs pairs.yaml -o runs", tmp_path), tmp_path)
    names = {each.name for each in found.inputs if each.role == "data"}
    assert names == {"a/pos.jsonl", "a/neg.jsonl", "p.jsonl", "org/n:train", "n.jsonl"}
    (output,) = found.outputs
    assert output.makes("runs/x/w.safetensors") and output.makes("runs/y/pos") and not output.makes("runs/z/pos")


def test_a_task_file_names_its_data(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("name: t\ndata: rows.jsonl\n")
    (tmp_path / "rows.jsonl").touch()
    found = uses_of(parsed("eval M --task t.yaml -o e", tmp_path), tmp_path)
    assert Input("data", "rows.jsonl", DATA) in found.inputs


def test_values_from_a_config_count_and_the_file_is_an_input(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("output: from-config\nneg: neg\n")
    found = uses_of(parsed("diff pos --config c.yaml", tmp_path), tmp_path)
    assert [each.path for each in found.outputs] == ["from-config"]
    assert {"pos", "neg", "c.yaml"} == {each.name for each in found.inputs}
