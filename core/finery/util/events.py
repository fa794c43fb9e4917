"""What happens in a build, as data. The terminal view, `--json` and the run's log all listen.

Every event is a mapping with `event` and the fields below.

    build_started   run, recipe, steps
    step_cached     step, use
    step_started    step, use, reason
    step_log        step, message
    step_progress   step, done, total, text
    step_metric     step, name, value, at
    step_finished   step, use, seconds, outputs
    step_failed     step, use, error, log
    step_blocked    step, use, by
    build_finished  ok, ran, cached, failed, blocked, seconds, exit_code
"""

from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
Listener = Callable[[Event], None]
EVENTS = (
    "build_started",
    "step_cached",
    "step_started",
    "step_log",
    "step_progress",
    "step_metric",
    "step_finished",
    "step_failed",
    "step_blocked",
    "build_finished",
)
