"""wsteer finetune: an adapter, a delta of biases or a checkpoint from chat answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wsteer.cli.finetune_tables import pairs_lines, preset_lines, result_lines
from wsteer.cli.options import (
    Columns,
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
from wsteer.cli.values import MOST, parse_modules, parse_names, parse_numbers, parse_pair, parse_seeds, usage
from wsteer.errors import WsteerError
from wsteer.training.presets import PRESETS, RELEASED
from wsteer.training.recipe import Recipe

if TYPE_CHECKING:
    from wsteer.training.finetune import FinetuneReport
    from wsteer.training.seeds import SeedsReport
    from wsteer.training.train_pairs import PairsReport


LoadIn = Literal["4bit", "8bit"]
Method = Literal[
    "lora", "delora", "oft", "boft", "ia3", "loha", "lokr", "vera", "bias", "full"
]  # training.recipe.METHODS


def show_presets(context: typer.Context, name: str | None) -> str | None:
    """`--preset list` prints the presets and ends; another name must be one of them."""
    if name is None or context.resilient_parsing or name in PRESETS:
        return name
    if name != "list":
        raise typer.BadParameter(f"{name!r} is no preset; --preset list shows them")
    Printer().result({}, preset_lines())
    raise typer.Exit


EPILOG = """
Data: a row is {"messages": [{"role", "content"}, ...]} or {"prompt",
  "completion"}, of one turn or several; else ShareGPT's "conversations",
  Alpaca's "instruction", "input" and "output" (the input is a paragraph
  behind the instruction), or "question" and "answer". A "system" beside
  them is the system prompt. --columns names other
  columns, for prompt, input, completion, system or messages, and settles
  which of two shapes is meant. The loss is on every assistant
  turn: its answer and the token that ends it; the first row is shown with
  these tokens marked. neg.jsonl:6 takes a set 6 times (a fraction is
  allowed); copies of a validation row are never trained: equal rows are on
  one side, and a row of --val that is also in DATA is refused. A set may
  be a pipe, as <(jq ...), and - is standard input; files may be gzip, or
  one JSON list. Hub data sets, org/name:split or org/name/config:split,
  need pip install 'wsteer[hub]'.
Templates: a {% generation %} mark is used if the template has one, but is
  not needed. A turn ends with the token at which the model stops, as its
  generation config says; a template that writes none gets it behind the
  last answer. What a template puts before an answer, such as an empty
  thinking block, is not trained; an answer's thought is, if it is in the
  text or in "reasoning_content", and earlier turns are trained as the
  template writes them, often without. An answer that does not go on from
  the model's prompt, as one without a thought where the prompt opens one,
  is refused; so is one of which the template leaves out a part. There is
  one BOS if the tokenizer adds one. --template-args are the template's
  arguments, in a config file a mapping; a template that writes the day
  writes --date, the same on every machine and day. The folder written keeps
  the --template, and its wsteer.json --template-args and --date: commands
  that read it use them where none are given.
