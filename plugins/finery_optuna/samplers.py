"""Points of a search space, drawn by Optuna's samplers that look at no results."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finery import UsageError
from finery.advanced import SearchRange

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


Space = Mapping[str, SearchRange | int]
Point = Mapping[str, float]


def quasi_random(space: Space, count: int, seed: int) -> list[Point]:
    """Points of a scrambled Sobol sequence (Sobol 1967).

    They cover the ranges more evenly than random ones, in particular a power of two of them.
    """
    return _points(space, count, "QMCSampler", qmc_type="sobol", scramble=True, seed=seed)


def random(space: Space, count: int, seed: int) -> list[Point]:
    """Points drawn at random, independently of each other."""
    return _points(space, count, "RandomSampler", seed=seed)


def _points(space: Space, count: int, sampler: str, **arguments: Any) -> list[Point]:
    """Points by a class of `optuna.samplers` with these arguments."""
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "this sampler needs the package optuna, which isn't installed",
            where="matrix.sample.use",
            fix="pip install 'finery[optuna]'",
        ) from error
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # QMCSampler is marked as experimental
            study = optuna.create_study(sampler=getattr(optuna.samplers, sampler)(**arguments))
            distributions = {axis: _distribution(of) for axis, of in space.items()}
            points: list[Point] = []
            for _ in range(count):
                trial = study.ask(distributions)
                study.tell(trial, 0.0)  # these samplers don't look at values
                points.append(dict(trial.params))
    finally:
        optuna.logging.set_verbosity(level)
    return points


def _distribution(of: SearchRange | int) -> "BaseDistribution":
    """Optuna's distribution for an axis. Listed values are numbered, so that all samplers work."""
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(of, int):
        return IntDistribution(0, of - 1)
    if of.whole:
        return IntDistribution(int(of.low), int(of.high), log=of.log, step=int(of.step or 1))
    return FloatDistribution(of.low, of.high, log=of.log, step=of.step)
