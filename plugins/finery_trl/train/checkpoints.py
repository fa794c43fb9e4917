"""Checkpoints in a folder: which are complete, which to keep, and which is the best.

A checkpoint `checkpoint-<step>` is complete once it has a mark, written last, with the size of
every file. A checkpoint that was left incomplete by a kill or a power failure is removed.
"""

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finery import StepError

MARK = "complete.json"
KEPT = 2
"""How many of the newest checkpoints are kept in addition to the best one."""
LOWEST_LOSS = "eval_loss"
MEASURED = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "rewards/accuracies": "preference_accuracy",
    "rewards/margins": "reward_margin",
    "eval_loss": "eval_loss",
    "eval_rewards/accuracies": "eval_preference_accuracy",
    "eval_rewards/margins": "eval_reward_margin",
    "reward": "reward",
    "reward_std": "reward_spread",
    "frac_reward_zero_std": "equal_groups",
    "agreement": "agreement",
    "completions/clipped_ratio": "cut_off",
    "kl": "kl",
    "completions/mean_length": "answer_length",
}
"""Name in the logs of the trainers → name in curves."""
_REWARD = re.compile(r"rewards/(.+)/(mean|std)")


def measured(logs: Mapping[str, Any]) -> dict[str, float]:
    """Name in curves → value, of a trainer's log entry; also of each of several rewards."""
    values = {metric: logs[name] for name, metric in MEASURED.items() if name in logs}
    rewards = [(match, logs[name]) for name in logs if (match := _REWARD.fullmatch(name))]
    if len({match[1] for match, _ in rewards}) > 1:
        for match, value in rewards:
            values[f"reward{'_spread' if match[2] == 'std' else ''}.{match[1]}"] = value
    return {metric: value for metric, value in values.items() if value is not None}


def is_stopped(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the training ended for a reason that is in its history."""
    return any("stopped" in entry for entry in history)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def mark(checkpoint: Path) -> None:
    """Mark a checkpoint as complete."""
    waiting = checkpoint / f"{MARK}.new"
    waiting.write_text(json.dumps(_sizes(checkpoint)), encoding="utf-8")
    waiting.rename(checkpoint / MARK)


def last_whole(folder: Path) -> Path | None:
    """The newest complete checkpoint. Incomplete ones are removed."""
    complete = []
    for checkpoint in folder.glob("checkpoint-*"):
        if _is_whole(checkpoint):
            complete.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return max(complete, key=step_of, default=None)


def prune(folder: Path, history: Sequence[dict[str, Any]], by: str = LOWEST_LOSS) -> None:
    """Keep the best checkpoint so far and the newest ones."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=step_of)
    best = best_step(history, by)
    for checkpoint in checkpoints[:-KEPT]:
        if step_of(checkpoint) != best:
            (checkpoint / MARK).unlink(
                missing_ok=True
            )  # first, so that a half-removed one is incomplete
            shutil.rmtree(checkpoint)


def history_of(checkpoint: Path) -> list[dict[str, Any]]:
    """The trainer's log up to a checkpoint, in order: entries with `step` and values."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    history: list[dict[str, Any]] = state["log_history"]
    return history


def best_step(history: Sequence[dict[str, Any]], by: str = LOWEST_LOSS) -> int | None:
    """The step with the best validation, the first of equal ones; None if there is none.

    by: `eval_loss` (lowest) or the name of a watched metric (highest). Ties are broken by the lower
    validation loss, if there is one.
    """
    return min(scores, key=scores.__getitem__) if (scores := _scores(history, by)) else None


def exhausted(history: Sequence[dict[str, Any]], by: str, patience: int | None) -> bool:
    """Whether the last `patience` validations didn't improve on an earlier one."""
    scores = _scores(history, by)
    if patience is None or not scores:
        return False
    order = sorted(scores)
    best = min(order, key=scores.__getitem__)
    return len(order) - 1 - order.index(best) >= patience


def _scores(history: Sequence[dict[str, Any]], by: str) -> dict[int, tuple[float, float]]:
    """Step → the values to minimize, the second one for ties."""
    # Step 0 is the model before the training, which has no checkpoint.
    losses = {e["step"]: float(e["eval_loss"]) for e in history if e["step"] and "eval_loss" in e}
    if by == LOWEST_LOSS:
        return {step: (loss, 0.0) for step, loss in losses.items()}
    # An evaluator leaves out a metric that applies to no row yet, e.g. because nothing is called.
    watched = {e["step"]: float(e["watch"].get(by, 0.0)) for e in history if "watch" in e}
    return {
        # No number is less than NaN, so that it would stay the best one.
        step: (math.inf if math.isnan(value) else -value, losses.get(step, 0.0))
        for step, value in watched.items()
    }


def chosen(folder: Path, by: str = LOWEST_LOSS) -> Path:
    """The checkpoint to use: the best one, else the last."""
    last = last_whole(folder)
    if last is None:
        raise StepError("the training saved no checkpoint", fix="build again")
    best = folder / f"checkpoint-{best_step(history_of(last), by) or step_of(last)}"
    if not best.is_dir():
        raise StepError(
            f"the best checkpoint, {best.name}, is missing",
            where=str(folder),
            fix=f"remove this folder and build again: {folder}",
        )
    return best


def _is_whole(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(sizes == _sizes(checkpoint))


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != MARK)
    sizes = {p.relative_to(checkpoint).as_posix(): p.stat().st_size for p in files}
    return {name: size for name, size in sizes.items() if not name.startswith(MARK)}
