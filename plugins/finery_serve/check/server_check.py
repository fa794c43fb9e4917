"""The base of step types that check a running server: faults fail the build.

Input: answers of the server and of finery's engine, and the faults that were found. Output: tables
of the faults and of the rows that are answered otherwise, and the error for faults that aren't
allowed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from finery import Artifact, Completion, Job, Key, Metrics, RequirementError, setting
from finery.rows import Row
from finery.rows.report import ReportTable
from finery_eval.evaluator import Judge
from finery_eval.tables import table
from finery_gguf.programs import SERVER, build_facts, build_files
from finery_serve.check.answers import answer_contents
from finery_serve.servers import Fault

EVALUATED = "{} in finery"
"""The name of a model's answers by finery's engine."""
FAULTS = "faults"
SHOWN = 200
"""Characters of an answer in a table."""
ROWS_SHOWN = 20
FLIPS: Mapping[tuple[Any, Any], str] = {(True, False): "lost", (False, True): "gained"}
"""(whether the engine's answer is right, whether the server's is) → what the row was."""


class ServerCheck(Judge):
    """Hold a running server against the build. Subclasses declare `allow`: kinds of faults.

    Their `run` writes what is `FAULTS` of the report's own: model → its faults.
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


def fault_tables(job: Job, faults: Mapping[str, Sequence[Fault]]) -> list[ReportTable]:
    """The table of the faults of each model, which are also logged; empty without any."""
    rows = [[name, fault.kind, fault.what] for name, of in faults.items() for fault in of]
    for row in rows:
        job.log(": ".join(row))
    return [table("Faults", ["model", "fault", "what is wrong"], rows)] if rows else []


def same_answers(engine: Sequence[Completion], served: Sequence[Completion]) -> list[bool]:
    """Whether the server gives the engine's answer to each row."""
    return [a == b for a, b in zip(answer_contents(engine), answer_contents(served), strict=True)]


def lost_answers(name: str, right: Mapping[str, Sequence[bool]]) -> list[bool]:
    """Whether the engine gets each row right and the server doesn't. name: of the model."""
    pairs = zip(right[EVALUATED.format(name)], right[name], strict=True)
    return [engine and not served for engine, served in pairs]


def changed_tables(
    name: str,
    rows: Sequence[Row],
    answers: Mapping[str, Sequence[Completion]],
    right: Mapping[str, Sequence[bool]],
) -> list[ReportTable]:
    """The table of the rows that the server answers otherwise, those whose verdict flipped first.

    name: of the model. right: whether its answers are right, and the engine's; empty if unknown.
    """
    own = EVALUATED.format(name)
    engine, served = answers[own], answers[name]
    lines = []
    for i, is_same in enumerate(same_answers(engine, served)):
        if not is_same:
            verdict = FLIPS.get((right[own][i], right[name][i]), "") if right else ""
            lines.append([rows[i]["id"], verdict, engine[i].text[:SHOWN], served[i].text[:SHOWN]])
    lines.sort(key=lambda line: not line[1])
    title = f"{name}: {len(lines)} rows that the server answers otherwise"
    columns = ["row", "flipped", "evaluated", "served"]
    shown = lines[:ROWS_SHOWN]
    return [table(title, columns, shown, model=name, is_private=True)] if lines else []
