"""What people write for evaluators who come from other tools."""

import re
from typing import Any

from finery import Hints

_EXAMPLE = '">= 0.85"'
_LINE = re.compile(r"\s*(?P<metric>[\w-]+\.[\w-]+)\s*(?P<rest>(?:>=|<=|=>|=<|==|=|>|<).*\S)\s*")
_FLIPPED = {"=>": ">=", "=<": "<=", "==": ">=", "=": ">="}


def _value(setting: str, value: Any) -> str | None:
    if setting == "require":
        lines = value if isinstance(value, list) else [value]
        matches = [_LINE.fullmatch(line) for line in lines if isinstance(line, str)]
        if matches and all(matches):
            parts = [f'{m["metric"]}: "{_comparison(m["rest"])}"' for m in matches if m]
            return f"write require: {{{', '.join(parts)}}}"
        return f"write require: {{MODEL.METRIC: {_EXAMPLE}}}"
    if setting.startswith("require."):
        name = setting.removeprefix("require.")
        if isinstance(value, dict) and len(value) == 1:
            ((metric, bound),) = value.items()
            return f'write require: {{{name}.{metric}: "{_comparison(bound)}"}}'
        return f'write {name}: "{_comparison(value)}"'
    return None


def _comparison(value: Any) -> str:
    """The comparison that a number, or text with a comparison of another language, stands for."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return ">= 0.85"
    text = f"{value:g}" if isinstance(value, (int, float)) else value.strip()
    sign = re.match(r"[<>=]*", text)
    written = sign.group() if sign else ""
    rest = text[len(written) :].strip()
    if isinstance(value, (int, float)) and 1 < value <= 100:
        rest = f"{value / 100:g}"
    return f"{_FLIPPED.get(written, written or '>=')} {rest}"


_JUDGE = {
    "model": "models", "dataset": "rows", "data": "rows", "test": "rows", "test_set": "rows",
    "threshold": "require", "thresholds": "require", "gate": "require",
}  # fmt: skip
_SETTINGS = {
    **_JUDGE,
    "max_new_tokens": "max_tokens", "max_length": "max_tokens", "num_predict": "max_tokens",
    "temp": "temperature",
    "regex": "extract", "pattern": "extract",
    "slice": "slices", "group_by": "slices", "breakdown": "slices",
}  # fmt: skip
_METRICS = 'remove it: all metrics are computed; require: {MODEL.METRIC: ">= 0.85"} checks one'
_ABSENT = {
    "metric": _METRICS,
    "metrics": _METRICS,
    "batch_size": "remove it: the engine chooses the batch size",
    "case_sensitive": "write ignore_case: true to accept any case; it is false by default",
}
JUDGE = Hints(settings=_JUDGE, absent=_ABSENT, value=_value)
EVALUATOR = Hints(settings=_SETTINGS, absent=_ABSENT, value=_value)
CLASSIFICATION = Hints(
    settings={**_SETTINGS, "classes": "labels"},
    absent=_ABSENT,
    called=("accuracy", "f1", "classify", "classifier", "eval.accuracy", "eval.f1"),
    value=_value,
)
EXACT = Hints(
    settings=_SETTINGS,
    absent=_ABSENT,
    called=("exact.match", "em", "eval.exact.match", "eval.em"),
    value=_value,
)
TOOLS = Hints(
    settings={**_SETTINGS, "ignore": "free", "ignore_arguments": "free", "any_order": "unordered"},
    absent={**_ABSENT, "tools": "remove it: each row has its own `tools`"},
    called=("tool.calls", "function.calling", "tool", "function.calls", "eval.function.calling"),
    value=_value,
)


def _dialog_value(setting: str, value: Any) -> str | None:
    if setting == "history":
        own = value in ("model", "rollout", "generated", False)
        return f"write history: {'own' if own else 'given'}"
    return _value(setting, value)


DIALOG = Hints(
    settings={**_JUDGE, "evaluator": "each", "metric": "each", "judge": "each", "watch": "each"},
    absent={
        **{k: v for k, v in _ABSENT.items() if k != "metric"},
        "max_tokens": "write it in `each`: each: {use: …, max_tokens: 64}",
    },
    called=("conversation", "multi_turn", "chat", "eval.chat", "eval.conversation"),
    value=_dialog_value,
)
