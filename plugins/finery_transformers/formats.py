"""Formats of models: refuses those that a step can't take, and names the step that ships them."""

from collections.abc import Sequence

from finery import Artifact, Model, UsageError

WEIGHTS = {"adapter": "an adapter", "transformers": "a Hugging Face folder", "gguf": "a GGUF"}
"""Formats with the weights of a language model."""
_NAMES = {**WEIGHTS, "gguf-adapter": "an adapter of a GGUF"}
_WAYS_OUT = {
    "api": "a server already answers for it; `finery chat` talks to it",
    "prompted": "name the model that it prompts, if that has weights; a prompt isn't exported, so "
    "clients send it",
    "gguf-adapter": "ship it with llama.bundle or ollama.modelfile; or export it without `adapter: "
    "true`, merged into a complete GGUF",
    "retrieving": "ship it with retrieve.bundle",
    "vllm": "name the model that vLLM answers for",
    **dict.fromkeys(
        ("embedder", "embedder-api"),
        "it embeds texts for retrieve.index and can't answer; name a language model",
    ),
    "reranker": "it scores chunks for retrieve.rerank and can't answer; name a language model",
}


def require_format(
    model: Model, use: str, field: str, formats: Sequence[str] = tuple(WEIGHTS)
) -> None:
    """Raise `UsageError` for a model of a format that a step type can't take.

    use: the step type. field: its input. Before a build, only formats that follow from settings are
    known.
    """
    found = model.meta.get("format", formats[0])
    if found not in formats:
        name = f"'{model.ref}'" if model.ref else "the model"
        expected = ", ".join(_NAMES[each] for each in formats[:-1])
        expected = f"{expected} or {_NAMES[formats[-1]]}" if expected else _NAMES[formats[0]]
        raise UsageError(
            f"{use} expects {expected}, but {name} has the format '{found}'",
            where=field,
            fix=f"{'remove this step, and ' * bool(model.meta.get('bundle'))}"
            f"{way_out(model, model.ref or 'MODEL')}",
        )


def base_name(model: Model) -> str:
    """The name of the model under an adapter: a hub repository, a file, or an architecture."""
    names = (model.meta.get(key) for key in ("repo", "base", "name", "file", "architecture"))
    return str(next(filter(None, names), ""))


def way_out(model: Artifact, name: str) -> str:
    """What to do with a model that can't be served or exported as it is. name: its step."""
    found = str(model.meta.get("format", ""))
    if found in WEIGHTS:
        return (
            f"export it: add gguf: {{use: gguf.export, model: {name}}} to `export:`, then run "
            "finery build and finery serve gguf; or use vllm.bundle if vLLM is installed"
        )
    if bundle := model.meta.get("bundle"):
        line = bundle_line(bundle, name)
        step = line.partition(":")[0]
        return (
            f"ship it with {bundle}: {line} under `export:`, then run finery build and finery "
            f"serve {step}"
        )
    fallback = f"it can't be shipped: it answers in builds, and `finery chat {name}` talks to it"
    return _WAYS_OUT.get(found, fallback)


def bundle_line(bundle: str, name: str, judge: str = "") -> str:
    """The recipe's line for a step that ships a model. bundle: the step type. judge: a step whose
    requirements must be met first."""
    needs = f", needs: [{judge}]" if judge else ""
    return f"{name.replace('.', '-')}-server: {{use: {bundle}, model: {name}, name: {name}{needs}}}"
