"""`serve.check`: start the real server, and hold its prompts and answers against the training."""

from collections.abc import Mapping, Sequence
from itertools import compress

import msgspec

from finery import (
    Bundle,
    Completion,
    Job,
    Key,
    Metrics,
    Model,
    Step,
    UsageError,
    nested_step,
    outside_key,
    setting,
    takes,
)
from finery.advanced import load_plugins
from finery.rows import Row, split_turns
from finery.rows.report import ReportTable
from finery_eval.asking import Limits, generate, read_rows
from finery_eval.evaluation import row_groups, write_scored
from finery_eval.measure import Measure, compare, scores_of
from finery_eval.nested import Nested
from finery_eval.predictions import predictions
from finery_eval.tables import comparison_tables
from finery_eval.verdicts import Answers, Judging, Verdict, Verdicts
from finery_gguf.llama import FORMATS, Gguf
from finery_serve.check.answers import (
    ServedModel,
    ServerQuestions,
    adapter_fault,
    answer_contents,
    answer_fault,
    stop_fault,
    swap_fault,
    unchecked_faults,
)
from finery_serve.check.prompts import (
    ComparedPrompt,
    TrainedPrompts,
)
from finery_serve.check.server_check import ComparedAnswers, ServerCheck, evaluated_name
from finery_serve.servers import STANDALONE, Fault, Kind
from finery_transformers.formats import way_out
from finery_transformers.frozen.template import ClientFacts

OWN = ("prompts", "answers", "lost")
GGUF = "gguf"


