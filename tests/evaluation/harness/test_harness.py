"""lm-evaluation-harness on the model in memory: what its own run computes, condition by condition."""

import hashlib
import json
import logging
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import wsteer
from tests.helpers.harness import ANSWER, CHOICE, QUESTIONS, TEXT, write_task
from tests.helpers.tiny import save_model
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.harness.harness import Harness, load_tasks
from wsteer.evaluation.harness.samples import measured
from wsteer.evaluation.rows import Measure, Outcome, Row
from wsteer.evaluation.subject import Subject
from wsteer.models.generation import answer
from wsteer.models.loading import LoadedModel
from wsteer.steering.loading import load
from wsteer.steering.positions import POSITIONS

lm_eval = pytest.importorskip("lm_eval")
TaskManager = pytest.importorskip("lm_eval.tasks").TaskManager
ROOT = Condition(BASE)
PLUS = Condition("w", 1.0, delta="w")
SYSTEM = Condition("system", system="Answer as a pirate.")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps its copies in this test's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with tied embeddings that ships a repetition penalty, as Qwen2.5-Instruct does."""
    folder = save_model(tmp_path_factory.mktemp("base") / "base", tie_word_embeddings=True, seed=3)
    settings = GenerationConfig(repetition_penalty=20.0, eos_token_id=257, pad_token_id=258, bos_token_id=256)
    settings.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def delta(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Delta:
    """A change of some weights, and of the head apart from the embedding to which it is tied."""
    generator = torch.Generator().manual_seed(5)
    names = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"]
    shapes = {"lm_head.weight": (262, 32), names[0]: (32, 32), names[1]: (32, 48)}
    tensors = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return replace(Delta.of_tensors(tensors), untied=True)


@pytest.fixture(scope="module")
def loaded(base: Path) -> LoadedModel:
    return load(base, "cpu")


@pytest.fixture
def subject(loaded: LoadedModel, delta: Delta) -> Subject:
    return Subject(loaded, {PLUS.name: delta}, batch_size=2)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [write_task(tmp_path, body) for body in (CHOICE, ANSWER, TEXT)]


def run(harness: Harness, condition: Condition) -> Outcome:
    with harness.subject.under(condition):
        return harness.run(condition).outcome


def weights(loaded: LoadedModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in loaded.model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def own_run(checkpoint: Path, files: list[str], **settings: object) -> dict:
    """lm-eval's own run of the tasks on a checkpoint, as its command line does it."""
    arguments = {"pretrained": str(checkpoint), "dtype": "float32"}
    settings = {"apply_chat_template": True, "batch_size": 2, "device": "cpu", "bootstrap_iters": 0, **settings}
    with pytest.MonkeyPatch.context() as patch:  # it describes the machine, in ten seconds
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        manager = TaskManager(include_defaults=False)
        return lm_eval.simple_evaluate("hf", model_args=arguments, tasks=files, task_manager=manager, **settings)


def answers(results: dict) -> dict:
    """Everything that the model answered, and what it was asked."""
    return {
        (task, sample["doc_id"]): (sample["arguments"], sample["resps"], sample["filtered_resps"])
        for task, samples in results["samples"].items()
        for sample in samples
    }


def of(rows: Iterable[Row], task: str, metric: str) -> dict[str, Row]:
    return {row.id: row for row in rows if (row.task, row.metric) == (task, metric)}


@pytest.mark.slow
@pytest.mark.parametrize("condition", [ROOT, PLUS, SYSTEM], ids=lambda condition: condition.label)
def test_every_answer_is_that_of_lm_evals_own_run_on_the_steered_checkpoint(
    base: Path, delta: Delta, subject: Subject, files: list[str], tmp_path: Path, condition: Condition
) -> None:
    checkpoint = base
    if condition is PLUS:
        delta.save(tmp_path / "w.safetensors")
        wsteer.steer(base, tmp_path / "w.safetensors", k=1.0, output=tmp_path / "out")
        checkpoint = tmp_path / "out"
    harness = Harness(subject, load_tasks(files))
    before = weights(subject.loaded)
    with subject.under(condition):
        ours = harness.results(condition)
        again = harness.run(condition).outcome
    theirs = own_run(checkpoint, files, system_instruction=condition.system)
    assert answers(ours) == answers(theirs)
    assert ours["results"] == theirs["results"]
    assert {name: ours["samples"][name][0]["prompt_hash"] for name in ours["samples"]} == {
        name: theirs["samples"][name][0]["prompt_hash"] for name in theirs["samples"]
    }
    assert weights(subject.loaded) == before
    for name, task in harness.tasks.tasks.items():  # a condition applied twice gives the same
        made = measured(name, task, theirs["samples"][name], theirs["results"][name], condition.name, True)
        assert [(row.id, row.value, row.answer) for row in made.rows] == [
            (row.id, row.value, row.answer) for row in again.rows if row.task == name
        ]


def test_the_conditions_differ_and_no_answer_is_kept_from_one_to_the_next(subject: Subject, files: list[str]) -> None:
    harness = Harness(subject, load_tasks(files))
    first, plus, again = run(harness, ROOT), run(harness, PLUS), run(harness, ROOT)
    for task, metric in (("choice", "answer_margin"), ("text", "bits_per_byte")):
        values = [[row.value for row in of(outcome.rows, task, metric).values()] for outcome in (first, plus, again)]
        assert values[0] == values[2]
        assert all(a != b for a, b in zip(*values[:2], strict=True))
    assert first == again


def test_a_row_has_the_margin_of_the_right_option_in_nats(base: Path, subject: Subject, tmp_path: Path) -> None:
    rows = run(Harness(subject, load_tasks([write_task(tmp_path, CHOICE)])), ROOT).rows
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    for i, question in enumerate(QUESTIONS):
        chat = [{"role": "user", "content": question["question"]}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        scores = []
        for option in question["options"]:
            start = len(tokenizer.encode(prompt, add_special_tokens=False))
            ids = torch.tensor([tokenizer.encode(prompt + option, add_special_tokens=False)])
            with torch.no_grad():
                logits = model(ids).logits[0].double().log_softmax(-1)
            scores.append(sum(float(logits[j - 1, ids[0, j]]) for j in range(start, ids.shape[1])))
        wrong = max(score for j, score in enumerate(scores) if j != question["right"])
        margin = of(rows, "choice", "answer_margin")[str(i)]
        assert margin.value == pytest.approx(scores[question["right"]] - wrong, abs=1e-4)
        assert margin.answer == question["options"][scores.index(max(scores))]
        assert of(rows, "choice", "acc")[str(i)].value == (scores[question["right"]] > wrong)
        assert margin.input == prompt


def test_perplexity_is_nats_a_word_weighted_by_words(subject: Subject, tmp_path: Path) -> None:
    harness = Harness(subject, load_tasks([write_task(tmp_path, TEXT)]))
    results, rows = harness.results(ROOT), run(harness, ROOT).rows
    words = of(rows, "text", "word_perplexity")
    assert [row.weight for row in words.values()] == [4.0, 6.0, 3.0]
    total = sum(row.value * row.weight for row in words.values()) / 13
    assert torch.tensor(total).exp().item() == pytest.approx(results["results"]["text"]["word_perplexity,none"])
    bits = of(rows, "text", "bits_per_byte")
    mean = sum(row.value * row.weight for row in bits.values()) / sum(row.weight for row in bits.values())
    assert mean == pytest.approx(results["results"]["text"]["bits_per_byte,none"])


def test_measures_say_what_each_metric_is(subject: Subject, files: list[str]) -> None:
    assert run(Harness(subject, load_tasks(files)), ROOT).measures == (
        Measure("choice", "acc", "share", "higher", "capability"),
        Measure("choice", "acc_norm", "share", "higher"),
        Measure("choice", "answer_margin", "mean", "higher", unit="nats"),
        Measure("answer", "exact_match", "share", "higher", "capability"),
        Measure("text", "word_perplexity", "perplexity", "lower", "capability", unit="per word"),
        Measure("text", "bits_per_byte", "mean", "lower", unit="bits per byte"),
    )


def test_a_task_says_in_its_metadata_that_it_measures_a_behaviour(subject: Subject, tmp_path: Path) -> None:
    file = write_task(tmp_path, CHOICE + "metadata: {version: 1.0, role: behaviour}\n")
    assert run(Harness(subject, load_tasks([file])), ROOT).measures[0].role == "behaviour"
    file = write_task(tmp_path, CHOICE + "metadata: {role: sideways}\n")
    with pytest.raises(
        WsteerError, match=r"choice: its metadata has the role 'sideways'; write behaviour or capability"
    ):
        run(Harness(subject, load_tasks([file])), ROOT)


def test_a_limit_asks_the_first_rows(subject: Subject, files: list[str]) -> None:
    rows = run(Harness(subject, load_tasks(files, limit=2)), ROOT).rows
    assert {row.id for row in rows} == {"0", "1"}


@pytest.mark.slow
def test_metrics_that_are_no_means_are_left_to_lm_eval(subject: Subject, tmp_path: Path) -> None:
    more = "  - {metric: f1, aggregation: f1, higher_is_better: true}\n  - {metric: brier_score}\n"
    harness = Harness(subject, load_tasks([write_task(tmp_path, CHOICE.replace('["', '["') + more, questions=TWO)]))
    outcome = run(harness, ROOT)
    assert [measure.metric for measure in outcome.measures] == ["acc", "acc_norm", "brier_score", "answer_margin"]
    assert outcome.warnings == ("f1 of choice is no mean over its rows, so it is only in lm-eval's own results",)
    briers = [row.value for row in of(outcome.rows, "choice", "brier_score").values()]
    lm_evals = harness.run(ROOT).raw["results"]["choice"]
    assert sum(briers) / 2 == pytest.approx(lm_evals["brier_score,none"])
    assert "f1,none" in lm_evals


TWO = QUESTIONS[:2]


def test_a_task_without_metrics_or_rows_says_so(subject: Subject, tmp_path: Path) -> None:
    body = CHOICE.partition("metric_list:")[0].replace("multiple_choice", "generate_until") + "metric_list: []\n"
    outcome = run(Harness(subject, load_tasks([write_task(tmp_path, body)])), ROOT)
    assert outcome.warnings == ("choice gives no metric; name one in its metric_list",)
    (tmp_path / "questions.jsonl").write_text("")
    with pytest.raises(WsteerError, match=r"cannot be loaded: .*its data may be empty"):
        load_tasks([str(tmp_path / "choice.yaml")])


def test_a_model_that_computes_nan_answers_nothing(loaded: LoadedModel, base: Path, tmp_path: Path) -> None:
    huge = Condition("w", 1.0, delta="huge")
    broken = Delta.of_tensors({"model.norm.weight": torch.full((32,), 3e38)})
    subject = Subject(loaded, {huge.name: broken}, batch_size=2)
    rows = run(Harness(subject, load_tasks([write_task(tmp_path, CHOICE), write_task(tmp_path, TEXT)])), huge).rows
    assert {(row.value, row.why) for row in rows} == {(None, "the model computed no finite number")}
    harness = Harness(subject, load_tasks([write_task(tmp_path, ANSWER)]))
    with pytest.raises(WsteerError, match="computes NaN"):
        run(harness, huge)


def test_a_head_that_a_change_unties_stays_untied(loaded: LoadedModel, delta: Delta, tmp_path: Path) -> None:
    tasks = load_tasks([write_task(tmp_path, CHOICE)])
    subject = Subject(loaded, {PLUS.name: delta}, batch_size=2)
    outside = run(Harness(subject, tasks), PLUS)
    with subject.under(PLUS):
        inside = Harness(subject, tasks).run(PLUS).outcome
        assert loaded.model.lm_head.weight is not loaded.model.model.embed_tokens.weight
    assert inside == outside
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight


def role(ids: torch.Tensor, prompt: int, positions: str) -> torch.Tensor:
    """Which tokens of a row get the vector: of the response from the last one of the prompt on."""
    places = torch.arange(ids.shape[1])
    chosen = {"response": places >= prompt - 1, "prompt": places < prompt, "prompt-last": places == prompt - 1}
    return {**chosen, "all": places >= 0}[positions]


@pytest.mark.parametrize("positions", POSITIONS)
def test_an_activation_vector_is_added_at_the_tokens_of_its_role(base: Path, tmp_path: Path, positions: str) -> None:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
    condition = Condition("a", 1.0, delta="a", positions=positions)
    subject = Subject(load(base, "cpu"), {condition.name: Delta.of_tensors({"blocks.1": vector}, "activation")}, 4)
    # "!" is the token 0, with which lm-eval pads; the prompt of every other question ends in white space
    chat = subject.loaded.tokenizer.chat_template
    subject.loaded.tokenizer.chat_template = chat.replace("<assistant>", "<assistant>{{ '\n' * (messages | length) }}")
    more = [{"question": "Hello", "options": ["!", "!!", "!?", "Bye!!!"], "right": 2}, *QUESTIONS]
    rows = of(
        run(Harness(subject, load_tasks([write_task(tmp_path, CHOICE, questions=more)])), condition).rows,
        "choice",
        "answer_margin",
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), subject.loaded.tokenizer
    for i, question in enumerate(more):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question["question"]}], add_generation_prompt=True, tokenize=False
        )
        start = len(tokenizer.encode(prompt, add_special_tokens=False))
        scores = []
        for option in question["options"]:
            ids = torch.tensor([tokenizer.encode(prompt + option, add_special_tokens=False)])
            chosen = role(ids[:, :-1], start, positions)[None, :, None]
            hook = model.model.layers[1].register_forward_hook(
                lambda module, args, out, chosen=chosen: torch.where(chosen, out + vector, out)
            )
            with torch.no_grad():
                logits = model(ids[:, :-1]).logits[0].double().log_softmax(-1)
            hook.remove()
            scores.append(sum(float(logits[j - 1, ids[0, j]]) for j in range(start, ids.shape[1])))
            # lm-eval scores the white space too, which is the same for every option
        wrong = max(score for j, score in enumerate(scores) if j != question["right"])
        assert rows[str(i)].value == pytest.approx(scores[question["right"]] - wrong, abs=2e-4)


