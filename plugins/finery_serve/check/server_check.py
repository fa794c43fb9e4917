"""The base of step types that check a running server: faults fail the build.

Input: answers of the server and of finery's engine, and the faults that were found. Output: tables
of the faults and of the rows that are answered otherwise, and the error for faults that aren't
allowed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

from finery import Artifact, Completion, Job, Key, Metrics, RequirementError, setting
from finery.rows import Row
from finery.rows.report import ReportTable
from finery_eval.evaluator import Judge
from finery_gguf.programs import SERVER, build_facts, build_files
from finery_serve.check.answers import ServedModel, answer_contents
from finery_serve.servers import Fault

FAULTS = "faults"
SHOWN = 200
"""Characters of an answer in a table."""
ROWS_SHOWN = 20
FLIPS: Mapping[tuple[bool, ...], str] = {(True, False): "lost", (False, True): "gained"}
"""(whether the engine's answer is right, whether the server's is) → what the row was."""


class ServerCheck(Judge):
    """Hold a running server against the build. Subclasses declare `allow`: kinds of faults.

    Their `run` writes what `extra` gives into the report.
    """

    slots: int = setting(1, ge=1, help="Requests that the server answers at once.")
    FAILED: ClassVar[str] = "the server doesn't answer as the model was trained"
    """The error for faults that aren't allowed."""

    def cache_key(self) -> Key:
        """Also the build of the user's llama-server, if any, and where it might be."""
        return super().cache_key() | Key(facts=build_facts(SERVER), watched=build_files(SERVER))

    def verify(self, outputs: Mapping[str, Artifact]) -> None:
        """Fail for faults that aren't allowed, and for what `require` isn't met."""
        (metrics,) = outputs.values()
        assert isinstance(metrics, Metrics)
        report = metrics.report().part(FAULTS, dict[str, list[Fault]]) or {}
        wrong = [
            (name, fault)
            for name, faults in report.items()
            for fault in faults
            if fault.kind not in cast(Any, self).allow
        ]
        if wrong:
            raise RequirementError(
                self.FAILED,
                details=[
                    line
                    for name, fault in wrong
                    for line in (
                        f"{name}: {fault.kind}: {fault.what}",
                        *(f"  {detail}" for detail in fault.details),
                    )
                ],
                fix="; ".join(dict.fromkeys(fault.fix for _, fault in wrong)),
            )
        super().verify(outputs)

    @staticmethod
    def fault_tables(job: Job, faults: Mapping[str, Sequence[Fault]]) -> list[ReportTable]:
        """The table of the faults of each model, which are also logged; empty without any."""
        rows = [[name, fault.kind, fault.what] for name, of in faults.items() for fault in of]
        for row in rows:
            job.log(": ".join(row))
        columns = ["model", "fault", "what is wrong"]
        return [ReportTable("Faults", columns, rows)] if rows else []

    @staticmethod
    def extra(
        faults: Mapping[str, Sequence[Fault]], served: Mapping[str, ServedModel]
    ) -> dict[str, Any]:
        """What is only in reports of checks: by model, its faults and the server's program."""
        return {FAULTS: faults, "servers": {name: model.build for name, model in served.items()}}


class ComparedAnswers(NamedTuple):
    """The answers of a model's server next to those of finery's engine, and whether each is right.

    answers, right: by name, both of the model and `evaluated`; `right` is empty if it is unknown.
    """

    name: str
    answers: Mapping[str, Sequence[Completion]]
    right: Mapping[str, Sequence[bool]]

    @property
    def evaluated(self) -> str:
        """The name of the answers by finery's engine."""
        return evaluated_name(self.name)

    def same(self) -> list[bool]:
        """Whether the server gives the engine's answer to each row."""
        engine, served = (answer_contents(self.answers[n]) for n in (self.evaluated, self.name))
        return [a == b for a, b in zip(engine, served, strict=True)]

    def lost(self) -> list[bool]:
        """Whether the engine gets each row right and the server doesn't."""
        pairs = zip(self.right[self.evaluated], self.right[self.name], strict=True)
        return [engine and not served for engine, served in pairs]

    def tables(self, rows: Sequence[Row]) -> list[ReportTable]:
        """The rows that the server answers otherwise, those whose verdict flipped first."""
        engine, served = self.answers[self.evaluated], self.answers[self.name]
        lines = []
        for i, is_same in enumerate(self.same()):
            if not is_same:
                flip = (self.right[n][i] for n in (self.evaluated, self.name)) if self.right else ()
                texts = engine[i].text[:SHOWN], served[i].text[:SHOWN]
                lines.append([rows[i]["id"], FLIPS.get((*flip,), ""), *texts])
        lines.sort(key=lambda line: not line[1])
        title = f"{self.name}: {len(lines)} rows that the server answers otherwise"
        columns = ["row", "flipped", "evaluated", "served"]
        shown = lines[:ROWS_SHOWN]
        table = ReportTable(title, columns, shown, model=self.name, is_private=True)
        return [table] if lines else []


def evaluated_name(name: str) -> str:
    """The name of a model's answers by finery's engine."""
    return f"{name} in finery"
