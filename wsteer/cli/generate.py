"""wsteer generate: contrastive data from a trait, answers to prompts, wsteer's own data sets, GCD questions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from wsteer.cli.generate_tables import answer_lines, gcd_lines, set_lines, set_names, trait_lines
from wsteer.cli.options import (
    Batch,
    Columns,
    Config,
    DateOption,
    Deltas,
    DeviceOption,
    DtypeOption,
    FollowLinks,
    Force,
    Json,
    Ks,
    LayersOrEach,
    PositionsOption,
    Quiet,
    RoundingOption,
    Seed,
    Template,
    TemplateArgs,
    Variant,
    argument,
    check_early,
    option,
)
from wsteer.cli.output import Printer
from wsteer.cli.values import MOST, parse_added, parse_batch_size, parse_blocks, parse_ks

EPILOG = """
Modes: INPUT is a trait (a name, or a .json file that is no list of rows),
  whose questions are answered under its opposite instructions: -o is a
  folder. Any other INPUT is prompts to answer: -o is a JSONL file. Two
  need no model and no INPUT: wsteer generate SET -o DIR writes one of
  wsteer's own data sets, wsteer generate gcd -o DIR questions about
  greatest common divisors.
Sets: --list-sets tells what there is. Questions with two answers become
  pos.jsonl and neg.jsonl; other rows are in rows.jsonl, or in train.jsonl,
  test.jsonl and so on. A model's folder with the name of a set is that
  model, if INPUT is given.
Prompts: JSONL, whose rows have messages, or prompt, or any shape that
  wsteer finetune reads (--columns names others), an answer at their end
  left out; or a text file, each line of which is a prompt; or a Hub data
  set org/name:split. - is standard input. Each is answered as MODEL plus k
  times each --delta [NAME=]DELTA[@LAYERS] answers it, with the same bits as
  the checkpoint that wsteer steer writes; MODEL as it is answers if no
  --delta is given, or if 0 is among the --k. Activation vectors are added
  as wsteer eval adds them; @40% is the block at 40% of the model's depth,
  of 30 blocks block 12. By default an answer is greedy; several
  --samples are drawn at temperature 1. Sample n of prompt m has the same
  noise under every k, in any batch.
Answers: a row for each prompt, condition and sample, in this order: index,
  prompt, condition, delta, k, sample, answer, finished (false where the
  limit of tokens cut it), thought if there is one, and messages if there is
  more than the prompt. Equal prompts have rows of their own. The first row
  also has the record of the run, as JSON, under wsteer.
Trait: the name of one of wsteer's own (--list-traits), or JSON in the
  schema of persona vectors: "instruction", a list of {"pos", "neg"} pairs
  of opposite instructions; "questions", two or more; "eval_prompt", a
  judge's question with {question} and {answer}, for a score of 0 to 100 or
  REFUSAL.
Questions: half of them, chosen by --seed, are kept for evaluation
  (questions_eval.json). Each of the others is answered --samples times
  under each instruction. Published traits have two files of questions:
  give one as INPUT and the other to --questions-eval. --all-questions keeps
  none.
Judge: a pair (the same question, instructions and sample) stays where pos
  has the trait (a score of 50 or more), neg has not (below 50), and both
  are coherent (50 or more), as persona vectors do; judged.csv has all
  scores, and judging/ the logs. If a judge fails, the answers are kept:
  repeat the command with --resume, also with another --judge.
Balance: balance.csv compares pos with neg in length, refusals, repetition,
  openings and echoes of the instruction by Cohen's d; a warning names those
  that differ by more than 0.5, which training can learn for the trait.
Rows: pos.jsonl and neg.jsonl hold questions and answers without the
  instruction, so training has to put the behaviour into the weights.
  --keep-system leaves it in: persona vectors average activations under it.
  Empty answers are left out and counted; so are thoughts that the limit of
  tokens cut before an answer. A thought before an answer is left out, by
  the marks of the model's own chat template. The sampling of a row depends
  on --seed and the row, not on its batch. A model of a few hundred million
  parameters follows instructions poorly: read some rows before you train on
  them.
Templates: --template FILE is the chat template of a model that has none, or
  instead of its own; --template-args are its arguments, in a config file a
  mapping. A template that writes the day writes --date, the same on every
  machine and day. What is not given is as wsteer finetune had it, where it
  made the model or the adapter.
