"""Cheap baselines, which a trained model has to beat: majority, linear model, nearest row.

In go training rows, out comes a model of a format of its own, whose engine answers like any other
model. `meta["baseline"]` names its kind, by which evaluators compare the other models with it.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {
        "baseline.linear": "finery_baseline.linear:Linear",
        "baseline.majority": "finery_baseline.majority:Majority",
        "baseline.nearest": "finery_baseline.nearest:Nearest",
    }


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """The engines, one for each kind of baseline."""
    return {
        "baseline-linear": "finery_baseline.engines:LinearEngine",
        "baseline-majority": "finery_baseline.engines:MajorityEngine",
        "baseline-nearest": "finery_baseline.engines:NearestEngine",
    }
