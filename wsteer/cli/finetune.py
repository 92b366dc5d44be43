"""wsteer finetune: a LoRA adapter from chat answers."""

from pathlib import Path
from typing import Annotated

from wsteer.cli.options import (
    Config,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    Force,
    Json,
    Quiet,
    Seed,
    argument,
    option,
)
from wsteer.cli.output import Printer
from wsteer.saving import check_output


def finetune(
    base: Annotated[str, argument("BASE", help="Checkpoint folder or Hub id (org/name[@revision]).")],
    data: Annotated[str, argument("DATA", help="JSONL file of chat rows, or a Hub dataset org/name:split.")],
    output: Annotated[Path, option("--output", "-o", help="Adapter folder to write.", metavar="DIR")],
    lr: Annotated[float, option("--lr", help="Peak learning rate.", min=0)] = 1e-5,
    epochs: Annotated[float, option("--epochs", help="Passes over the data.", min=0)] = 1.0,
    max_steps: Annotated[int | None, option("--max-steps", help="Steps to take, instead of --epochs.", min=1)] = None,
    batch_size: Annotated[int, option("--batch-size", help="Rows a step.", min=1)] = 8,
    rank: Annotated[int, option("--rank", help="LoRA rank.", min=1)] = 32,
    alpha: Annotated[float, option("--alpha", help="LoRA alpha; the scale is alpha / rank.")] = 16.0,
    weight_decay: Annotated[float, option("--weight-decay", help="AdamW's weight decay.", min=0)] = 0.01,
    warmup_steps: Annotated[int, option("--warmup-steps", help="Steps of linear warm-up.", min=0)] = 5,
    val_fraction: Annotated[float, option("--val-fraction", help="Share of rows kept for validation.", min=0)] = 0.05,
    eval_every: Annotated[int, option("--eval-every", help="Steps between validations.", min=1)] = 10,
    strip_system: Annotated[bool, option("--strip-system", help="Leave the rows' system turns out.")] = False,
    max_length: Annotated[int | None, option("--max-length", help="Cut rows at so many tokens.", min=2)] = None,
    template: Annotated[
        Path | None,
        option("--template", help="Jinja file: the chat template of a model that has none.", metavar="FILE"),
    ] = None,
    seed: Seed = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Fine-tune BASE on the answers in DATA with LoRA on all linear layers.

    Example: wsteer finetune Qwen/Qwen2.5-1.5B-Instruct pos.jsonl -o pos/
    """
    check_output(output, force, folder=True)  # before seconds of imports
    from wsteer.training import Recipe
    from wsteer.training import finetune as run

    printer = Printer(json, quiet)
    recipe = Recipe(
        lr=lr,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        rank=rank,
        alpha=alpha,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        val_fraction=val_fraction,
        eval_every=eval_every,
        seed=seed,
    )
    report = run(
        base,
        data,
        output,
        recipe,
        device=device.value,
        dtype=dtype.value,
        strip_system=strip_system,
        max_length=max_length,
        template=template,
        force=force,
        track=printer.track,
        note=printer.note,
    )
    validation = ""
    if report.val_loss is not None:
        validation = f", validation loss {report.val_loss_before:.3f} -> {report.val_loss:.3f}"
    cut = []
    if report.rows_cut:
        cut = [
            f"{report.rows_cut} rows cut at {max_length} tokens, of which {report.rows_dropped} left out "
            "because their answers begin after that"
        ]
    lines = [
        *cut,
        f"{report.steps} steps on {report.rows_train} rows of {report.tokens_per_row:.0f} tokens, "
        f"{report.trained_parameters / 1e6:.1f} M trained parameters",
        f"train loss {report.train_loss:.3f}{validation} ({report.rows_val} rows)",
        report.output,
    ]
    printer.result(report, lines)
