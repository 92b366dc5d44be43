"""wsteer generate: contrastive data from a trait file."""

from pathlib import Path
from typing import Annotated

from wsteer.cli.options import (
    Batch,
    Config,
    DateOption,
    DeviceOption,
    DtypeOption,
    FollowLinks,
    Force,
    Json,
    Quiet,
    Seed,
    Template,
    TemplateArgs,
    argument,
    check_early,
    option,
)
from wsteer.cli.output import Printer
from wsteer.cli.values import MOST, parse_batch_size

EPILOG = """
Trait: JSON in the schema of persona vectors: "instruction", a list of
  {"pos", "neg"} pairs of opposite instructions; "questions", two or more;
  "eval_prompt", a judge's question with {question} and {answer}.
Questions: half of them, chosen by --seed, are kept for evaluation
  (questions_eval.json). Each of the others is answered --samples times
  under each instruction.
Templates: --template FILE is the chat template of a model that has none, or
  instead of its own; --template-args are its arguments, in a config file a
  mapping. A template that writes the day writes --date, the same on every
  machine and day. What is not given is as wsteer finetune had it, where it
  made the model or the adapter.
Rows: pos.jsonl and neg.jsonl hold questions and answers without the
  instruction, so training has to put the behaviour into the weights.
  Empty answers are left out and counted; so are thoughts that the limit of
  tokens cut before an answer. A thought before an answer is left out, by
  the marks of the model's own chat template. The sampling of a row depends
  on --seed and the row, not on its batch. A model of a few hundred million
  parameters follows instructions poorly: read some rows before you train on
  them.
"""


def generate(
    base: Annotated[str, argument("BASE", help="Checkpoint or adapter: a folder or a Hub id (org/name[@revision]).")],
    trait: Annotated[Path, argument("TRAIT", help="Trait file: instruction pairs, questions, eval_prompt (JSON).")],
    output: Annotated[Path, option("--output", "-o", help="Data folder to write.", metavar="DIR")],
    samples: Annotated[int, option("--samples", help="Answers per question and instruction.", min=1, max=MOST)] = 10,
    max_new_tokens: Annotated[
        int, option("--max-new-tokens", help="Longest answer, in tokens.", min=1, max=MOST)
    ] = 600,
    temperature: Annotated[
        float, option("--temperature", help="Sampling temperature; 0 is greedy.", min=0, max=10)
    ] = 1.0,
    template: Template = None,
    template_args: TemplateArgs = None,
    date: DateOption = None,
    batch_size: Batch = "auto",
    seed: Seed = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    follow_links: FollowLinks = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write contrastive chat data: the trait's questions answered under its opposite instructions.

    Example: wsteer generate Qwen/Qwen2.5-1.5B-Instruct trait.json -o data/
    """
    rows_at_once = parse_batch_size(batch_size)
    check_early(output, force, folder=True)
    from wsteer.elicitation.generate import BATCH_SIZE
    from wsteer.elicitation.generate import generate as program

    printer = Printer(json, quiet)
    report = program(
        base,
        trait,
        output,
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        template=template,
        template_args=template_args,
        date=date,
        batch_size=rows_at_once or BATCH_SIZE,
        seed=seed,
        device=device,
        dtype=dtype,
        force=force,
        progress=printer.progress,
    )
    thinking = f", {report.dropped_thinking} of them before they answered (dropped)" if report.dropped_thinking else ""
    lines = [
        f"{report.rows_pos} positive rows of {report.mean_tokens_pos:.0f} tokens and {report.rows_neg} negative ones "
        f"of {report.mean_tokens_neg:.0f}, from {report.questions} questions ({report.questions_eval} kept for eval)",
        f"{report.dropped_empty} empty answers dropped, {report.truncated} cut at {max_new_tokens} tokens{thinking}",
        report.output,
    ]
    printer.result(report, lines)
