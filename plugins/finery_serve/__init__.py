"""Serving: run a built model as an OpenAI-compatible server, talk to it, check and ship it.

In go a built model or bundle and, for `serve.check`, the rows of a test. Out come a running server,
a report that compares its prompts and answers with the trained ones, or a folder to ship. Public
for other plugins are `servers`: what a server that a plugin registers takes and gives, and what it
must show so that `serve.check` can check it; `command`: serve until Ctrl-C; `client`: requests to a
server; `check.answers`: its answers; `processes`: listening, starting a server, watching it, and
ending it with all that it started; `options`: those of llama.cpp's server; `templates`: the chat
template that this server needs; and `llama`: this server with its prompts and faults.
"""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {"serve.check": "finery_serve.check.step:Check"}


@hookimpl
def finery_commands() -> dict[str, str]:
    """The commands of this plugin."""
    return {
        "serve": "finery_serve.command:command",
        "chat": "finery_serve.chat.command:command",
    }


@hookimpl
def finery_servers() -> dict[str, str]:
    """llama.cpp's server, for GGUFs and for the bundles of `llama.bundle`."""
    return {"gguf": "finery_serve.llama:serve_gguf", "llama": "finery_serve.llama:serve_bundle"}
