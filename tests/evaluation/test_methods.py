"""What is compared: deltas, checkpoints, prompts and controls as conditions, all of it checked without a model."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.command import Inputs
from tests.helpers.tiny import save_adapter
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.evaluation.compared import Added, Compared
from wsteer.evaluation.evaluate import evaluate
from wsteer.evaluation.methods import Methods, open_methods, placed


def opened(inputs: Inputs, *added: Added | str | Path, ks: tuple[float, ...] = (1.0,), **options) -> Methods:
    given = [each if isinstance(each, Added) else Added(each) for each in added]
    return open_methods(open_checkpoint(inputs.tiny), Compared(given, ks if given else None, **options))


def labels(methods: Methods) -> list[str]:
    found = list(methods.conditions())
    assert len({each.name for each in found}) == len(found)
    return [each.label for each in found]


def run(folder: Path, steps: tuple[int, ...], base: Path) -> Path:
    """A training folder with an adapter at each of these steps."""
    for step in steps:
        save_adapter(folder / f"checkpoint-{step}", base, seed=step)
    return folder


def test_the_base_comes_first_and_once_whatever_k_are_given(inputs: Inputs) -> None:
    w = inputs.delta()
    for ks in ((0.0, 1.0), (-0.0, 1.0, 1.0), (1.0, 0.0), (1,)):
        assert labels(opened(inputs, w, ks=ks)) == ["base", "w k=1"]
    assert labels(opened(inputs, w, ks=(0.0,))) == ["base"]
    assert labels(opened(inputs, ks=(0.0,))) == ["base"]
    assert labels(opened(inputs, w, ks=(2, -1.5))) == ["base", "w k=2", "w k=-1.5"]


def test_each_kind_of_method_has_conditions_of_its_own(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "polite.txt").write_text("Be polite.\n")
    training = run(tmp_path / "ft", (2, 10), inputs.tiny)
    (training / "checkpoint-final").mkdir()
    methods = opened(
        inputs,
        inputs.delta(),
        Added(inputs.vectors(), layers=[1]),
        Added(inputs.vectors(), "everywhere", variant="all-layers"),
        Added(inputs.adapters[0], "τ⁺"),
        ks=(-1, 1),
        checkpoints=[training],
        systems=[str(tmp_path / "polite.txt"), "Be rude."],
        controls=["random", "shuffled"],
    )
    assert labels(methods) == [
        "base",
        *("w k=-1", "w k=1", "w random k=-1", "w random k=1", "w shuffled k=-1", "w shuffled k=1"),
        *("a@1 k=-1", "a@1 k=1", "a@1 random k=-1", "a@1 random k=1", "a@1 shuffled k=-1", "a@1 shuffled k=1"),
        *(f"everywhere{kind} k={k}" for kind in ("", " random", " shuffled") for k in (-1, 1)),
        *(f"τ⁺{kind} k={k}" for kind in ("", " random", " shuffled") for k in (-1, 1)),
        *("ft step 2", "ft step 10"),
        *("polite", "system 2"),
    ]
    by_label = {each.label: each for each in methods.conditions(model="m", seed=3)}
    assert {each.model for each in by_label.values()} == {"m"}
    assert by_label["polite"].system == "Be polite." and by_label["polite"].delta is None
    assert (by_label["a@1 k=1"].layers, by_label["a@1 k=1"].positions) == ((1,), "response")
    assert by_label["everywhere k=1"].variant == "all-layers"
    assert by_label["w k=1"].positions is None and by_label["w k=1"].layers is None
    assert by_label["w random k=1"].control == "random" and not by_label["w random k=1"].is_steered
    assert (by_label["ft step 10"].step, by_label["ft step 10"].k) == (10, 1.0)
    assert methods.files == (tmp_path / "polite.txt",)


def test_names_tell_deltas_apart_by_content(inputs: Inputs) -> None:
    """A delta that changed under the same path makes other conditions, so that no piece of the old one is reused."""
    names = []
    for size in (1.0, 2.0):
        w = inputs.delta(tensors={"model.norm.weight": torch.full((32,), size)})
        names.append([each.name for each in opened(inputs, w).conditions()])
    assert names[0][0] == names[1][0]
    assert names[0][1] != names[1][1]


def test_positions_layers_and_variant_are_parts_of_a_name(inputs: Inputs) -> None:
    a = inputs.vectors()
    found = [
        opened(inputs, Added(a, "a", layers=[1])),
        opened(inputs, Added(a, "a", layers=[2])),
        opened(inputs, Added(a, "a", layers=[1]), positions="all"),
        opened(inputs, Added(a, "a", variant="all-layers")),
    ]
    assert len({list(each.conditions())[1].name for each in found}) == len(found)


def test_each_block_is_a_method_and_all_layers_is_one(inputs: Inputs) -> None:
    a = inputs.vectors()
    methods = opened(inputs, Added(a, layers="each"))
    assert labels(methods) == ["base", "a@0 k=1", "a@1 k=1", "a@2 k=1"]
    assert [each.layers for each in methods.conditions()] == [None, (0,), (1,), (2,)]
    assert [list(delta.terms) for delta in methods.conditions().values() if delta] == [
        ["blocks.0"],
        ["blocks.1"],
        ["blocks.2"],
    ]
    (_, (condition, delta)) = opened(inputs, Added(a, variant="all-layers")).conditions().items()
    assert condition.label == "a@all-layers k=1" and delta is not None
    assert list(delta.terms) == ["blocks.0", "blocks.1"]  # the last block gains nothing


def test_what_others_call_a_block_is_told(inputs: Inputs) -> None:
    a = inputs.vectors()
    (note,) = opened(inputs, Added(a, layers=[1])).notes
    assert note == "a is added at block 1 (the paper's layer 2, hidden_states[2])"
    (note,) = opened(inputs, Added(a, layers="each")).notes
    assert "at block 0 (the paper's layer 1, hidden_states[1]) to block 2 (the paper's layer 3, before" in note
    (note,) = opened(inputs, Added(a, layers=[0, 2])).notes
    assert "hidden_states[1]) and block 2" in note
    assert opened(inputs, inputs.delta()).notes == ()


def test_activation_vectors_of_all_blocks_need_a_choice_that_names_both(inputs: Inputs) -> None:
    with pytest.raises(WsteerError, match=r"holds the activation vectors of 3 blocks.*--layers.*--variant all-layers"):
        opened(inputs, inputs.vectors())
    one = inputs.folder / "one.safetensors"
    Delta.of_tensors({"blocks.1": torch.ones(32)}, kind="activation").save(one)
    assert labels(opened(inputs, one)) == ["base", "one@1 k=1"]  # there is nothing to choose


def test_a_part_of_a_delta_is_kept_and_dropped(inputs: Inputs) -> None:
    methods = opened(inputs, inputs.adapters[0], attribute="layers", ks=(2,))
    found = labels(methods)
    assert found[:4] == ["base", "pos k=2", "pos keep layer 0 k=2", "pos drop layer 0 k=2"]
    assert found[4] == "pos random keep layer 0 k=2"
    assert len(found) == 2 + 3 * 3
    for ks in ((0,), (1, 2)):
        with pytest.raises(WsteerError, match=r"takes one change of weights.*and one k"):
            opened(inputs, inputs.adapters[0], attribute="layers", ks=ks)
    for others in ((inputs.adapters[1],), (Added(inputs.vectors(), layers=[1]),)):
        with pytest.raises(WsteerError, match="takes one change of weights"):
            opened(inputs, inputs.adapters[0], *others, attribute="layers")
    with pytest.raises(WsteerError, match="takes one change of weights"):
        opened(inputs, Added(inputs.vectors(), layers=[1]), attribute="layers")


@pytest.mark.parametrize("kind", ["weights", "adapter"])
@pytest.mark.parametrize("choice", [{"layers": "each"}, {"variant": "all-layers"}])
def test_what_is_for_activation_vectors_is_refused_for_weights(inputs: Inputs, kind: str, choice: dict) -> None:
    given = inputs.delta() if kind == "weights" else inputs.adapters[0]
    with pytest.raises(WsteerError, match=r"is a change of weights.*a.safetensors@(each|all-layers).*--attribute"):
        opened(inputs, Added(given, **choice))


@pytest.mark.parametrize(
    ("make", "options", "reason"),
    [
        (lambda i: [i.delta(), i.delta()], {}, "two conditions would be named 'w k=1'.*NAME=DELTA"),
        (lambda i: [i.delta(), Added(i.adapters[0], "w")], {}, "two conditions would be named 'w k=1'"),
        (lambda i: [Added(i.delta(), "base")], {}, "would be named 'base'"),
        (lambda i: [i.folder / "gone.safetensors"], {}, "gone.safetensors does not exist"),
        (lambda i: [i.delta("x", {"gone.weight": torch.ones(32)})], {}, "changes gone.weight"),
        (lambda i: [Added(i.delta(), layers=[1])], {}, "layers"),
        (lambda i: [Added(i.vectors(), layers=[3])], {}, "3"),
        (lambda i: [Added(i.vectors(), layers=[1], variant="all-layers")], {}, "leave out --layers"),
        (lambda i: [Added(i.vectors(), layers="each")], {"ks": (1, 2)}, "tries every block at one k"),
        (lambda i: [Added(i.vectors(), layers=[1])], {"positions": "answer"}, "positions is 'answer'"),
        (lambda i: [i.delta()], {"controls": ["noise"]}, "there is no control 'noise'"),
        (lambda i: [i.delta()], {"controls": ["random", "random"]}, "--control random is given twice"),
        (lambda i: [], {"checkpoints": ["nowhere"]}, "nowhere"),
        (lambda i: [], {"systems": ["Be kind."], "checkpoints": []}, None),
    ],
)
def test_what_does_not_fit_is_refused_before_a_model_is_loaded(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, make, options: dict, reason: str | None
) -> None:
    if reason is None:
        assert labels(opened(inputs, *make(inputs), **options)) == ["base", "system"]
        return
    with pytest.raises(WsteerError, match=reason):
        opened(inputs, *make(inputs), **options)


def test_a_training_without_checkpoints_and_an_empty_prompt_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    finished = shutil.copytree(inputs.adapters[0], tmp_path / "done")
    with pytest.raises(WsteerError, match=r"holds no folders checkpoint-N; .* give --delta .*done"):
        opened(inputs, checkpoints=[finished])
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(WsteerError, match="is no system prompt"):
        opened(inputs, systems=[str(tmp_path / "empty.txt")])
    with pytest.raises(WsteerError, match="--system is no system prompt: it has 1 characters"):
        opened(inputs, systems=[" "])
    for missing in ("polite.txt", "prompts/polite", "~/polite.md"):
        with pytest.raises(WsteerError, match="there is no such file"):
            opened(inputs, systems=[missing])
    assert labels(opened(inputs, systems=["Answer yes/no.", "Polite."])) == ["base", "system 1", "system 2"]
    with pytest.raises(WsteerError, match="would be named 'polite'; give each prompt once"):
        opened(inputs, systems=[str(inputs.text("polite.txt", "Be polite."))] * 2)
    assert labels(opened(inputs, systems=["See notes.txt"])) == ["base", "system"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ks": (1,)}, "--k needs a --delta"),
        ({"layers": [0]}, "--layers needs a --delta"),
        ({"variant": "all-layers"}, "--variant needs a --delta"),
        ({"controls": ["random"]}, "--control needs a --delta"),
        ({"calibrate": 0.5}, "--calibrate needs a --delta"),
        ({"attribute": "layers"}, "--attribute needs a --delta"),
        ({"delta": "W", "calibrate": 0.5, "ks": 1}, "leave out --k"),
        ({"delta": "W", "calibrate": 0.5, "attribute": "layers"}, "leave out --calibrate"),
        ({"delta": "W", "calibrate": 0.0}, "a KL is a positive number"),
        ({"delta": "W", "ks": float("nan")}, "nan"),
        ({"judges": ["mock/model"]}, "--judge grades inspect's tasks"),
        ({"choose": "max accuracy s.t. nonsense"}, "is no constraint"),
        ({"choose": "max wit"}, "no metric 'wit'; there are agreement, accuracy"),
        ({"fail_below": {"acuracy": 0.5}}, "no metric 'acuracy'.*did you mean accuracy"),
        ({"delta": "A"}, "holds the activation vectors of 3 blocks"),
    ],
)
def test_options_that_would_do_nothing_are_refused_before_the_model_is_loaded(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, options: dict, reason: str
) -> None:
    monkeypatch.delattr("wsteer.evaluation.evaluate.load")
    given = {"W": inputs.delta, "A": inputs.vectors}.get(options.get("delta", ""))
    changes = {"delta": given()} if given else {}
    with pytest.raises(WsteerError, match=reason):
        evaluate(inputs.tiny, inputs.folder / "r", "agreement", **{**options, **changes})
    assert not list(inputs.folder.glob("*r.*")) and not (inputs.folder / "r").exists()


def test_a_depth_is_the_number_of_the_block_that_is_there(inputs: Inputs) -> None:
    checkpoint = open_checkpoint(inputs.tiny)  # of 3 blocks
    depths = ("0%", "33.3%", "34%", "66.6%", "67%", "99.999999%")
    given = Compared([Added("a", layers=each) for each in depths], (1.0,))
    assert [each.layers for each in placed(given, checkpoint).added] == [[0], [0], [1], [1], [2], [2]]
    others = Compared([Added("a"), Added("a", layers="each"), Added("a", layers=[0, 2])])
    assert placed(others, checkpoint) == others
    for wrong in ("100%", "-1%", "some"):
        with pytest.raises(WsteerError, match=f"{wrong!r} is no depth"):
            placed(Compared([Added("a", layers=wrong)]), checkpoint)


def test_two_names_of_one_block_are_one_condition(inputs: Inputs) -> None:
    both = Compared([Added(inputs.vectors(), layers=each) for each in ("40%", [1])], (1.0,))
    checkpoint = open_checkpoint(inputs.tiny)
    with pytest.raises(WsteerError, match="two conditions would be named 'a@1 k=1'"):
        open_methods(checkpoint, placed(both, checkpoint))