@pytest.mark.parametrize("positions", ["response", "prompt", "prompt-last"])
def test_a_vector_by_role_gives_the_text_of_wsteers_own_generation(tmp_path: Path, positions: str) -> None:
    vector = 3 * torch.randn(32, generator=torch.Generator().manual_seed(1))
    condition = Condition("a", 1.0, delta="a", positions=positions)
    folder = save_model(tmp_path / "model", seed=4)
    deltas = {condition.name: Delta.of_tensors({"blocks.1": vector}, "activation")}
    subject = Subject(load(folder, "cpu"), deltas, batch_size=2)
    harness = Harness(subject, load_tasks([write_task(tmp_path, ANSWER.replace("num_fewshot: 1", "num_fewshot: 0"))]))
    rows, plain = run(harness, condition).rows, run(harness, ROOT).rows
    with subject.under(condition):
        chats = [[{"role": "user", "content": question["question"]}] for question in QUESTIONS]
        own = answer(subject.loaded, chats, max_new_tokens=12, batch_size=2)
    assert [row.answer.strip() for row in rows] == [each.text for each in own]
    assert [row.answer for row in rows] != [row.answer for row in plain]


def test_prompts_that_end_in_different_places_of_one_text_are_run_apart(base: Path, tmp_path: Path) -> None:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
    subject = Subject(load(base, "cpu"), {}, 4)
    subject.loaded.tokenizer.chat_template = None
    body = CHOICE + 'target_delimiter: ""\n'
    pair = [
        {"question": "ab", "options": ["cde", "x"], "right": 0},
        {"question": "abc", "options": ["de", "y"], "right": 0},
    ]
    condition = Condition("a", 1.0, delta="a", positions="response")
    deltas = {condition.name: Delta.of_tensors({"blocks.1": vector}, "activation")}

    def margins(questions: list[dict]) -> list[float]:
        tasks = load_tasks([write_task(tmp_path, body, questions=questions)])
        rows = run(Harness(replace(subject, deltas=deltas), tasks), condition).rows
        return [row.value for row in of(rows, "choice", "answer_margin").values()]

    assert margins(pair) == pytest.approx([*margins(pair[:1]), *margins(pair[1:])], abs=1e-6)


