"""Options at their edges, configs, environments, terminals."""

import json

from tests.helpers.command import TRAIT, Inputs
from tests.helpers.promises.case import Case


def generate(inputs: Inputs, *more: object) -> list:
    """Arguments that answer a trait's questions."""
    return ["generate", inputs.tiny, inputs.text("trait.json", json.dumps(TRAIT)), *more, "-o", "out"]


def finetune(inputs: Inputs, *more: object, data: str = "") -> list:
    """Arguments that train on a few rows, `data` times."""
    return ["finetune", inputs.tiny, f"{inputs.chats[0]}{data}", *more, "-o", "out", "-q"]


def monitor(inputs: Inputs, *more: object) -> list:
    """Arguments that compare a delta with what `more` names."""
    return ["monitor", inputs.delta(), *more, "-o", "out", "-q"]


CASES = [
    Case("more samples than memory holds", lambda i: generate(i, "--samples", 100_000_000), "--samples 100000000 asks"),
    Case(
        "samples beyond any count",
        lambda i: generate(i, "--samples", 9_999_999_999),
        "less than or equal to 1000000000$",
        code=2,
    ),
    Case(
        "an answer longer than the model",
        lambda i: generate(i, "--max-new-tokens", 999_999_999),
        "is longer than the 2048 positions",
    ),
    Case("a rank beyond memory", lambda i: finetune(i, "--rank", 100_000_000), "--rank 100000000: lora of that size"),
    Case("a weight beyond all", lambda i: finetune(i, data=":999999999"), "the weight of a data set must be above 0"),
    Case(
        "a weight of 5,000 digits",
        lambda i: finetune(i, data=f":{'9' * 5000}"),
        "the weight of a data set must be above 0",
    ),
    Case("both of rows and weights", lambda i: finetune(i, "--max-steps", 10_000_000), "too many to plan"),
    Case("steps beyond planning", lambda i: finetune(i, "--max-steps", 999_999_999), "too many to plan"),
    Case("epochs beyond planning", lambda i: finetune(i, "--epochs", "1e9"), "too many to plan"),
    Case("endless epochs", lambda i: finetune(i, "--epochs", "inf"), "--epochs inf: a number above 0", code=2),
    Case("a rate twice", lambda i: finetune(i, "--lr=1e-3,1e-3"), "names a rate twice", code=2),
    Case("a seed twice", lambda i: finetune(i, "--seeds", "1,1"), "names a seed twice", code=2),
    Case("a module that is a regex", lambda i: finetune(i, "--modules-to-save", "("), "no name of a module", code=2),
    Case(
        "a k beyond float32",
        lambda i: ["steer", i.tiny, i.delta(), "--k", "1e39", "-o", "out"],
        "'1e39' is not finite, or too large for float32",
        code=2,
    ),
    Case(
        "an endless interval",
        lambda i: ["monitor", i.delta(), "--interval", "inf", "-o", "out"],
        "less than or equal to 86400",
        code=2,
    ),
    Case(
        "layers without end",
        lambda i: ["diff", *i.adapters, "--layers=0-9999999999", "-o", "out"],
        "is no whole number from 0 to 9999",
        code=2,
    ),
    Case(
        "an output twice",
        lambda i: ["diff", *i.adapters, "-o", "out", "--output", "b"],
        "is given 2 times; give it once",
        code=2,
    ),
    Case(
        "a user that does not exist", lambda i: ["diff", "~nosuchuser/x", "-o", "out"], "~nosuchuser/x does not exist"
    ),
    Case(
        "the debug variable off",
        lambda i: ["diff", "nosuch", "-o", "out"],
        "nosuch does not exist",
        environment={"WSTEER_DEBUG": "0"},
    ),
    Case(
        "a bomb of aliases as a config",
        lambda i: ["diff", "--config", i.text("c.yaml", "a: &a [x]\nb: &b [*a, *a]\npos: [*b, *b]"), "-o", "out"],
        "unknown key 'a'",
        code=2,
    ),
    Case(
        "a quote that stays open in a variable",
        lambda i: ["steer", i.tiny, i.delta(), "-o", "out"],
        "quoted as in a shell",
        code=2,
        environment={"WSTEER_STEER_K": "'1"},
    ),
    Case(
        "a second item after --of=A keeps the gate",
        lambda i: monitor(i, f"--of={i.adapters[0]}", i.adapters[1], "--fail-above", "neg=1"),
        "names no DELTA; they are w$",
    ),
    Case(
        "a gate spelt wrongly in a variable",
        lambda i: monitor(i),
        "WSTEER_MONITOR_FAILABOVE is set, but names no option",
        code=2,
        environment={"WSTEER_MONITOR_FAILABOVE": "w=0.5"},
    ),
    Case("a gate on one item", lambda i: monitor(i, "--of", i.delta(), "--fail-above", "w=0.5"), "compare w with"),
    Case(
        "a number of processes that is none",
        lambda i: finetune(i),
        "WORLD_SIZE='abc' is no number",
        environment={"WORLD_SIZE": "abc"},
    ),
    Case("a process alone", lambda i: finetune(i), "LOCAL_RANK are set, but not RANK", environment={"LOCAL_RANK": "0"}),
    Case(
        "processes without an address",
        lambda i: finetune(i),
        "RANK, WORLD_SIZE are set, but not LOCAL_RANK, MASTER_ADDR",
        environment={"WORLD_SIZE": "2", "RANK": "1"},
    ),
    Case(
        "deepspeed that is not there",
        lambda i: finetune(i),
        "deepspeed is not installed",
        environment={"ACCELERATE_USE_DEEPSPEED": "true"},
    ),
    Case("rows that train and validate", lambda i: finetune(i, "--val", i.chats[0]), "10 rows of --val are also"),
    Case("a rank without LoRA", lambda i: finetune(i, "--method", "full", "--rank", 4), "--rank is no option", code=2),
    Case("the mean of two", lambda i: monitor(i, i.adapters[0], "--centre", i.delta(), i.adapters[0]), "opposite"),
    Case("--until-step alone", lambda i: monitor(i, "--until-step", 1), "anything but --watch", code=2),
    Case("--interval alone", lambda i: monitor(i, "--interval", 10), "anything but --watch", code=2),
    Case("--dtype of cosines", lambda i: monitor(i, "--dtype", "float32"), "not used with cosines", code=2),
    Case("a device without float64", lambda i: monitor(i, "--device", "mps"), "--device mps: it has no float64"),
    Case("a k with _", lambda i: ["steer", i.tiny, i.delta(), "--k", "1_5", "-o", "out"], "not a number", code=2),
    Case("a rank with _", lambda i: finetune(i, "--rank", "1_0"), "is no number", code=2),
    Case(
        "a rank with _ in a variable",
        lambda i: finetune(i),
        "rank: '1_0' in WSTEER_FINETUNE_RANK",
        code=2,
        environment={"WSTEER_FINETUNE_RANK": "1_0"},
    ),
    Case(
        "a step scored twice",
        lambda i: monitor(i, "--scores", i.text("s.csv", "step,score\n1,2\n1,3\n")),
        "s.csv:3: the step 1 is given twice",
    ),
]
