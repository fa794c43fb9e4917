"""`hub.push`: models with their card, as one commit on the Hugging Face hub."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from finery import (
    Bundle,
    DataError,
    Inputs,
    Job,
    Key,
    Model,
    Note,
    Resources,
    Settings,
    Step,
    UsageError,
    outside_key,
    setting,
    takes,
)
from finery.advanced import About
from finery.views import Output, Part, Quantity, Section, Table, Text, View
from finery_hub.card.card import TEMPLATE, card
from finery_hub.card.facts import Facts
from finery_hub.card.metadata import (
    Benchmark,
    Target,
    eval_results,
    origin_on_hub,
    pushed_scores,
    score_of,
)
from finery_hub.push.files import MARK, README, File, Placed, place

if TYPE_CHECKING:
    from finery.advanced import Graph, Manifest, Results

TOKEN = "HF_TOKEN"
LONGEST_NAME = 96
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
FORMAT = "hub"
"""The format of the artifact."""
MERGING = ("torch", "transformers", "peft")
"""The packages that merge an adapter."""


class OnHub(Settings):
    """A benchmark on the hub that an evaluation of the recipe runs."""

    dataset: str = setting(
        pattern=r"^[\w.-]+/[\w.-]+$", help="The data set of the benchmark, owner/name."
    )
    task: str = setting(min_length=1, help="The task's id in the benchmark's `eval.yaml`.")
    metric: str | None = setting(
        None, help="The metric to report. Default: the first of the evaluation."
    )


class HubPush(
    Step,
    sections=("export",),
    seeded=False,
    isolated=True,
    version="1",
    rehearsal={"dry_run": True},
):
    """Push models to the Hugging Face hub, with a model card, the recipe and its lock file.

    Everything is pushed in one commit, or nothing is. The card says what the models were made from,
    how they were evaluated, which data they learned from and how to run them. It has the
    evaluations that the step waits for: name them in `needs`. The step runs only in a build, and
    again only when something that it pushes has changed.
    """

    models: list[Model] = takes(
        uses_name=True,
        help="The models: adapters, whole models and GGUF files. The first adapter or whole model "
        "is at the root of the repository, others are in folders.",
    )
    bundles: list[Bundle] | None = takes(
        None, uses_name=True, help="Bundles to push, too, e.g. of `ollama.modelfile`."
    )
    repo: str = setting(
        min_length=1, help="The repository, owner/name.", examples=["acme/ticket-triage"]
    )
    private: bool = setting(True, help="Whether only you and your organization see the repository.")
    dry_run: bool = setting(
        False, help="Write the card and list the files, without using the network."
    )
    merge: bool = setting(
        False,
        help="Also push the first adapter merged into its base, as a whole model in 16 bits at the "
        "root. The adapter then goes to the folder `adapter`.",
    )
    recipe: bool = setting(True, help="Whether to push the recipe and its lock file.")
    license: str | None = setting(
        None, min_length=1, help="The licence of what is pushed. Default: that of the base."
    )
    licenses: dict[str, str] = setting(
        {},
        help="Step with rows from outside → their licence. The card says that others aren't known.",
        examples=[{"tickets": "cc-by-4.0"}],
    )
    base_model: str | None = setting(
        None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        help="The repository that the card names as the base, e.g. that of the unquantised model. "
        "Default: that of `hub.model`.",
    )
    base_model_relation: Literal["adapter", "finetune", "merge", "quantized"] | None = setting(
        None, help="How the models derive from the base. Default: from what is pushed."
    )
    benchmarks: dict[str, OnHub] = setting(
        {},
        help="Evaluation → the benchmark on the hub that it runs. Its score also goes to "
        "`.eval_results`, which the hub shows on the benchmark's leaderboard.",
    )
    adopt: bool = setting(
        False,
        affects_output=False,
        help="Push into a repository with other files, too. They stay, except for files with the "
        "same name.",
    )

    def check(self) -> None:
        """Raise `UsageError` for names that the hub doesn't take, and for nothing to push."""
        _check_repo(self.repo)
        names = [model.ref for model in self.models]
        if not names:
            raise UsageError("`models` is empty", where="models", fix="name one: models: [sft]")
        if len(set(names)) < len(names):
            raise UsageError("a model is listed twice", where="models", fix="list each model once")
        formats = [model.meta.get("format") for model in self.models]
        for name, model_format in zip(names, formats, strict=True):
            if model_format in ("api", "prompted"):
                raise UsageError(
                    f"'{name}' has no files to push: it has the format '{model_format}'",
                    where="models",
                    fix="name models that are trained or exported",
                )
        if self.merge and None not in formats and "adapter" not in formats:
            raise UsageError(
                "`merge` needs an adapter, but `models` has none",
                where="merge",
                fix="remove merge, or name an adapter",
            )

    def cache_key(self) -> Key:
        """The packages that merge an adapter, and the text of cards."""
        return Key(packages=MERGING if self.merge else (), code=(TEMPLATE,))

    def resources(self) -> Resources:
        """What talks to the hub and merges an adapter; the token, unless the user logged in."""
        hub = {} if self.dry_run else {"huggingface-hub": "finery[hub]"}
        merging = dict.fromkeys(MERGING if self.merge else (), "finery[train]")
        names = (TOKEN,) if os.environ.get(TOKEN) and not self.dry_run else ()
        return Resources(variables=names, packages=hub | merging)

    def run(self, job: Job) -> Bundle:
        """Write the card, and push everything as one commit."""
        facts = msgspec.convert(job.provenance, Facts)
        target = self.target()
        merged = _merged(self.models, job) if self.merge else None
        placed = place(self.models, self.bundles or [], self.repo, merged)
        files = self.files_of(facts, placed, target)
        seen: set[str] = set()
        for file in files:
            if file.path in seen:
                raise DataError(
                    f"two files would be pushed as {file.path}",
                    fix="name fewer models or bundles, or push them to several repositories",
                )
            seen.add(file.path)
        _keep(files, job.out)
        meta: dict[str, Any] = {
            "format": FORMAT,
            "repo": self.repo,
            "dry_run": self.dry_run,
            "files": {file.path: file.size for file in sorted(files, key=lambda f: f.path)},
        }
        if self.dry_run:
            job.log(f"{len(files)} files for {self.repo}; nothing was pushed (dry_run: true)")
            return Bundle(job.out, meta=meta)
        from finery_hub.push.upload import push

        pushed = push(
            self.repo,
            files,
            job,
            private=self.private,
            owner=(facts.recipe.name, facts.step),
            adopt=self.adopt,
        )
        meta |= {"commit": pushed.commit, "url": pushed.url, "private": pushed.private}
        return Bundle(job.out, meta=meta)

    def target(self) -> Target:
        """The target of the models, with what the card states about it."""
        from finery_hub.client import endpoint

        benchmarks = {
            step: Benchmark(on.dataset, on.task, on.metric) for step, on in self.benchmarks.items()
        }
        return Target(
            repo=self.repo,
            license=self.license,
            base_model=self.base_model,
            relation=self.base_model_relation,
            merged=self.merge,
            recipe=self.recipe,
            benchmarks=benchmarks,
            endpoint=endpoint(),
        )

    def files_of(self, facts: Facts, placed: Sequence[Placed], target: Target) -> list[File]:
        """All files that are pushed."""
        import yaml

        known = [origin.step for origin in facts.origins]
        for step in self.licenses:
            if step not in known:
                raise DataError(
                    f"`licenses` names '{step}', which isn't a source of rows for these models",
                    where="licenses",
                    fix=f"name one of: {', '.join(known)}" if known else "remove it",
                )
        _check_benchmarks(target.benchmarks, facts, placed)
        files = [file for p in placed for file in p.files]
        if self.recipe:
            files.append(File(facts.recipe.file, facts.recipe.text.encode()))
            if facts.lock.text:
                files.append(File(facts.lock.file, facts.lock.text.encode()))
        for path, entries in eval_results(facts, placed, target):
            text: str = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1000)
            files.append(File(path, text.encode()))
        files.append(File(README, card(facts, placed, files, target).encode()))
        paths = sorted([*(file.path for file in files), MARK])
        rows = [o.rows for o in facts.origins]
        rows += [r for training in facts.trainings for r in (*training.rows, *training.validation)]
        rows += [evaluation.rows for evaluation in facts.evaluations]
        counts = {r.ref: {"count": r.count, "blake3": r.digest} for r in rows}
        mark = {
            "recipe": facts.recipe.name, "step": facts.step, "files": paths, "rows": counts,
        }  # fmt: skip
        text = json.dumps(mark, indent=1, ensure_ascii=False) + "\n"
        return [*files, File(MARK, text.encode())]

    def provenance(self, name: str, graph: "Graph", results: "Results") -> Mapping[str, Any]:
        """What the card says, by the names of `Facts`."""
        from finery_hub.push.gather import gather_push

        facts: dict[str, Any] = msgspec.to_builtins(gather_push(self, name, graph, results))
        return facts

    def advise(self, inputs: Inputs) -> Iterator[Note]:
        """Notes on a push that needs a token, or publishes a row."""
        bundles = inputs.node.sources_of(Bundle)
        made_by = {s.ref: inputs.graph.nodes[s.step].step for s in bundles}
        with_row = [ref for ref, step in made_by.items() if getattr(step, "prompt", 0) == ""]
        if with_row:
            yield Note(
                name="row-published",
                text=f"{inputs.name} publishes a question of the training rows, as the example in "
                f"{', '.join(with_row)}",
                fix="set `prompt` there, or list `row-published` in `silence` if it may be public",
            )
        if not self.dry_run and inputs.results.meta(inputs.name) is None and not _has_token():
            yield Note(
                name="no-hub-token",
                text=f"{inputs.name} pushes to {self.repo}, but there is no token for the hub",
                fix="log in (`hf auth login`), or set HF_TOKEN to a token with write access",
            )


