"""Gcd and refusal: what is to be brought, what is left out, and both at small scale on a tiny model."""

import re
from pathlib import Path

import pytest

from tests.helpers.command import Cli
from tests.helpers.lines import PARSE
from tests.helpers.tiny import save_model
from wsteer.demo.checking import Checked, check
from wsteer.demo.experiment import commands, read_experiment
from wsteer.demo.findings import LEFT_OUT, judge
from wsteer.elicitation.trait import SHIPPED
from wsteer.evaluation.paper import gcd_sycophancy
from wsteer.evaluation.presentation.tradeoff import tradeoffs
from wsteer.evaluation.rows import Measure
from wsteer.files.text import read_json

NAMES = ("gcd", "refusal")
SCALES = ("small", "paper")
WITHOUT = {  # findings without results
    ("gcd", "small"): {"layers"},
    ("gcd", "paper"): set(),
    ("refusal", "small"): {"layers", "danger"},
    ("refusal", "paper"): {"danger-by-rule"},
}
BOTH = pytest.mark.parametrize(("name", "scale"), WITHOUT)


def checked(name: str, scale: str, folder: Path) -> Checked:
    experiment = read_experiment(name)
    model = experiment.scales[scale].values["model"]
    return check(commands(experiment, scale), experiment.bring, folder, model, PARSE)


def test_what_is_to_be_brought_is_for_the_paper_alone_and_beside_the_folder(tmp_path: Path) -> None:
    brought = {each.path for each in checked("refusal", "paper", tmp_path / "out").missing}
    assert brought == set(read_experiment("refusal").bring)
    assert all(path.startswith("../") and path.endswith(".jsonl") for path in brought)
    for name in NAMES:
        assert checked(name, "small", tmp_path / "out").brought == ()


@BOTH
def test_a_judge_is_asked_for_by_name_and_only_its_steps_are_left_out(name: str, scale: str, tmp_path: Path) -> None:
    left_out = [each.command for each in checked(name, scale, tmp_path / "out").steps if each.left_out is not None]
    assert [each.words[-1] for each in left_out] == (["judged"] if (name, scale) == ("refusal", "small") else [])
    assert [each.missing for each in left_out] == ["judge"] * len(left_out)


@BOTH
def test_each_finding_has_its_results_or_is_left_out(name: str, scale: str) -> None:
    experiment = read_experiment(name)
    made = {each.words[each.words.index("-o") + 1] for each in commands(experiment, scale) if not each.missing}
    assert {each.name for each in experiment.findings if each.results not in made} == WITHOUT[name, scale]


@pytest.mark.parametrize(("name", "trait"), [("gcd", "sycophancy"), ("refusal", "evil")])
def test_the_system_prompt_is_an_instruction_of_the_trait(name: str, trait: str) -> None:
    instructions = [each["neg"] for each in read_json(SHIPPED / f"{trait}.json")["instruction"]]
    for scale in SCALES:
        (last,) = (each for each in commands(read_experiment(name), scale) if each.words[-1] == "eval")
        assert last.words[last.words.index("--system") + 1] in instructions


def test_the_papers_layers_are_counted_from_0_and_joint_is_mixed_up_to_six_times() -> None:
    assert [read_experiment(name).scales["paper"].values["block"] for name in NAMES] == ["16", "16"]  # layer 17
    tuned = [each.words for each in commands(read_experiment("gcd"), "paper") if each.words[-1] == "gcd-joint"]
    assert [words[4] for words in tuned] == [f"data/neg.jsonl{times}" for times in ("", ":2", ":4", ":6")]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_small_runs_on_a_tiny_model_and_the_rules_name_what_it_finds(
    name: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_model(tmp_path / "tiny", num_hidden_layers=18, max_position_embeddings=2048)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    short = {r"max_tokens=\d+": "max_tokens=4"}
    numbers = {"--max-steps": "2", "--train": "20", "--test": "3", "--limit": "3", "--eval-every": "2"}
    experiment = read_experiment(name)
    for command in commands(experiment, "small", str(base)):
        if command.missing:
            continue
        words = [re.sub(each, to, word) for word in command.words for each, to in short.items()]
        words = [numbers.get(before, word) for before, word in zip(("", *words), words, strict=False)]
        ran = cli(*words, "--quiet")
        assert ran.code == 0, f"{command.text}\n{ran.err}"
    # the fine-tune less what it learnt is the model before it
    labels = {each["label"] for each in read_json(Path("eval/results.json"))["conditions"]}
    assert {"base", "untuned step 0", "system"} < labels and any(each.startswith("joint step ") for each in labels)
    judged = judge(experiment, "small", Path())
    assert {each.finding.name for each in judged if each.verdict == LEFT_OUT} == WITHOUT[name, "small"]
    for each in judged if name == "refusal" else ():  # about divisors a random model says nothing that a rule grades
        results = Path(each.finding.results)
        assert not results.exists() or (results / f"{each.finding.picture}.svg").exists(), each.finding.name


def test_the_pictures_of_gcd_are_trade_offs_that_eval_draws() -> None:
    measures = [Measure("gcd_sycophancy", metric, **each) for metric, each in gcd_sycophancy.MEASURES.items()]
    drawn = [(across.metric, up.metric) for across, up in tradeoffs(measures)]
    assert (drawn[0], drawn[-1]) == (("gcd_accuracy", "correctness"), ("gcd_accuracy", "disagreement"))
    named = {each.picture for each in read_experiment("gcd").findings}
    assert named == {"tradeoff", "tradeoff-gcd_sycophancy-disagreement", "layers"}
