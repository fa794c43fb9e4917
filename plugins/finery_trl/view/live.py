"""The display of the metrics of a running training."""

from finery.views import LiveMetric

METRICS = {
    "loss": LiveMetric("loss {value}", rank=1),
    "eval_loss": LiveMetric(
        "val {value}", tone="good", rank=2, validation=True, lower_is_better=True
    ),
    "eval_preference_accuracy": LiveMetric(
        "preference accuracy {value}", "share", validation=True, hides="preference_accuracy"
    ),
    "eval_reward_margin": LiveMetric("reward margin {value}", hides="reward_margin"),
    "reward": LiveMetric("reward {value}", tone="good", rank=0),
    "agreement": LiveMetric("{value} agree with the teacher", "share", tone="good", rank=0),
    "answer_length": LiveMetric("{value} tokens an answer", "count"),
    "cut_off": LiveMetric("{value} cut off", "share"),
    "equal_groups": LiveMetric("{value} of groups equal", "share"),
    "preference_accuracy": LiveMetric(unit="share"),
    "reward_margin": LiveMetric(),
    "watch.*": LiveMetric(unit="share", validation=True),
    "tokens_per_second": LiveMetric("{value} tok/s", "count", tone="soft", rank=5, lasting=False),
    "learning_rate": LiveMetric("lr {value}", tone="soft", rank=6, lasting=False),
}
"""Losses in nats, preferences, metrics of a watched evaluator, speed and learning rate."""