Pairs: --pairs trains both sides of each pair with one recipe and seed, on a
  base loaded once (again for --method full and for an --init that changes
  the base), and writes DIR/NAME/pos, DIR/NAME/neg and their difference,
  DIR/NAME/w.safetensors: wsteer monitor DIR/*/w.safetensors compares them.
  --pairs evil,data/french takes folders with pos.jsonl and neg.jsonl, as
  wsteer generate writes them, and names the pairs after them. In a YAML
  file an entry is NAME: {pos: DATA, neg: DATA}, where DATA may be a list,
  or NAME: FOLDER; files are looked for beside the YAML file, then from the
  current folder. All data are checked first; --val would validate every
  side with the same rows. With --resume what is finished stays, and pairs
  may be added; with --force too, sides whose data or options changed are
  trained again.
Choice: the --val-fraction of the rows, or --val, is validated every
  --eval-every steps, and the step with the lowest validation loss is kept.
  Several --lr are trained from the same start, on a base loaded once, and
  the best is kept; a rate ends after --patience validations without a new
  best. log.jsonl has every step, sweep.csv every validation, loss.png the
  curves with the choice marked.
Presets: --preset NAME sets learning rate, batch and length as the paper's
  text does (Table 1), NAME-released all that its authors' released files
  set otherwise, as alpha 64, and embeddings and head trained whole;
  NAME-bias-released is their bias-only variant, for which the text has no
  values. They also held the base (--load-in 8bit) and AdamW's moments in
  8 bits, which no preset sets. A flag overrides a value. Modules trained
  whole outweigh the factors from the first steps on (on SmolLM2 two steps
  put 96.6% of the change's square into the head): norms and cosines then
  tell of the head, so compare them by module, as wsteer monitor can.
Methods: lora, delora, oft, boft, ia3, loha, lokr and vera write a PEFT
  adapter. --targets are by default all linear layers, of ia3 the layers
  that peft scales (keys or queries, values, the MLP's last). --rank,
  --alpha and --dropout have the paper's defaults for lora, peft's for the
  others; an option that a method lacks is refused. The --block-size of oft
  and boft must divide the inputs of all targets. A LoRA whose --init
  changes the base is written as a plain one of twice the rank. bias trains
  mlp.down_proj.bias of every block, from zero if the model has none, and
  writes delta.safetensors; wsteer diff takes the folder. full writes a
  checkpoint in float32, which keeps small changes that 16 bits would round
  away. The result says which modules of which blocks are trained, and what
  share of the blocks' weights they hold.
Depth: --layer-slice A:B trains the blocks b of L with A <= b/L < B: 0.3:0.8
  is 9 to 23 of 30, and 0:0.5 and 0.5:1 share none. Embeddings, head and
  last norm are in no block; --modules-to-save adds them to an adapter.
Seeds: give both sides the same --seed: they start from the same A, and what
  they share cancels. wsteer diff of two folders made with --seeds subtracts
  seed by seed, writes the mean, and reports the cosines between the seeds.
During a run: the cosines of --track are logged at every validation: in
  log.jsonl, in loss.png, and to the reporters of --report-to (TensorBoard's
  files are in runs/NAME).
Interruption: Ctrl-C, SIGTERM or SIGHUP finishes the step, saves, and says
  how to continue; --resume after that, or after a crash, ends with the
  bytes of an uninterrupted run. A state is also saved every five minutes.
  It stays until --resume goes on with it or --force drops it.
Memory: gradients are checkpointed if an estimate says that memory is short.
  --load-in needs pip install 'wsteer[quant]'. A GPU with bfloat16 computes
  in it unless --dtype names another type.
Processes: torchrun -m wsteer finetune ..., or accelerate launch. A step has
  --batch-size rows over all processes; only one writes and prints. The
  precision is --dtype's, whatever accelerate's config says.
"""


def finetune(
    base: Annotated[str, argument("BASE", help="Checkpoint folder or Hub id (org/name[@revision]).")],
    output: Annotated[Path, option("--output", "-o", help="Folder to write.", metavar="DIR")],
    data: Annotated[
        list[str] | None,
        argument("DATA", help="JSONL files of chat rows or Hub datasets org/name:split; FILE:6 takes one 6 times."),
    ] = None,
    pairs: Annotated[
        str | None,
        option(
            "--pairs",
            help="YAML file of pairs, or folders of generate, instead of DATA: both sides of each are trained.",
            metavar="FILE|DIR,...",
        ),
    ] = None,
    method: Annotated[
        Method | None,
        option("--method", help="What is trained: an adapter by peft's method, MLP biases, all weights. [lora]"),
    ] = None,
    preset: Annotated[
        str | None,
        option(
            "--preset",
            help="The paper's values for one of its fine-tunes; list shows them.",
            is_eager=True,
            callback=show_presets,
            metavar="NAME",
        ),
    ] = None,
    lr: Annotated[
        list[str] | None,
        option("--lr", help=f"Peak learning rate; of several, the best; repeat. [{Recipe.lr:g}]", metavar="LR,..."),
    ] = None,
    epochs: Annotated[float | None, option("--epochs", help=f"Passes over the data. [{Recipe.epochs:g}]")] = None,
    max_steps: Annotated[int | None, option("--max-steps", help="Steps to take, instead of --epochs.")] = None,
    batch_size: Annotated[int | None, option("--batch-size", help=f"Rows a step. [{Recipe.batch_size}]")] = None,
    micro_batch_size: Annotated[
        int | None,
        option("--micro-batch-size", help="Rows a device holds at once; by default all of a step."),
    ] = None,
    rank: Annotated[int | None, option("--rank", help="Rank; 32 for lora, else peft's default.")] = None,
    alpha: Annotated[
        float | None, option("--alpha", help="Alpha; the scale is alpha / rank; 16 for lora, else peft's default.")
    ] = None,
    dropout: Annotated[float | None, option("--dropout", help="Dropout of the adapter. [0]")] = None,
    block_size: Annotated[
        int | None, option("--block-size", help="Size of the rotated blocks; 32 for oft, 4 for boft.")
    ] = None,
    targets: Annotated[
        str | None,
        option("--targets", help="Modules to adapt; by default all linear ones, for ia3 peft's.", metavar="NAME,..."),
    ] = None,
    modules_to_save: Annotated[
        str | None,
        option("--modules-to-save", help="Modules trained whole beside the adapter.", metavar="NAME,..."),
    ] = None,
    dora: Annotated[bool, option("--dora", help="LoRA with magnitudes (DoRA).")] = False,
    rslora: Annotated[bool, option("--rslora", help="Scale LoRA by alpha / sqrt(rank).")] = False,
    init: Annotated[
        str | None, option("--init", help="LoRA's start: gaussian, orthogonal, pissa, olora; by default peft's.")
    ] = None,
    layer_slice: Annotated[
        str | None, option("--layer-slice", help="Train these blocks alone, by their depth: 0.3:0.8.", metavar="A:B")
    ] = None,
    weight_decay: Annotated[float, option("--weight-decay", help="AdamW's weight decay.")] = Recipe.weight_decay,
    warmup_steps: Annotated[
        int | None, option("--warmup-steps", help=f"Steps of linear warm-up. [{Recipe.warmup_steps}]")
    ] = None,
    val_fraction: Annotated[
        float, option("--val-fraction", help="Share of rows kept for validation.")
    ] = Recipe.val_fraction,
    val: Annotated[
        str | None, option("--val", help="Data that validates, instead of a share of DATA.", metavar="FILE")
    ] = None,
    eval_every: Annotated[
        int | None, option("--eval-every", help=f"Steps between validations. [{Recipe.eval_every}]")
    ] = None,
    patience: Annotated[
        int, option("--patience", help="Validations without a new best after which a rate ends; 0 for never.")
    ] = Recipe.patience,
    fraction: Annotated[float, option("--fraction", help="Share of the training rows to use.")] = Recipe.fraction,
    gradient_checkpointing: Annotated[
        bool | None,
        option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Keep fewer activations and compute them twice; by default where memory is short.",
        ),
    ] = None,
    save_every: Annotated[
        int | None, option("--save-every", help="Steps between checkpoint-N folders.", min=1, max=MOST)
    ] = None,
    track: Annotated[
        str | None,
        option(
            "--track",
            help="Deltas or adapters whose cosine with the change is logged as it grows.",
            metavar="DELTA,...",
        ),
    ] = None,
    report_to: Annotated[
        str | None, option("--report-to", help="Where losses and cosines go: tensorboard, wandb.", metavar="NAME,...")
    ] = None,
    resume: Annotated[bool, option("--resume", help="Go on where an interrupted run of the same stopped.")] = False,
    columns: Columns = None,
    strip_system: Annotated[bool, option("--strip-system", help="Leave the rows' system turns out.")] = False,
    max_length: Annotated[
        int | None, option("--max-length", help="Cut rows at so many tokens.", min=2, max=MOST)
    ] = None,
    template: Template = None,
    template_args: TemplateArgs = None,
    date: DateOption = None,
    seed: Seed = 0,
    seeds: Annotated[
        str | None, option("--seeds", help="One fine-tune a seed, each in a folder seed-N.", metavar="N,...")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    load_in: Annotated[
        LoadIn | None, option("--load-in", help="Hold the base quantised, on a GPU (extra quant).")
    ] = None,
    follow_links: FollowLinks = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Fine-tune BASE on the answers in DATA; of several rates and all steps the lowest validation loss is kept.

    Example: wsteer finetune Qwen/Qwen2.5-1.5B-Instruct pos.jsonl -o pos/ --lr 1e-5,5e-5,1e-4
    """
    recipe = recipe_of(
        preset=preset,
        method=method,
        lr=lr,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        block_size=block_size,
        targets=targets,
        modules_to_save=modules_to_save,
        dora=dora,
        rslora=rslora,
        init=init,
        layer_slice=layer_slice,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        val_fraction=val_fraction,
        eval_every=eval_every,
        patience=patience,
        fraction=fraction,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    if bool(data) == (pairs is not None):
        wrong = "give it, or --pairs" if not data else "--pairs stands instead of it; give one of them"
        raise typer.BadParameter(wrong, param_hint="DATA")
    several = parse_seeds(seeds)
    sides = parse_names(pairs, "--pairs")
    watched, reporters = parse_names(track, "--track"), parse_names(report_to, "--report-to")
    if pairs is None:  # their folder may be there: it grows
        check_early(output, force, folder=True, resume=resume)
    from wsteer.training import processes
    from wsteer.training.finetune import finetune as program
    from wsteer.training.seeds import finetune_seeds
    from wsteer.training.train_pairs import finetune_pairs

    first = processes.is_first()  # only one of several processes prints
    printer = Printer(json, quiet or not first)
    options: dict[str, Any] = {
        "val": val,
        "device": device,
        "dtype": dtype,
        "load_in": load_in,
        "columns": columns,
        "strip_system": strip_system,
        "max_length": max_length,
        "template": template,
        "template_args": template_args,
        "date": date,
        "save_every": save_every,
        "watched": watched,
        "report_to": reporters,
        "resume": resume,
        "force": force,
        "progress": printer.progress,
        "note": printer.note,
    }
    report: FinetuneReport | SeedsReport | PairsReport
    try:
        if pairs is not None:
            report = of_pairs = finetune_pairs(base, sides, output, recipe, seeds=several, **options)
            lines = pairs_lines(of_pairs)
        elif several is not None:
            report = of_seeds = finetune_seeds(base, data or [], output, recipe, several, **options)
            lines = [*(line for each in of_seeds.runs for line in result_lines(each)), of_seeds.output]
        else:
            report = of_one = program(base, data or [], output, recipe, **options)
            lines = result_lines(of_one)
    except KeyboardInterrupt:
        if not first:
            raise typer.Exit(130) from None
        raise
    if first:
        printer.result(report, lines)


def recipe_of(
    preset: str | None,
    lr: list[str] | None,
    targets: str | None,
    modules_to_save: str | None,
    layer_slice: str | None,
    **given: Any,
) -> Recipe:
    """The recipe that the command's options ask for, as typed; options that are none of a recipe are left out."""
    names = Recipe.__dataclass_fields__
    values = {
        **{name: value for name, value in given.items() if name in names},
        "lr": tuple(parse_numbers(lr, "--lr")) if lr else None,
        "targets": parse_modules(targets, "--targets") or None,
        "modules_to_save": parse_modules(modules_to_save, "--modules-to-save") or None,
        "layer_slice": parse_pair(layer_slice, "--layer-slice", "0.3:0.8"),
    }
    return usage(lambda: _recipe(preset, **values))


def _recipe(preset: str | None, **given: Any) -> Recipe:
    """The preset's recipe; values that were given replace its own."""
    values = PRESETS[preset].values if preset else {}
    own = values.get("method", "lora")
    if preset in RELEASED and given["method"] not in (None, own):
        raise WsteerError(
            f"--preset {preset} sets what is of --method {own} alone; take another, or leave out --method"
        )
    if given["epochs"] is not None:
        values["max_steps"] = None  # the given number of epochs, not the preset's length
    return Recipe(**{**values, **{name: value for name, value in given.items() if value is not None}})
