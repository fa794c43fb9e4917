"""Forecasts of the generators' requests."""

from collections.abc import Mapping, Sequence

from finery import Asked, Count, Forecast
from finery_synth.ask.prompts import Prompt
from finery_synth.generator import Generator
from finery_synth.judge.scores import TRIES
from finery_synth.steps.judge import JudgeRows


class AskingForecast(Forecast[Generator | JudgeRows]):
    """The requests of the first attempt."""

    def asks(self, taken: Mapping[str, Sequence[Count | None]], *, built: bool) -> Asked:
        """The requests if the rows are built, otherwise their number if it follows from counts."""
        step = self.step
        retries = step.retries if isinstance(step, Generator) else TRIES - 1
        asked = Asked("model", None, (), step.sampling(), retries, step.budget)
        if built:
            tasks = step.tasks(Prompt.of(step.prompt, step.default_prompt()))
            return asked._replace(
                total=step.requests(step.seed_count()),
                requests=((task.request(0), task.wanted) for task in tasks),
            )
        counts = taken.get("rows", ())
        known = [count.rows for count in counts if count is not None]
        if len(known) < len(counts) or step.needs_rows():
            return asked
        return asked._replace(total=step.requests(sum(known)))