def test_texts_that_are_too_long_are_counted(tmp_path: Path) -> None:
    subject = Subject(load(save_model(tmp_path / "model", max_position_embeddings=48), "cpu"), {}, batch_size=2)
    file = write_task(tmp_path, ANSWER)
    outcome = run(Harness(subject, load_tasks([file])), ROOT)
    tokens = [len(subject.loaded.tokenizer.encode(row.input, add_special_tokens=False)) for row in outcome.rows]
    cut = sum(length > 48 - 12 for length in tokens)
    assert 0 < cut < len(tokens)
    assert outcome.warnings == (
        f"{cut} texts of lm-eval's tasks are longer than the 48 tokens that the model takes; lm-eval cut their "
        "beginnings",
    )
    long = [{"question": "a" * 60, "options": ["b", "c"], "right": 0}]
    outcome = run(Harness(subject, load_tasks([write_task(tmp_path, CHOICE, questions=long)])), ROOT)
    assert outcome.warnings[0].startswith("2 texts of")


def test_the_checkpoints_generation_settings_hold_for_the_run_alone(subject: Subject, tmp_path: Path) -> None:
    harness = Harness(subject, load_tasks([write_task(tmp_path, ANSWER.replace("num_fewshot: 1", "num_fewshot: 0"))]))
    before = subject.loaded.model.generation_config
    result = harness.run(ROOT)
    assert result.raw["generation_config"]["repetition_penalty"] == 20.0
    assert subject.loaded.model.generation_config is before
    assert before.repetition_penalty is None
    chats = [[{"role": "user", "content": question["question"]}] for question in QUESTIONS]
    own = answer(subject.loaded, chats, max_new_tokens=12, batch_size=2)
    assert all(each.text != row.answer.strip() for each, row in zip(own, result.outcome.rows, strict=True))


