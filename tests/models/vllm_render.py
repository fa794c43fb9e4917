"""Run by the Python that has vLLM: what its server makes of requests, for many models.

Reads from stdin JSON, name → {"folder": a bundle without weights, "requests": bodies of
/v1/chat/completions}, and writes name → results to the file that the argument names: for each
request its token ids or the message of its error, or one message if vLLM doesn't take the model.

It does what `vllm launch render` does, a server that only renders, for one model after the other:
vllm/entrypoints/launchers/render.
"""

import asyncio
import json
import sys
from typing import Any

from starlette.datastructures import State
from vllm import AsyncEngineArgs
from vllm.config import VllmConfig
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.launchers.render.app_state import init_render_app_state
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.utils.argparse_utils import FlexibleArgumentParser

NAME = "model"


async def renderer(folder: str) -> Any:
    """What answers at /v1/chat/completions/render, with the arguments of vllm.bundle."""
    words = [
        "--model", folder, "--served-model-name", NAME, "--chat-template",
        f"{folder}/chat_template.jinja", "--chat-template-content-format", "string",
    ]  # fmt: skip
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    engine_args = AsyncEngineArgs.from_cli_args(args)
    config = VllmConfig(
        model_config=engine_args.create_model_config(),
        structured_outputs_config=engine_args.create_structured_outputs_config(),
    )
    state = State()
    await init_render_app_state(config, state, args)
    return state.serving_render


async def rendered(serving: Any, body: dict[str, Any]) -> list[int] | str:
    """The token ids of a request's prompt, or the error's message."""
    try:
        answer = await serving.render_chat_request(ChatCompletionRequest(model=NAME, **body))
    except Exception as error:  # which the server answers with its message
        return str(error) or type(error).__name__
    return list(answer.token_ids) if hasattr(answer, "token_ids") else str(answer.error.message)


async def of_model(folder: str, requests: list[dict[str, Any]]) -> list[list[int] | str] | str:
    """The results of a model's requests, or why vLLM doesn't take the model."""
    try:
        serving = await renderer(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return [await rendered(serving, body) for body in requests]


async def main() -> None:
    """Render all requests."""
    asked = json.load(sys.stdin)
    results = {name: await of_model(**given) for name, given in asked.items()}
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(results, file)


if __name__ == "__main__":
    asyncio.run(main())