def _check_repo(repo: str) -> None:
    """Raise `UsageError` for a name that the hub doesn't take."""
    owner, slash, name = repo.partition("/")
    wrong = None
    if not (owner and slash and name) or "/" in name:
        wrong = "it needs an owner and a name, with one slash between them"
    elif not (_PART.fullmatch(owner) and _PART.fullmatch(name)):
        wrong = (
            "owner and name take letters, digits, '-', '_' and '.', and neither begins nor "
            "ends with '-' or '.'"
        )
    elif "--" in repo or ".." in repo:
        wrong = "'--' and '..' aren't allowed"
    elif name.endswith(".git"):
        wrong = "it can't end with .git"
    elif len(name) > LONGEST_NAME:
        wrong = f"it is longer than {LONGEST_NAME} characters"
    if wrong is None:
        return
    parts = [
        re.sub(r"[^A-Za-z0-9._]+|-{2,}|\.{2,}", "-", part).strip("-.") for part in (owner, name)
    ]
    better = "/".join(part.removesuffix(".git") for part in parts if part)
    fix = f"for example: repo: {better}" if "/" in better and better != repo else "write owner/name"
    raise UsageError(f"'{repo}' can't be the name of a repository: {wrong}", where="repo", fix=fix)


def _check_benchmarks(
    benchmarks: Mapping[str, Benchmark], facts: Facts, placed: Sequence[Placed]
) -> None:
    """Raise `DataError` for a score that would be shown for a benchmark that wasn't run."""
    scores = {
        evaluation.step: (evaluation, judged) for evaluation, judged in pushed_scores(facts, placed)
    }
    for step, benchmark in benchmarks.items():
        if step not in scores:
            raise DataError(
                f"`benchmarks` names '{step}', but no evaluation of that name judges these models "
                "before the push",
                where="benchmarks",
                fix=f"add it to `needs`: needs: [{step}]",
            )
        evaluation, judged = scores[step]
        origin = origin_on_hub(facts, evaluation)
        if origin is None or origin.repo != benchmark.dataset:
            raise DataError(
                f"the rows of '{step}' don't come from {benchmark.dataset}",
                where="benchmarks",
                fix=f"take them from there: {{use: hub.dataset, repo: {benchmark.dataset}, …}}",
            )
        if score_of(judged, benchmark.metric) is None:
            names = ", ".join(score.metric for score in judged.scores)
            raise DataError(
                f"'{step}' has no metric '{benchmark.metric}'",
                where="benchmarks",
                fix=f"one of: {names}",
            )