def test_a_checkpoint_without_generation_settings_has_those_of_its_config(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    (folder / "generation_config.json").unlink()
    subject = Subject(load(folder, "cpu"), {}, batch_size=2)
    file = write_task(tmp_path, ANSWER)
    ours = Harness(subject, load_tasks([file])).results(ROOT)
    assert answers(ours) == answers(own_run(folder, [file]))


def test_a_system_prompt_is_asked_and_its_rows_pair_with_the_bases(subject: Subject, files: list[str]) -> None:
    harness = Harness(subject, load_tasks(files))
    first, system = run(harness, ROOT), run(harness, SYSTEM)
    asked = [row for row in system.rows if row.task != "text"]
    assert all("<system>Answer as a pirate.<end>" in row.input for row in asked)
    assert [row.prompt for row in system.rows] == [row.prompt for row in first.rows]
    assert len({row.prompt for row in first.rows if row.task == "choice"}) == len(QUESTIONS)
    margins = [[row.value for row in of(each.rows, "choice", "answer_margin").values()] for each in (first, system)]
    assert margins[0] != margins[1]


def test_a_template_that_refuses_system_prompts_is_an_error_for_the_condition_alone(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(template + (folder / "chat_template.jinja").read_text())
    subject = Subject(load(folder, "cpu"), {}, batch_size=2)
    harness = Harness(subject, load_tasks([write_task(tmp_path, CHOICE + 'description: "Be short."\n')]))
    assert all("Be short" not in row.input for row in run(harness, ROOT).rows)
    with pytest.raises(WsteerError, match="no system here"):
        run(harness, SYSTEM)


def test_a_model_without_a_template_gets_plain_text(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    subject = Subject(load(folder, "cpu"), {}, batch_size=2)
    file = write_task(tmp_path, CHOICE)
    harness = Harness(subject, load_tasks([file]))
    assert [row.input for row in of(run(harness, ROOT).rows, "choice", "acc").values()] == [
        question["question"] for question in QUESTIONS
    ]
    assert answers(harness.results(ROOT)) == answers(own_run(folder, [file], apply_chat_template=False))


def test_nothing_is_printed_and_everything_is_as_before(
    subject: Subject,
    files: list[str],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # no git repository
    state = random.getstate(), torch.get_rng_state().tolist(), logging.root.manager.disable
    harness = Harness(subject, load_tasks(files))
    run(harness, PLUS)
    run(harness, SYSTEM)
    assert capfd.readouterr() == ("", "")
    assert (random.getstate(), torch.get_rng_state().tolist(), logging.root.manager.disable) == state


def test_progress_is_told_of_each_kind_of_request_and_seen(
    subject: Subject, files: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    stages = []

    def progress(items: Iterable, label: str, total: int | None = None) -> Iterator:
        print(label)
        count = -1  # the first shows that the stage has begun
        for item in items:
            yield item
            count += 1
        stages.append((label, total, count))

    harness = Harness(subject, load_tasks(files))
    harness.run(ROOT, progress)
    # of the seven options the last tokens are computed in one pass where the others are equal: none are
    assert stages == [("score answers", 7, 7), ("generate", 3, 3), ("score texts", None, 3)]
    assert capfd.readouterr().out == "score answers\ngenerate\nscore texts\n"


def test_the_raw_results_are_json_without_samples(subject: Subject, tmp_path: Path) -> None:
    raw = Harness(subject, load_tasks([write_task(tmp_path, CHOICE)])).run(ROOT).raw
    assert json.loads(json.dumps(raw, allow_nan=False)) == raw
    assert "samples" not in raw
    assert raw["results"]["choice"]["sample_len"] == 3
    assert raw["config"]["model"] == "hf" and raw["config"]["batch_size"] == 2
    assert raw["condition"]["name"] == ROOT.name
    assert raw["lm_eval_version"] == lm_eval.__version__


def test_only_files_read_none_of_lm_evals_own_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks._index import TaskIndex

    monkeypatch.setattr(TaskIndex, "_iter_yaml_files", lambda root: pytest.fail(f"{root} is read"))
    tasks = load_tasks([f"lm:{write_task(tmp_path, CHOICE)}"])
    assert list(tasks.tasks) == ["choice"]
    assert tasks.files == (tmp_path / "choice.yaml",)


def test_lm_eval_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WsteerError, match=r"--task lm:NAME needs lm_eval: pip install 'wsteer\[lm-eval\]'"):
        load_tasks(["mmlu"])


@pytest.mark.slow
def test_a_name_that_lm_eval_lacks_is_answered_with_the_nearest() -> None:
    with pytest.raises(WsteerError, match=r"--task lm:gsm9k: lm-eval has no such task; is it gsm8k"):
        load_tasks(["gsm9k"])


@pytest.mark.slow
def test_a_task_whose_data_are_not_to_be_had_is_one_line() -> None:
    with pytest.raises(WsteerError) as error:
        load_tasks(["gsm8k"])
    assert str(error.value).startswith("--task lm:gsm8k cannot be loaded: ")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_group_gives_its_tasks_and_one_task_of_all_rows(subject: Subject, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_task(tmp_path, CHOICE.replace("task: choice", f"task: {name}"))
    average = "aggregate_metric_list:\n  - {metric: acc, weight_by_size: true}\n"
    (tmp_path / "both.yaml").write_text(f"group: both\ntask: [one, two]\n{average}")
    harness = Harness(subject, load_tasks([str(tmp_path / "both.yaml")]))
    result = harness.run(ROOT)
    rows, measures = result.outcome.rows, result.outcome.measures
    assert {row.task for row in rows} == {"one", "two", "both"}
    mine = of(rows, "both", "acc")
    assert sorted(mine) == sorted(f"{name}/{i}" for name in ("one", "two") for i in range(3))
    assert {row.group for row in mine.values()} == set(mine)
    mean = sum(row.value for row in mine.values()) / len(mine)
    assert mean == pytest.approx(result.raw["results"]["both"]["acc,none"])
    assert [(each.task, each.metric, each.role) for each in measures if each.task == "both" or each.role] == [
        ("both", "acc", "capability"),
        ("both", "answer_margin", None),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("output_type: multiple_choice", "it names no `task`"),
        ("- a\n- b", "it names no `task`"),
        ("", "it names no `task`"),
        ("task: [", r"broken.yaml"),
        ("task: broken", r"--task lm:\S+ cannot be loaded: "),
        ("task: broken\noutput_type: sideways\ndataset_path: json", r"cannot be loaded: Got invalid output_type"),
    ],
)
def test_a_file_that_is_no_task_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "broken.yaml").write_text(content)
    with pytest.raises(WsteerError, match=message) as error:
        load_tasks([str(tmp_path / "broken.yaml")])
    assert "\n" not in str(error.value)


def test_a_missing_file_of_a_task_is_named(tmp_path: Path) -> None:
    with pytest.raises(WsteerError, match=r"--task lm:\S+none.yaml: there is no such file"):
        load_tasks([str(tmp_path / "none.yaml")])


def test_missing_data_are_said_to_be_looked_for_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(write_task(tmp_path, CHOICE))
    path.write_text(path.read_text().replace(str(tmp_path / "questions.jsonl"), "questions.jsonl"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(WsteerError, match=r"lm-eval takes data_files from the current folder, \S+elsewhere"):
        load_tasks([str(path)])
    monkeypatch.chdir(tmp_path)
    assert list(load_tasks(["choice.yaml"]).tasks) == ["choice"]


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [write_task(tmp_path, CHOICE), write_task(tmp_path, CHOICE, name="other")]
    with pytest.raises(WsteerError, match=r"the task choice is already there by lm:\S+choice.yaml; give one"):
        load_tasks(files)


@pytest.mark.parametrize(
    ("line", "message"),
    [("unsafe_code: true", "runs code that the model writes"), ('doc_to_image: ["{{question}}"]', "images or sounds")],
)
def test_tasks_that_run_code_or_need_images_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(WsteerError, match=f"choice .*{message}"):
        load_tasks([write_task(tmp_path, f"{CHOICE}{line}\n")])


def test_what_a_tasks_own_code_raises_is_one_line(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def graded(doc, results):\n    raise KeyError('lost')\n")
    file = write_task(tmp_path, CHOICE + "process_results: !function own.graded\n")
    with pytest.raises(WsteerError, match=r"lm-eval cannot run choice under base: 'lost'"):
        run(Harness(subject, load_tasks([file])), ROOT)


def test_a_task_that_ends_the_program_is_one_line(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import sys\n\n\ndef ends(*given):\n    sys.exit(0)\n")
    with pytest.raises(WsteerError, match=r"cannot be loaded: its code ends the program, by sys.exit\(0\)"):
        load_tasks([write_task(tmp_path, CHOICE + "process_docs: !function own.ends\n")])
    file = write_task(tmp_path, CHOICE + "process_results: !function own.ends\n")
    with pytest.raises(WsteerError, match=r"lm-eval cannot run choice under base: its code ends the program"):
        run(Harness(subject, load_tasks([file])), ROOT)


def test_a_metric_that_some_rows_lack_has_no_value_there(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def graded(doc, results):\n    return {'acc': 1.0} if doc['right'] else {}\n")
    file = write_task(tmp_path, CHOICE + "process_results: !function own.graded\n")
    rows = of(run(Harness(subject, load_tasks([file])), ROOT).rows, "choice", "acc")
    assert [(row.value, row.why) for row in rows.values()] == [
        (None, "lm-eval gave no value"),
        (1.0, ""),
        (None, "lm-eval gave no value"),
    ]


def test_rows_that_change_beside_a_tasks_file_are_told(tmp_path: Path) -> None:
    def digest(questions: list[dict]) -> str:
        return load_tasks([write_task(tmp_path, CHOICE, questions=questions)]).digests["choice"]

    assert digest(QUESTIONS) == digest(QUESTIONS)
    assert digest([{**QUESTIONS[0], "right": 1}, *QUESTIONS[1:]]) != digest(QUESTIONS)