"""
TRAIT, PROMPTS, GCD, SET = "a trait", "prompts", "gcd", "a set"
# where an option has a meaning; those that are not listed have one everywhere
MEANT_FOR: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("delta", "k", "layers", "variant", "positions", "rounding", "system", "columns"), (PROMPTS,)),
    **dict.fromkeys(("all_questions", "questions_eval", "assistant", "keep_system", "drop_cut"), (TRAIT,)),
    **dict.fromkeys(("judge", "resume"), (TRAIT,)),
    **dict.fromkeys(("train", "test"), (GCD,)),
    **dict.fromkeys(("samples", "max_new_tokens", "temperature", "batch_size", "device", "dtype"), (TRAIT, PROMPTS)),
    **dict.fromkeys(("template", "template_args", "date", "follow_links"), (TRAIT, PROMPTS)),
    "seed": (TRAIT, PROMPTS, GCD),
}


def show_traits(context: typer.Context, wanted: bool) -> None:
    """Print the names of wsteer's own traits, and end the program."""
    if not wanted or context.resilient_parsing:
        return
    from wsteer.elicitation.trait import shipped_traits

    Printer().result({}, shipped_traits())
    raise typer.Exit


def show_sets(context: typer.Context, wanted: bool) -> None:
    """Print the names of wsteer's own data sets, each with what its rows are, and end the program."""
    if not wanted or context.resilient_parsing:
        return
    from wsteer.elicitation.shipped_sets import shipped_sets

    Printer().result({}, set_names(shipped_sets()))
    raise typer.Exit


