"""What is known about an evaluation of classes before it runs."""

from collections import Counter
from collections.abc import Iterable

from finery import Forecast
from finery.rows import Row
from finery.rows.answers.reading import Unreadable
from finery_eval.steps.classification import Classification


class ClassesForecast(Forecast[Classification]):
    """The classes that rows expect."""

    def classes(self, rows: Iterable[Row]) -> Counter[str]:
        """Rows of each class, with fields of each `field: class`; rows without one don't count."""
        reader = self.step.reader()
        counts: Counter[str] = Counter()
        for row in rows:
            try:
                values = reader.expected(row).values
            except Unreadable:
                continue
            classes = zip(reader.columns, values, strict=True)
            counts.update(f"{name}: {value}" if reader.fields else value for name, value in classes)
        return counts
