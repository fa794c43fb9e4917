"""The step type."""

from finery import Dataset, Job, Step, setting
from finery_probe.lengths import length


class MinLength(Step, seeded=False, packages=("finery-probe",)):
    """Keep the rows whose prompt is long enough."""

    rows: Dataset
    characters: int = setting(20, ge=1, help="Shortest prompt kept, in characters.")

    def run(self, job: Job) -> Dataset:
        """Filter the rows."""
        return Dataset.write(job.out, (r for r in self.rows if length(r) >= self.characters))