def _merged(models: Sequence[Model], job: Job) -> Path:
    """The folder of the first adapter, merged into its base in 16 bits."""
    adapter = next(model for model in models if model.format == "adapter")
    from finery_transformers.loading import load_merged

    folder = job.scratch / "merged"
    job.progress(0, 1, f"merging {adapter.name}")
    merged, tokenizer = load_merged(adapter)
    merged.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def _keep(files: Sequence[File], out: Path) -> None:
    """Write what only the push makes: the card, the recipe, completed files."""
    for file in files:
        if isinstance(file.source, bytes):
            path = out / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.source)


@outside_key
def _has_token() -> bool:
    """Whether a token is set, or the user is logged in to the hub."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface").expanduser()
    path = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    return bool(os.environ.get(TOKEN)) or path.is_file()


class HubView(View):
    """Shows what was pushed, or would be."""

    def brief(self, manifest: "Manifest") -> str:
        """The repository and the commit."""
        meta = manifest.meta
        commit = str(meta.get("commit", ""))[:12]
        return f"{meta['repo']} {f'at {commit}' if commit else '(dry run)'}"

    def facts(self, output: Output) -> Mapping[str, Any]:
        """All but the files, which have a table."""
        return {n: fact for n, fact in output.manifest.meta.items() if n not in ("files", "format")}

    def overview(self, output: Output) -> Iterator[Part]:
        """Facts, the files in the repository, and the card."""
        yield from super().overview(output)
        meta = output.manifest.meta
        title = "files that would be pushed" if meta["dry_run"] else "files in the repository"
        files = [[Quantity(count, "bytes"), name] for name, count in meta["files"].items()]
        yield Section(title, [Table(["", ""], files)])
        card = output.artifact.file(README).read_text(encoding="utf-8")
        yield Section("the card", [Text(card, is_code=True)])


ABOUT = {
    "no-hub-token": About(
        when="a `hub.push` isn't built yet, HF_TOKEN isn't set, and nobody is logged in to the hub",
        why="The push is usually the last step. Without a token it fails after all others.",
    ),
    "row-published": About(
        when="a `hub.push` pushes a bundle with an example request whose `prompt` isn't set",
        why="The example is then the first short question of the training rows, which may be "
        "private.",
    ),
}
