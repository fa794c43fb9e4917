"""A judge for tests: an engine that judges with a function."""

from collections.abc import Callable, Sequence

from finery import Completion, Engine, Request, Sampling

Judge = Callable[[str], str]


class Critic(Engine):
    """Judges with the function `judge`; `prompts` has what it was asked."""

    judge: Judge = staticmethod(lambda text: "")
    prompts: list[str] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Judge each prompt."""
        texts = [str(request.messages[-1]["content"]) for request in requests]
        type(self).prompts += texts
        return [
            Completion(
                text=type(self).judge(text), finish_reason="stop", prompt_tokens=1,
                completion_tokens=1,
            )
            for text in texts
        ]  # fmt: skip


def critic(judge: Judge) -> type[Critic]:
    """An engine with this judge."""
    return type("Own", (Critic,), {"judge": staticmethod(judge), "prompts": []})