class Check(ServerCheck, engines=True, packages=("xllamacpp",), rehearsal={"max_tokens": 8}):
    """Check a running server: its prompts, its defaults and its answers.

    The step starts the real server, as `finery serve` does: llama.cpp's server with each GGUF, or
    the server of a bundle (llama.cpp, vLLM, Ollama, or that of a `serve.bundle`) with the bundle's
    own options. It sends requests to the server's HTTP API. After an interruption, only rows
    without an answer are asked again.

    - Prompts: what the server makes of every row, and of edge cases (with and without a system
      message, several turns, tools if the rows have any, Unicode, text that looks like control
      tokens), is compared token for token with the prompts of the training. So is what the server
      makes of each row's question alone, with what all training rows share, as `client.py` of a
      bundle sends it.
    - Defaults: a request without sampling settings must be answered greedily, as in the evaluation.
    - Adapters: a server that has adapters and their base must answer differently with each of them
      than with the base.
    - Answers: the rows are answered through the API. The evaluator in `judge` judges them, and the
      answers of finery's own engine. Tables have the paired difference and the rows that flipped.

    Faults that are found fail the build, each by its name: `template` (another chat template),
    `thinking` (a switch that the server sets), `prompts` (any other difference), `sampling`,
    `adapter` (the answers are those of the base, or of another model), `options` (of a bundle, that
    can't be checked), `answers` (a stop sequence of the server occurs in the rows' answers; or a
    `serve.bundle`, which has no prompts to compare, answers a row otherwise than the evaluated
    model). `allow` names those that are intended.

    Metrics, each from 0 to 1 with a 95 % Wilson interval: those of `judge`, for the served answers;
    `prompts`, the share that is the same; `answers`, the share of rows with the same answer as by
    finery's engine; with `judge`, `lost`: the share of rows that the engine gets right and the
    server doesn't.

    Raises DataError for rows that can't be judged, StepError if a server can't start.
    """

    judge: Step | None = nested_step(
        "evaluate",
        given={"models": "models", "rows": "rows"},
        help="The evaluator that judges the answers, e.g. `{use: eval.exact}`. Its models and rows "
        "are those of this step.",
    )
    trained: Model | None = takes(
        default=None,
        help="The trained model, before its export to a GGUF. Its tokenizer and chat template "
        "determine the expected prompts. Without it, finery's engine for the GGUF determines them, "
        "with the chat template in the file. Other models are compared with their own.",
    )
    base: Model | None = takes(
        default=None,
        help="The model before its training, to detect from the answers that the trained model "
        "isn't what is served. It answers the rows, and so does the trained model.",
    )
    bundle: Bundle | None = takes(
        default=None,
        help="What is served: a `llama.bundle` or the folder of an `ollama.modelfile` with the "
        "GGUF in `models`, or a `vllm.bundle` or `serve.bundle` with what it was made of in "
        "`models`. Without it, the step serves GGUFs with the options of `finery serve`. The app "
        "of a `retrieve.bundle` is checked by `retrieve.check`.",
    )
    max_tokens: int = setting(
        64, ge=1, help="Longest answer in tokens, without `judge`, which has its own."
    )
    allow: list[Kind] = setting(
        [], affects_output=False, help="Faults that don't fail the build, by name."
    )

    def metric_names(self) -> list[str]:
        """The metrics of each model, the headline first."""
        inner = self.inner()
        return [*inner.evaluator.metric_names(), *OWN] if inner else list(OWN[:2])

    def more_metrics(self) -> str:
        """How to add further metrics."""
        inner = self.inner()
        if inner is None:
            return "add `judge` for the metrics of an evaluator"
        return inner.evaluator.more_metrics()

    def inner(self) -> Nested | None:
        """The evaluator. Raises `UsageError` for a step that isn't one."""
        return Nested.of(self, "judge")

    def cache_key(self) -> Key:
        """Also the code of the servers: that for GGUFs, or for bundles of all formats.

        A bundle may not be built yet, so it isn't known whether Ollama or vLLM serves it: the
        versions of both count.
        """
        servers = load_plugins().servers
        made = {GGUF, *(str(model.meta.get("format")) for model in self.models)}
        formats = sorted(servers if self.bundle is not None else made & servers.keys())
        references = [servers[name][0] for name in formats]
        code = [ref.partition(":")[0] if isinstance(ref, str) else ref for ref in references]
        key = super().cache_key() | Key(code=code)
        if self.bundle is None:
            return key
        from finery_ollama import server as ollama
        from finery_vllm import installation as vllm

        key |= Key(facts=ollama.build_facts(), watched=ollama.build_files())
        return key | Key(facts=vllm.build_facts(), watched=vllm.build_files())

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        super().check()
        if inner := self.inner():
            inner.check(slices=False, asks=True, taken=OWN)
        if self.bundle is not None and self.bundle.meta.get("format") == STANDALONE:
            for field in ("trained", "base"):
                if getattr(self, field) is not None:
                    raise UsageError(
                        f"`{field}` is for language models, and the bundle has none", where=field,
                        fix=f"remove {field}: the bundle's answers are compared with those of "
                        "`models`",
                    )  # fmt: skip
        made_of = self.bundle.made_of if self.bundle is not None else []
        if made_of and not any(_same(m.ref, other) for m in self.models for other in made_of):
            raise UsageError(
                f"the bundle is made of {', '.join(made_of)}, which isn't in `models`",
                where="models",
                fix=f"models: [{', '.join(made_of)}]",
            )
        servers = load_plugins().servers
        for model in () if self.bundle is not None else self.models:
            found = model.meta.get("format")
            if found is not None and found not in servers:
                raise UsageError(
                    f"serve.check expects a GGUF or a `bundle`, but '{model.ref}' has the format "
                    f"'{found}'",
                    where="models",
                    fix="add `bundle:` with the step that ships it. If there is none, "
                    + way_out(model, model.ref),
                )

    def prepare(self, job: Job) -> tuple[list[Row], Judging | None]:
        """The rows, and what judges the answers to them, if anything does."""
        rows, inner = read_rows(self.rows), self.inner()
        return rows, inner.judging(job, rows) if inner else None

    def run(self, job: Job) -> Metrics:
        """Start each server, compare prompts and answers, write the metrics."""
        rows, judge = self.prepare(job)
        inner = self.inner()
        limits = inner.evaluator if inner else Limits(self.max_tokens)
        asked = [ComparedPrompt(f"row {r['id']}", split_turns(r)[0], r.get("tools")) for r in rows]
        settings = {"max_tokens": limits.max_tokens, "temperature": limits.temperature}
        asking = ServerQuestions(asked, settings, self.slots, self._trained, job)
        served: dict[str, ServedModel] = {}
        if self.bundle is not None:  # its server has all models
            served = asking.ask(self.bundle, self.models)
        else:
            for model in self.models:
                served |= asking.ask(model, [model])
        prompts, tools = [prompt.messages for prompt in asked], [prompt.tools for prompt in asked]

        def ask(model: Model, name: str) -> list[Completion]:
            """A model's answers by its engine."""
            title = f"{name}: finery's answers"
            return generate(limits, job, job.engine(model), title, prompts, tools)

        engine = {model.name: ask(model, model.name) for model in self.models}
        said = {name: answer_contents(answers) for name, answers in engine.items()}
        base, trained = (
            answer_contents(ask(model, name))
            if model is not None and self.base is not None
            else None
            for model, name in ((self.base, "base"), (self.trained, "trained"))
        )
        faults: dict[str, list[Fault]] = {}
        for model in self.models:
            name, of = model.name, served[model.name]
            fault = self._model_fault(model, of, said, base, trained)
            of_answers = [stop_fault(of.stops, rows, engine[name]), fault]
            faults[name] = [*of.faults, *filter(None, of_answers)]
        answers = {name: of.answers for name, of in served.items()}
        answers |= {evaluated_name(name): of for name, of in engine.items()}
        return self._write(job, rows, answers, served, judge(answers) if judge else None, faults)

    def _trained(self, model: Model) -> TrainedPrompts:
        """The expected prompts of a model.

        A server of several adapters adds no system message if they were trained with different
        ones, and its client sends the tools of one of them.
        """
        trained = self.trained or model
        clients = ClientFacts.of(trained.meta)
        served = ClientFacts.of(self.bundle.meta) if self.bundle is not None else None
        if self.trained is None and model.format in FORMATS:
            gguf = Gguf.of(model, vocab_only=True)
            made = TrainedPrompts.of_engine(gguf, model)
        else:
            added = served is None or served.system == clients.system
            made = TrainedPrompts.of_training(trained, system=added)
        differ = served is not None and served.tools_differ
        return made if differ else made._replace(tools=clients.tools)

    def _model_fault(
        self,
        model: Model,
        served: ServedModel,
        said: Mapping[str, Sequence[str]],
        base: Sequence[str] | None,
        trained: Sequence[str] | None,
    ) -> Fault | None:
        """The fault that a model's answers show: they are those of the base, or of another model.

        Only rows with correct prompts can show that. A server that must give the engine's very
        answers has a fault if one differs. said: model → the engine's answers. base, trained: those
        of the settings.
        """
        texts, own = answer_contents(served.answers), said[model.name]
        if served.exact:
            return answer_fault(texts, own)
        if not any(served.alike) or any(fault.kind == "adapter" for fault in served.faults):
            return None

        def alike(answers: Sequence[str]) -> list[str]:
            return [*compress(answers, served.alike)]

        fault = None
        if base is not None:
            after = trained or (own if model.format not in FORMATS else None)
            fault = adapter_fault(alike(texts), alike(base), alike(after) if after else None)
        if fault is None and self.bundle is not None:
            others = {name: alike(answers) for name, answers in said.items() if name != model.name}
            fault = swap_fault(alike(texts), alike(own), others)
        return fault

    def _write(
        self,
        job: Job,
        rows: Sequence[Row],
        answers: Answers,
        served: Mapping[str, ServedModel],
        verdicts: Verdicts | None,
        faults: Mapping[str, list[Fault]],
    ) -> Metrics:
        groups = row_groups(job, rows)
        right = verdicts.right() if verdicts else {}
        pairs = [ComparedAnswers(name, answers, right) for name in served]
        for name, of in served.items():
            if not of.exact:
                compared, alike = of.prompts
                job.log(
                    f"{name}: {alike} of {compared} prompts are the trained ones, token for token"
                )
        same = {pair.name: pair.same() for pair in pairs}
        all_same = {pair.evaluated: [True] * len(rows) for pair in pairs}
        measures = verdicts.measures(groups) if verdicts else {}
        measures |= {
            "prompts": Measure({
                name: [i < of.prompts[1] for i in range(of.prompts[0])]
                for name, of in served.items()
                if not of.exact
            }),
            "answers": Measure(same | all_same, groups),
            "lost": Measure({pair.name: pair.lost() for pair in pairs if right}, groups),
        }  # fmt: skip
        place = {name: number for number, name in enumerate(self.metric_names())}
        ordered = sorted(measures.items(), key=lambda item: place.get(item[0], len(place)))
        comparisons = [
            comparison
            for pair in pairs
            if right
            for comparison in compare(
                Measure({name: right[name] for name in (pair.evaluated, pair.name)}, groups)
            )
        ]
        missing = unchecked_faults(
            trained=self.trained is not None or all(m.format not in FORMATS for m in self.models),
            base=self.base is not None or all(of.beside_base or of.exact for of in served.values()),
            hidden=[fault for of in served.values() for fault in of.unseen],
        )
        tables = [
            *self.fault_tables(job, faults),
            *comparison_tables(comparisons),
            *(table for pair in pairs for table in pair.tables(rows)),
            *([ReportTable("Not checked", ["fault", "what"], missing)] if missing else []),
        ]
        for _, what in missing:
            job.log(f"not checked: {what}")
        prompts = [] if all(of.exact for of in served.values()) else ["prompts"]
        headline = [verdicts.headline[0] if verdicts else "answers", *prompts, "answers"]
        judged = verdicts or Verdicts({n: [Verdict({})] * len(rows) for n in answers}, [])
        lines = predictions(rows, answers, judged)
        report = msgspec.structs.replace(
            judged.report,
            rows=len(rows),
            scores=scores_of(list(answers), dict(ordered)),
            headline=[*dict.fromkeys(headline)],
            legend=f"{', '.join([*prompts, 'answers'])}: the share that is the same as in finery, "
            "without the server",
            comparisons=comparisons,
            references=[pair.evaluated for pair in pairs],
            tables=[*tables, *judged.tables],
            extra=judged.report.extra | self.extra(faults, served),
        )
        return write_scored(job, report, lines, answers=answers)


@outside_key
def _same(one: str, other: str) -> bool:
    """Whether two names may mean the same model: `gguf` may be `gguf.q8_0`."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")
