"""What a check can't find out."""

from finery import Artifact, StepError


def unchecked(*, trained: bool, base: bool) -> list[tuple[str, str]]:
    """(fault that can't be found, what isn't known and how to check it)."""
    missing = []
    if not trained:
        why = "whether the GGUF has the chat template of the training: its own is taken for that"
        missing.append(("template", f"{why}. Add `trained:`"))
    if not base:
        missing.append(("adapter", "whether the training is in what is served. Add `base:`"))
    return missing


def refuse_ollama(bundle: Artifact | None) -> None:
    """Raise `StepError` for a folder for Ollama, whose server isn't checked."""
    if bundle is not None and bundle.meta.get("format") == "ollama":
        raise StepError(
            "this step can't check Ollama, which doesn't show the tokens of its prompts",
            fix="leave out `bundle`, or name a llama.bundle of the same GGUF: Ollama 0.30 and "
            "later use the chat template in it, too. To see the text that Ollama writes, send a "
            "request with `_debug_render_only: true` to its /api/chat",
        )