def generate(
    context: typer.Context,
    model: Annotated[
        str,
        argument(
            "MODEL", help="Checkpoint or adapter: a folder or a Hub id (org/name[@revision]); or a set or gcd, alone."
        ),
    ],
    output: Annotated[
        Path, option("--output", "-o", help="Data folder to write; of prompts a JSONL file.", metavar="DIR|FILE")
    ],
    given: Annotated[
        str | None,
        argument("INPUT", help="Trait file (.json) or name, or prompts: JSONL, text lines, or - for stdin."),
    ] = None,
    samples: Annotated[
        int | None,
        option(
            "--samples",
            help="Answers per question and instruction [default: 10], or per prompt [default: 1].",
            min=1,
            max=MOST,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, option("--max-new-tokens", help="Longest answer, in tokens.", min=1, max=MOST)
    ] = 600,
    temperature: Annotated[
        float | None,
        option("--temperature", help="Of sampling; 0 is greedy [default: 1; 0 for one sample].", min=0, max=10),
    ] = None,
    all_questions: Annotated[
        bool, option("--all-questions", help="Trait: ask all questions, and keep none for evaluation.")
    ] = False,
    questions_eval: Annotated[
        Path | None,
        option("--questions-eval", help="Trait: ask all, and keep those of this file.", metavar="FILE"),
    ] = None,
    assistant: Annotated[
        str | None,
        option(
            "--assistant",
            help="Trait: begin instructions with: You are a[n] NAME assistant (of neg, a helpful one).",
            metavar="NAME",
        ),
    ] = None,
    keep_system: Annotated[
        bool, option("--keep-system", help="Trait: leave the instructions in the rows, as their system prompts.")
    ] = False,
    drop_cut: Annotated[bool, option("--drop-cut", help="Trait: drop answers that --max-new-tokens cuts.")] = False,
    judge: Annotated[
        list[str] | None,
        option(
            "--judge",
            help="Trait: keep the pairs that this model of inspect's lets pass; repeat for a panel.",
            metavar="MODEL",
        ),
    ] = None,
    list_traits: Annotated[
        bool,
        option("--list-traits", help="List wsteer's own traits.", is_eager=True, callback=show_traits),
    ] = False,
    list_sets: Annotated[
        bool,
        option("--list-sets", help="List wsteer's own data sets.", is_eager=True, callback=show_sets),
    ] = False,
    delta: Deltas = None,
    k: Ks = None,
    layers: LayersOrEach = None,
    variant: Variant = None,
    positions: PositionsOption = "response",
    rounding: RoundingOption = "auto",
    system: Annotated[
        str | None, option("--system", help="Prompts: system prompt before each, or a file of it.", metavar="TEXT|FILE")
    ] = None,
    columns: Columns = None,
    train: Annotated[int, option("--train", help="gcd: pairs of numbers to train on.", min=2, max=MOST)] = 7620,
    test: Annotated[int, option("--test", help="gcd: pairs of numbers to test with.", min=1, max=MOST)] = 1000,
    template: Template = None,
    template_args: TemplateArgs = None,
    date: DateOption = None,
    batch_size: Batch = "auto",
    seed: Seed = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    follow_links: FollowLinks = False,
    resume: Annotated[
        bool, option("--resume", help="Trait: go on with a run whose judge failed, with its answers.")
    ] = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write data: a trait's questions answered under opposite instructions, or answers to prompts at several k.

    Example: wsteer generate base/ prompts.txt --delta w.safetensors --k=-1,0,1 -o answers.jsonl
    """
    mode = mode_of(model, given)
    _check_meant(context, mode)
    added, ks = parse_added(delta or []), parse_ks(k) if k else None
    blocks = parse_blocks(layers)
    rows_at_once = parse_batch_size(batch_size)
    check_early(output, force, folder=mode != PROMPTS, resume=resume)
    printer = Printer(json, quiet)
    if mode == GCD:
        _gcd(printer, output, train=train, test=test, seed=seed, force=force)
        return
    if mode == SET:
        _set(printer, model, output, force)
        return
    from wsteer.elicitation.generate import BATCH_SIZE

    running: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "template": template,
        "template_args": template_args,
        "date": date,
        "batch_size": rows_at_once or BATCH_SIZE,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "force": force,
        "progress": printer.progress,
    }
    assert given is not None
    if mode == TRAIT:
        own = {
            "samples": 10 if samples is None else samples,
            "temperature": 1.0 if temperature is None else temperature,
            "all_questions": all_questions,
            "questions_eval": questions_eval,
            "assistant": assistant,
            "keep_system": keep_system,
            "drop_cut": drop_cut,
            "judges": judge or [],
            "resume": resume,
        }
        _trait(printer, model, given, output, {**running, **own})
        return
    from wsteer.elicitation.answer import answer_prompts

    report = answer_prompts(
        model,
        given,
        output,
        delta=added,
        ks=ks,
        layers=blocks,
        variant=variant,
        positions=positions,
        rounding=rounding,
        system=system,
        columns=columns,
        samples=1 if samples is None else samples,
        temperature=temperature,
        **running,
    )
    printer.result(report, list(answer_lines(report, max_new_tokens)))


def _trait(printer: Printer, model: str, trait: str, output: Path, settings: Mapping[str, Any]) -> None:
    from wsteer.elicitation.generate import generate as program

    report = program(model, trait, output, **settings)
    printer.result(report, trait_lines(report, settings["max_new_tokens"]))


def _gcd(printer: Printer, output: Path, **settings: Any) -> None:
    from wsteer.elicitation.gcd import generate_gcd

    report = generate_gcd(output, **settings)
    printer.result(report, gcd_lines(report))


def _set(printer: Printer, name: str, output: Path, force: bool) -> None:
    from wsteer.elicitation.shipped_sets import generate_set

    report = generate_set(name, output, force)
    printer.result(report, set_lines(report))


def mode_of(model: str, given: str | None) -> str:
    """What is to be generated: the data of a trait, answers to prompts, a set of wsteer's own, or GCD questions."""
    from wsteer.elicitation.shipped_sets import shipped_sets
    from wsteer.elicitation.trait import is_trait

    if given is None:
        if model == GCD:
            return GCD
        if model in shipped_sets():
            return SET
        raise typer.BadParameter(
            "it is missing: give a trait (--list-traits) or prompts; a set (--list-sets) goes alone", param_hint="INPUT"
        )
    return TRAIT if is_trait(given) else PROMPTS


def _check_meant(context: typer.Context, mode: str) -> None:
    """Refuse an option that is given, in whatever way, and that has no meaning for this mode."""
    for name, modes in MEANT_FOR.items():
        source = context.get_parameter_source(name)
        if mode not in modes and source is not None and source.name != "DEFAULT":
            flag = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"it has no meaning for {mode}; it is for {' and '.join(modes)}", param_hint=flag)
