"""Load a model and its tokenizer."""

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from wsteer.checkpoints.architecture import model_classes, own_code_refused, read_config, skeleton
from wsteer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from wsteer.checkpoints.conversion import decoder_path
from wsteer.deltas.inputs import ChangeInput
from wsteer.errors import WsteerError, one_error, out_of_memory, reason
from wsteer.models.chat import Chat, ChatFormat, folder_template, formatted
from wsteer.models.devices import resolve_device
from wsteer.models.tokenizer import load_tokenizer

GENERATION = "generation_config.json"
DTYPE_NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, its tokenizer, the checkpoint that both came from, and how chats become its text.

    `change` is the adapter's change of the checkpoint that the model's weights have, if an adapter was loaded.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    checkpoint: Checkpoint
    chat: Chat
    change: ChangeInput | None = None

    def entries(self, role: str) -> list[dict[str, object]]:
        """Its entries as an input in this role in a record: the checkpoint, then the adapter with its digest."""
        return [self.checkpoint.input_entry(role), *([self.change.source] if self.change else ())]


def load(
    reference: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    load_in: str | None = None,
    chat_format: ChatFormat | None = None,
    adapter_folder: Path | None = None,
    checkpoint: Checkpoint | None = None,
) -> LoadedModel:
    """Load the checkpoint that `reference` names (a folder or a Hub id), never running code that it ships.

    `checkpoint` is the same, if it has been opened. Adapters are loaded by `steering.loading.load`.

    `device` auto is CUDA, else Apple's MPS, else the CPU; `dtype` auto is float32 on the CPU, where 16 bits are slower
    and less exact, and the checkpoint's own dtype elsewhere. `load_in` 4bit or 8bit quantises the linear layers.
    `chat_format` says how chats become text, and after it the files in `adapter_folder`, of an adapter that the model
    is to get.
    """
    checkpoint, chat_format = checkpoint or open_checkpoint(reference), chat_format or ChatFormat()
    device = resolve_device(device)
    quantised = _quantised(load_in, device) if load_in else {}
    config, kind = _buildable(checkpoint)
    with one_error(f"transformers cannot load {reference}"), own_code_refused(checkpoint):
        tokenizer = load_tokenizer(checkpoint, config, chat_format, adapter_folder)
    model = _loaded_weights(checkpoint, config, kind, device, dtype, reference, quantised)
    _reset_generation(model, tokenizer, checkpoint.name)
    folders = [adapter_folder or checkpoint.folder, checkpoint.folder]
    chat = formatted(tokenizer, model.generation_config.eos_token_id or (), chat_format, folders)
    loaded = LoadedModel(model, tokenizer, checkpoint, chat)
    _check_direction(loaded)
    return loaded


def load_weights(checkpoint: Checkpoint, device: str, dtype: str) -> PreTrainedModel:
    """The checkpoint's model without its tokenizer, as `load` loads it."""
    config, kind = _buildable(checkpoint)
    return _loaded_weights(checkpoint, config, kind, resolve_device(device), dtype, checkpoint.name, {})


def with_tokenizer(model: PreTrainedModel, checkpoint: Checkpoint, chat_format: ChatFormat) -> LoadedModel:
    """A model in memory, as one that a Trainer trains, with the tokenizer of the checkpoint that it began as."""
    config = read_config(checkpoint)
    with one_error(f"the tokenizer of {checkpoint.name} cannot be loaded"), own_code_refused(checkpoint):
        tokenizer = load_tokenizer(checkpoint, config, chat_format)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= embedded_tokens(model):
        tokenizer.pad_token_id = 0  # padding is masked, so that any token does
    ends = model.generation_config.eos_token_id if model.generation_config else None
    ends = [ends] if isinstance(ends, int) else ends or []
    return LoadedModel(model, tokenizer, checkpoint, formatted(tokenizer, ends, chat_format, [checkpoint.folder]))


def _buildable(checkpoint: Checkpoint) -> tuple[PreTrainedConfig, Any]:
    """The checkpoint's config and class, refused if transformers cannot build it in bounded time and memory."""
    config = read_config(checkpoint)
    kind: Any = model_classes(checkpoint, config)[0]
    skeleton(checkpoint, config, kind)
    return config, kind


def _loaded_weights(
    checkpoint: Checkpoint,
    config: PreTrainedConfig,
    kind: Any,
    device: str,
    dtype: str,
    reference: str | Path,
    quantised: Mapping[str, object],
) -> PreTrainedModel:
    chosen = {"auto": torch.float32 if device == "cpu" else "auto", **DTYPE_NAMES}[dtype]
    with one_error(f"transformers cannot load {reference}"), own_code_refused(checkpoint):
        found: Any = kind.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=chosen,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # refused below, by name
            adapter_kwargs={"subfolder": "config.json"},  # a file: an adapter in the folder is not the model
            **quantised,
        )
    model, loading = found
    # transformers fills missing weights with random numbers
    missing = sorted(loading["missing_keys"]) + sorted(key for key, *_ in loading["mismatched_keys"])
    if missing:
        raise WsteerError(f"{reference} lacks {missing[0]!r}, or has it in another shape than config.json says")
    return (model if quantised else model.to(device)).eval()


def with_template_of(folder: Path, loaded: LoadedModel, chat_format: ChatFormat) -> LoadedModel:
    """A model without a chat template gets the one in `folder`, of a fine-tune of it, with its arguments and date."""
    if loaded.tokenizer.chat_template or (template := folder_template(folder)) is None:
        return loaded
    loaded.tokenizer.chat_template = template
    return replace(loaded, chat=formatted(loaded.tokenizer, loaded.chat.ends, chat_format, [folder]))


