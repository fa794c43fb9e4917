"""Serving: run a built model as an OpenAI-compatible server, talk to it, check and ship it.

Input: a built model or bundle and, for `serve.check`, test rows. Output: a running server, a report
that compares its prompts and answers with those of the training, or a folder to ship. Public for
other plugins: `servers`, the interface of a server that a plugin registers; `command`, which serves
until Ctrl-C; `client`, requests to a server; `check.answers`, its answers; `check.server_check`,
the base of step types that check one; `processes`, which starts, watches and ends servers with
their child processes; `guide`, which writes the texts of a bundle; `llama`, llama.cpp's server
with its options, chat template, prompts and faults; `web`, the guards of all web apps; and
`standalone_server`, the server of a `serve.bundle`, which has what those share with it.
"""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "serve.bundle": "finery_serve.standalone:StandaloneBundle",
        "serve.check": "finery_serve.check.step:Check",
    }


@hookimpl
def finery_commands() -> dict[str, str]:
    """The commands of this plugin."""
    return {
        "serve": "finery_serve.command:command",
        "chat": "finery_serve.chat.command:command",
    }


@hookimpl
def finery_servers() -> dict[str, str]:
    """llama.cpp's server, for GGUFs and `llama.bundle`, and the server of `serve.bundle`."""
    return {
        "gguf": "finery_serve.llama:serve_gguf",
        "gguf-adapter": "finery_serve.llama:serve_gguf",
        "llama": "finery_serve.llama:serve_bundle",
        "standalone": "finery_serve.standalone:serve_bundle",
    }
