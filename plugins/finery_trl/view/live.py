"""The display of the metrics of a running training."""

from finery.util.text import percent
from finery.views import LiveMetric


def thousands(value: float) -> str:
    """`126`, `1.3k`, `24k`."""
    return f"{value:.0f}" if value < 1000 else f"{value / 1000:.{1 if value < 10_000 else 0}f}k"


def power(value: float) -> str:
    """`2.0e-4`, `0`."""
    return f"{value:.1e}".replace("e-0", "e-") if value else "0"


METRICS = {
    "loss": LiveMetric("loss {value}", "{:.3f}".format, style="cyan", rank=1),
    "eval_loss": LiveMetric(
        "val {value}", "{:.3f}".format, style="green", rank=2, validation=True, lower_is_better=True
    ),
    "eval_preference_accuracy": LiveMetric(
        "preference accuracy {value}", percent, validation=True, hides="preference_accuracy"
    ),
    "eval_reward_margin": LiveMetric("reward margin {value}", hides="reward_margin"),
    "reward": LiveMetric("reward {value}", "{:.3f}".format, style="green", rank=0),
    "agreement": LiveMetric("{value} agree with the teacher", percent, style="green", rank=0),
    "answer_length": LiveMetric("{value} tokens an answer", "{:.0f}".format),
    "cut_off": LiveMetric("{value} cut off", percent),
    "equal_groups": LiveMetric("{value} of groups equal", percent),
    "preference_accuracy": LiveMetric(number=percent),
    "reward_margin": LiveMetric(),
    "watch.*": LiveMetric(number=percent, validation=True),
    "tokens_per_second": LiveMetric("{value} tok/s", thousands, style="dim", rank=5, lasting=False),
    "learning_rate": LiveMetric("lr {value}", power, style="dim", rank=6, lasting=False),
}
"""Losses in nats, preferences, metrics of a watched evaluator, speed and learning rate."""
