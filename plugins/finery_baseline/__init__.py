"""Cheap baselines that a trained model should beat: majority, linear model, nearest row.

Input: training rows. Output: a model with a special format, whose engine answers like that of any
other model. `meta["baseline"]` names its kind. Evaluators compare the other models with it. Public
for other plugins: `engines.TextEngine`, the base of engines that answer from a text, and that text,
`engines.question_text`; `answers`, the classes in rows, and `classifier`, the forms of answers;
`vectors`, TF-IDF and a logistic regression.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {
        "baseline.linear": "finery_baseline.steps:Linear",
        "baseline.majority": "finery_baseline.steps:Majority",
        "baseline.nearest": "finery_baseline.steps:Nearest",
    }


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """The engines, one for each kind of baseline."""
    return {
        "baseline-linear": "finery_baseline.engines:LinearEngine",
        "baseline-majority": "finery_baseline.engines:MajorityEngine",
        "baseline-nearest": "finery_baseline.engines:NearestEngine",
    }