def _quantised(load_in: str, device: str) -> dict[str, object]:
    """The arguments with which transformers quantises the model by bitsandbytes while loading it."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise WsteerError(f"--load-in {load_in} needs bitsandbytes: pip install 'wsteer[quant]'")
    if device != "cuda":
        raise WsteerError(f"--load-in {load_in} needs a CUDA device, and this runs on {device}; leave it out")
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    config = {"4bit": four, "8bit": BitsAndBytesConfig(load_in_8bit=True)}[load_in]
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


@contextlib.contextmanager
def running(loaded: LoadedModel) -> Iterator[None]:
    """Run the model in the `with` body; turn what transformers raises there into one error, unless memory is short."""
    try:
        with torch.inference_mode():
            yield
    except Exception as error:  # an architecture may lack what a text model needs
        if isinstance(error, WsteerError) or out_of_memory(error):
            raise
        raise WsteerError(f"transformers cannot run {loaded.checkpoint.name}: {reason(error)}") from error


def _check_direction(loaded: LoadedModel) -> None:
    """Refuse a model that reads the tokens after the one that it predicts from, as XLNet and BERT do.

    It is run on four tokens where transformers calls none of its parts causal, as it does those of most models.
    """
    if any(getattr(module, "is_causal", False) for module in loaded.model.modules()):
        return
    rows = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], device=loaded.model.device)
    with running(loaded):
        first, other = (loaded.model(input_ids=row[None]).logits[0, :3].double() for row in rows)
    if not torch.allclose(first, other, rtol=1e-3, atol=1e-3 * float(first.std())):
        raise WsteerError(
            f"{loaded.checkpoint.name} ({loaded.model.config.model_type}) reads the tokens that follow, so that it is "
            "no language model that answers word by word; give one that reads from left to right"
        )


def dtype_name(loaded: LoadedModel) -> str:
    """The dtype that the model runs in, as --dtype names it."""
    return str(loaded.model.dtype).removeprefix("torch.")


def max_positions(loaded: LoadedModel) -> int | None:
    """The most tokens that the model takes, if its config says so; -1 is XLNet's word for no limit."""
    config = loaded.model.config.get_text_config()
    # transformers knows most other names of this key (n_positions, context_length) by this one; MPT's it does not
    named = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    return named if named is not None and named > 0 else None


def check_rows(loaded: LoadedModel, rows: Iterable[Sequence[int] | Tensor], more: int = 0) -> None:
    """Refuse rows of token ids that the model cannot read: too long, `more` tokens counted, or without embedding."""
    positions, known = max_positions(loaded), embedded_tokens(loaded.model)
    for row in rows:
        if positions is not None and len(row) + more > positions:
            raise WsteerError(
                f"a row of {len(row) + more} tokens is longer than the {positions} positions of "
                f"{loaded.checkpoint.name}" + (f"; {more} of them are for its answer" if more else "")
            )
        largest = int(torch.as_tensor(row).max()) if len(row) else 0
        if largest >= known:
            token = loaded.tokenizer.convert_ids_to_tokens(largest)
            raise WsteerError(
                f"the tokenizer of {loaded.checkpoint.name} gives the token {token!r} ({largest}), and the model has "
                f"embeddings of {known}; the two do not belong together"
            )


def embedded_tokens(model: PreTrainedModel) -> int:
    """How many token ids the model has embeddings of."""
    return cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0]


def _reset_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Keep only the end tokens: a checkpoint's sampling settings, such as a repetition penalty, must have no effect."""
    known = embedded_tokens(model)
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    usable = [end for end in listed if type(end) is int and 0 <= end < known]
    own = tokenizer.eos_token_id
    if not usable and ends == _class_default(model.config, "eos_token_id") and isinstance(own, int) and own < known:
        usable = [own]  # nobody chose the end: it is that of the config's class
    if listed and not usable:
        raise WsteerError(f"{name}: eos_token_id {str(ends)[:80]!r} is no token of the model; it has {known}")
    pad = tokenizer.pad_token_id
    if pad is None or pad >= known:  # padding is masked, so that any token does
        tokenizer.pad_token_id = usable[0] if usable else 0
    model.generation_config = GenerationConfig(eos_token_id=usable or None, pad_token_id=tokenizer.pad_token_id)


def own_settings(loaded: LoadedModel) -> GenerationConfig:
    """The generation settings that the checkpoint ships, as transformers reads them with the model."""
    folder = loaded.checkpoint.folder
    if (folder / GENERATION).is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_pretrained(folder, config_file_name="config.json", _from_model_config=True)


@contextlib.contextmanager
def own_generation(loaded: LoadedModel) -> Iterator[None]:
    """In the `with` body the model generates by the settings that its checkpoint ships, which `load` takes out."""
    before = loaded.model.generation_config
    loaded.model.generation_config = own_settings(loaded)
    try:
        yield
    finally:
        loaded.model.generation_config = before


def _class_default(config: PreTrainedConfig, key: str) -> object:
    """What a config of this class says if nobody sets the key."""
    return getattr(type(config)().get_text_config(), key, None)


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks of the language model, in order; the blocks of towers are not among them."""
    return cast(nn.ModuleList, model.get_submodule(decoder_path(model)))
