"""`finery chat STEP`: talk to a built model in the terminal."""

import sys
import tempfile
from contextlib import ExitStack, suppress
from io import TextIOWrapper
from pathlib import Path

import click

from finery import UsageError
from finery.advanced import matrix_option, recipe_and_step

MAX_TOKENS = 1024
ENDED = 143
"""Exit code after a signal, as a shell has it for SIGTERM."""


@click.command("chat")
@recipe_and_step
@matrix_option
@click.option("--beside", metavar="STEP", help="A second model that answers the same questions.")
@click.option(
    "--system",
    default="",
    metavar="TEXT",
    help="The system message. [default: that of all training rows, if they share one]",
)
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.0, show_default=True,
    help="Sampling temperature. 0 always takes the most likely token, as in evaluations.",
)  # fmt: skip
@click.option(
    "--max-tokens", type=click.IntRange(1), default=MAX_TOKENS, show_default=True,
    help="Longest answer, in tokens.",
)  # fmt: skip
def command(
    step: str,
    recipe: Path,
    overrides: tuple[str, ...],
    beside: str | None,
    system: str,
    temperature: float,
    max_tokens: int,
) -> int:
    """Talk to the model of STEP.

    Ctrl-C stops an answer, Ctrl-D or /quit ends the talk, /help lists the commands. Of a pipe, each
    line is a question. More in docs/howto/serve.md.
    """
    from finery import Sampling
    from finery_eval.evaluation import BASELINE
    from finery_serve.chat.screen import Terminal, screen_for
    from finery_serve.chat.streams import talker
    from finery_serve.chat.talk import Session
    from finery_serve.guide import tool_names
    from finery_serve.opening import open_built
    from finery_serve.processes import raise_at_signals
    from finery_serve.servers import STANDALONE
    from finery_transformers.frozen.template import TOOLS_DIFFER, ClientFacts

    built = [open_built(name, recipe, overrides) for name in (step, beside) if name]
    if len({model.name for model in built}) < len(built):
        raise UsageError("--beside names the same model", where="--beside", fix="name another step")
    with raise_at_signals(SystemExit(ENDED)), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="finery-chat-")))
        models = {}
        for model in built:
            click.echo(f"loading {model.name} …", err=True)
            models[model.name] = stack.enter_context(talker(model, folder))
            if tools := tool_names(models[model.name].tools):
                click.echo(f"tools, as in the training: {tools}", err=True)
            elif ClientFacts.of(model.artifact.meta).tools_differ:
                click.echo(f"{TOOLS_DIFFER}: this chat sends none", err=True)
        systems = (ClientFacts.of(model.artifact.meta).system for model in built)
        default_system = next(filter(None, systems), "")
        sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
        classifiers = [  # which would read earlier questions and answers as a part of the next one
            model.name
            for model in built
            if model.format == STANDALONE or BASELINE in model.artifact.meta
        ]
        screen = screen_for(len(models))
        session = Session(models, sampling, screen, system, default_system, classifiers)
        if isinstance(sys.stdin, TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")
        code = 0
        with suppress(EOFError):
            code = session.run(sys.stdin)
        return 0 if isinstance(screen, Terminal) else code
