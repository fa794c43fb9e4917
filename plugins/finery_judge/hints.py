"""What people write for `eval.judge` and `eval.arena` who come from other tools."""

from finery import Hints

_SETTINGS = {
    "model": "models", "dataset": "rows", "data": "rows", "test": "rows", "critic": "judge",
    "judge_model": "judge", "grader": "judge", "criteria": "rubric", "criterion": "rubric",
    "template": "prompt", "max_new_tokens": "max_tokens", "temp": "temperature",
    "judge_max_tokens": "judge_tokens", "show_reference": "reference", "gate": "require",
    "threshold": "passing", "min_score": "passing", "reviews": "human", "decisions": "human",
}  # fmt: skip
JUDGE = Hints(
    settings=_SETTINGS,
    called=("llm.judge", "rubric", "g.eval", "geval", "eval.rubric", "eval.llm_judge"),
)
ARENA = Hints(
    settings={k: v for k, v in _SETTINGS.items() if v not in ("passing", "human")},
    called=("pairwise", "preference.judge", "eval.pairwise", "win_rate", "eval.win_rate"),
)
