"""How a build records what it made, and uses a shared store: asks it, and adds to it."""

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from finery.artifact.manifest import Manifest, Parts, Result, key_of, reads_in, result_key
from finery.builder.plan import Planner, StepPlan, make_plan
from finery.builder.reads import current_values, fetch_read_lists, push_list, why_not_reusable
from finery.builder.versions import push_versions
from finery.config import Config
from finery.errors import FineryError, RemoteError, StepError
from finery.store.database import Store
from finery.store.layout import BlobsLost
from finery.store.objects import public_url
from finery.store.repairs import warn
from finery.store.shared import Missing

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from finery.store.remote import Remote
    from finery.store.signing import Signer, Trust

COPY_THREADS = 8
"""How many results, or inputs of steps, are copied at the same time."""
SHOW_SECONDS = 0.5
"""How often to report what was copied."""

CREDENTIAL_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_", "HF_TOKEN")
"""Beginnings of the names of variables that give access to buckets."""


class Transfer(NamedTuple):
    """Bytes that arrived, of how many; bytes that were sent, and results still to send."""

    fetched: int
    wanted: int
    pushed: int
    waiting: int


def signing_keys(config: Config) -> "tuple[Signer | None, Trust | None]":
    """What signs results that are pushed, and what checks others.

    Warns if nobody will use what is pushed. Raises `UsageError` for a wrong key.
    """
    from finery.store import signing

    with config.placing():
        signer = signing.Signer(config.signing_key) if config.push and config.signing_key else None
        trust = signing.Trust(config.trust) if config.trust else None
    if config.push and trust and not (signer and trust.signed(b"", signer.sign(b""))):
        reason = "`signing_key` isn't one of them" if signer else "no `signing_key` is set"
        warn(
            f"what is pushed won't be used by anyone who trusts only the keys in `trust`: {reason}"
        )
    return signer, trust


class Sharing:
    """The shared store of a build, and all that is copied from and to it.

    For one thread, apart from the threads that it starts.
    """

    def __init__(self, store: Store, config: Config) -> None:
        """Raises `UsageError` where a setting is wrong."""
        self._store = store
        self._fetch = config.fetch
        self._remote: Remote | None = None
        self.pushes = False
        self.answers: dict[str, Any] = {}  # see `finery.inference.shared`
        if config.remote:
            self.pushes = config.push
            signs = self.pushes and config.signing_key
            from finery.store import remote

            with config.placing():
                self._remote = remote.Remote(config.remote, *signing_keys(config))
            store.shared.use(self._remote)
            if config.share_answers:
                self.answers = {
                    "url": config.remote, "push": self.pushes, "trust": config.trust,
                    "signing_key": config.signing_key if signs else None,
                    "environment": {
                        name: value for name, value in os.environ.items()
                        if name.startswith(CREDENTIAL_PREFIXES)
                    },
                }  # fmt: skip
        self._requested_keys: set[str] = set()
        self._opened = store.opened
        self._copies: dict[str, tuple[Future[None], Missing]] = {}
        self._wanted = self._arrived = 0
        self._pushes: list[Future[None]] = []
        self._pushed: set[str] = set()
        self._shown, self._shown_at = Transfer(0, 0, 0, 0), 0.0
        self._is_refused = False  # whether nothing can be written
        self.is_behind = False  # whether something couldn't be copied
        self.has_pushed = True  # whether nothing that should be there is missing there

    @cached_property
    def _threads(self) -> "dict[str, ThreadPoolExecutor]":
        """The threads that copy from and to shared stores."""
        from concurrent.futures import ThreadPoolExecutor

        return {way: ThreadPoolExecutor(COPY_THREADS) for way in ("from", "to")}

    @property
    def asks(self) -> bool:
        """Whether to ask for results."""
        return self._remote is not None and not self._remote.down

    def ask(
        self, planner: Planner, names: Sequence[str], results: Mapping[str, Result | None], run: str
    ) -> None:
        """Ask for the results of steps with built inputs, all at once; the store keeps them.

        Only if it `asks`.
        """
        assert self._remote is not None
        if self._opened != self._store.opened:  # what was adopted may be lost with the database
            self._opened = self._store.opened
            self._requested_keys.clear()
        plans: dict[str, StepPlan] = {}
        parts: dict[str, Parts] = {}
        for name in names:
            try:
                plan = planner.resolve(name, results)
            except FineryError:  # whoever looks the step up reports it
                continue
            if plan.key and (plan.result is None or plan.accepted):
                parts |= {k: p for k, p in planner.keys(plan) if k not in self._requested_keys}
                plans |= dict.fromkeys(parts.keys() - plans.keys(), plan)
        self._requested_keys |= plans.keys()
        found_records = self._remote.records(plans)
        missing = [key for key in plans if key not in found_records]
        places = {key: planner.places(plans[key]) for key in missing}
        for key, lists in fetch_read_lists(self._remote, missing, places).items():
            for names_read in lists:
                reads = current_values(self._store, places[key], names_read)
                read_key = result_key(key, reads)
                plans[read_key], parts[read_key] = plans[key], [*parts[key], *reads]
        found_records |= self._remote.records(plans.keys() - found_records.keys() - {*missing})
        records = {k: r for k, r in found_records.items() if planner.fits(plans[k], r.outputs)}
        if len(records) < len(found_records):
            self._remote.refuse()
        if records:
            inputs = {k: [*planner.inputs(plans[k].node, results).values()] for k in records}
            record_parts = {key: parts[key] for key in records}
            self._store.shared.adopt(
                public_url(self._remote.url), records, record_parts, inputs, run
            )

    # -- from there to here ----------------------------------------------------------------------

    def is_here(self, name: str, manifests: Iterable[Manifest]) -> bool:
        """Whether artifacts are here. If not, they are on their way: ask again under this name.

        Raises `BlobsLost` if they can't be had.
        """
        if name not in self._copies:
            missing = self._store.shared.missing(manifests, must_exist=True)
            if not missing:
                return True
            self._wanted += sum(blob.size for blobs in missing.values() for blob in blobs)
            copy = self._store.shared.prepare_copy(missing, self._count)
            self._copies[name] = self._threads["from"].submit(copy), missing
            return False
        copying, missing = self._copies[name]
        if not copying.done():
            return False
        del self._copies[name]
        copying.result()
        self._store.shared.arrived(missing)
        return True

    def _count(self, size: int) -> None:
        self._arrived += size

    def bring(
        self, results: Mapping[str, Result], final_steps: Collection[str], wait: Callable[[], None]
    ) -> list[str] | None:
        """Copy the outputs here that should be: steps with copied outputs.

        None if steps must run to have them. final_steps: those that no other step uses.
        """
        if self._fetch == "none" or not self._store.shared:
            return []
        fetched_steps = [name for name in results if self._fetch == "all" or name in final_steps]
        manifests = [m for name in fetched_steps for m in results[name].outputs.values()]
        try:
            if self.is_here("", manifests):
                return []
            while not self.is_here("", manifests):
                wait()
        except BlobsLost as error:
            if not error.is_down:
                self.lose(error)
                return None
            self.give_up()
        return fetched_steps

    def lose(self, error: BlobsLost) -> None:
        """Forget what can't be had. The steps that made it run again."""
        self._store.shared.lose(error)
        self.give_up()

    def give_up(self) -> None:
        """Report shared stores that can't be used, each once."""
        shared = self._store.shared
        self.is_behind |= any(remote.down for remote in shared.remotes.values())
        shared.warn()

    # -- from here to there ----------------------------------------------------------------------

    def push(self, results: Iterable[Result], *, are_new: bool) -> None:
        """Add recorded results to the shared store, in the background.

        are_new: whether this build made them; others are only added if they aren't there.
        """
        for result in results:
            if why_not_reusable(result.parts):
                continue
            if self.pushes and (are_new or result.key not in self._pushed):
                self._pushed.add(result.key)
                self._pushes.append(self._threads["to"].submit(self._push, result, are_new))

    def _push(self, result: Result, is_new: bool) -> None:
        assert self._remote is not None
        try:
            is_there = not is_new and bool(self._remote.records([result.key]))
            if self._is_refused or self._remote.down:
                self._wait_for_pushes()
            elif not (is_there or any(m.external for m in result.outputs.values())):
                self._remote.push_result(self._store.root, result)
                if (reads := reads_in(result.parts)) and not why_not_reusable(result.parts):
                    push_list(self._remote, key_of(result.parts[: -len(reads)]), reads)
                push_versions(self._remote, result)
        except RemoteError as error:
            self._is_refused = True
            self._wait_for_pushes()
            self._remote.warn("can't be written", error.what)
        except FileNotFoundError:  # the files are in another shared store
            pass
        except OSError:
            self._wait_for_pushes()

    def _wait_for_pushes(self) -> None:
        self.is_behind, self.has_pushed = True, False

    @property
    def is_pushing(self) -> bool:
        """Whether results are still being added."""
        return not all(push.done() for push in self._pushes)

    @property
    def is_complete(self) -> bool:
        """Whether the next build would copy nothing."""
        return not (self.is_behind or self.is_pushing)

    def progress(self, *, is_last: bool = False) -> Transfer | None:
        """What was copied so far, if that has changed since the last report.

        is_last: also if that was a moment ago.
        """
        remotes, now = [*self._store.shared.remotes.values()], time.monotonic()
        waiting = sum(not push.done() for push in self._pushes)
        pushed = sum(remote.pushed for remote in remotes)
        transfer = Transfer(self._arrived, self._wanted, pushed, waiting)
        if transfer == self._shown or not (is_last or now - self._shown_at > SHOW_SECONDS):
            return None
        self._shown, self._shown_at = transfer, now
        return transfer

    def close(self, *, interrupted: bool) -> None:
        """Wait for all copies; if interrupted, end them. They continue in the next build."""
        if interrupted:
            for remote in self._store.shared.remotes.values():
                remote.stop()
        if "_threads" in self.__dict__:
            for threads in self._threads.values():
                threads.shutdown(cancel_futures=interrupted)


def plans_with_shared(
    planner: Planner, config: Config, *, without_files: bool = False
) -> list[StepPlan]:
    """The plan of every step, with the results that the shared store has. Copies no files.

    without_files: see `make_plan`.
    """
    plans = [*make_plan(planner, without_files=without_files)]
    if config.remote and not planner.store.read_only:
        sharing = Sharing(planner.store, msgspec.structs.replace(config, push=False))
        while sharing.asks:
            undecided = [p.node.name for p in plans if p.key and (p.result is None or p.accepted)]
            results = {plan.node.name: plan.result for plan in plans}
            sharing.ask(planner, undecided, results, "")
            earlier_plans, plans = plans, [*make_plan(planner, without_files=without_files)]
            if [plan.key for plan in plans] == [plan.key for plan in earlier_plans]:
                break
        while not sharing.asks and not planner.store.shared.reach(_inputs_to_run(plans)):
            plans = [*make_plan(planner, without_files=without_files)]
        sharing.give_up()
    return plans


def _inputs_to_run(plans: Sequence[StepPlan]) -> list[Manifest]:
    """The inputs of steps that will run, as far as they are built."""
    results = {plan.node.name: plan.result for plan in plans}
    sources = [source for plan in plans if plan.result is None for source in plan.node.sources]
    return [
        result.outputs[s.output] for s in sources if (result := results.get(s.step)) is not None
    ]


# -- records --------------------------------------------------------------------------------------


RECORD_SECONDS = 0.1
"""Steps faster than this are recorded in groups, at this interval."""
COMMIT_GROUP = 256
"""The most results of a group."""


class Recording:
    """Commits results, and releases the locks of their keys.

    A kill costs at most the work of the quick steps that aren't recorded yet.

    built: key of a step → its result of this build, recorded or not.
    keys: step → key of its current result, for those that aren't recorded yet.
    """

    def __init__(self, planner: Planner, sharing: Sharing, run: str) -> None:
        self.built: dict[str, Result] = {}
        self.keys: dict[str, str] = {}
        self._planner = planner
        self._sharing = sharing
        self._run = run
        self._new: dict[str, Result] = {}
        self._recorded_at = time.monotonic()
        self._cleaners: list[threading.Thread] = []

    def __bool__(self) -> bool:
        """Whether something isn't recorded yet."""
        return bool(self._new or self.keys)

    def add(self, result: Result, key: str) -> None:
        """Record a result, if its step is quick, with others. key: of the step."""
        self.built[key] = self._new[key] = result
        self.write(now=result.seconds > RECORD_SECONDS)

    def write(self, *, now: bool) -> None:
        """Commit what is finished, if it is time."""
        is_time = now or time.monotonic() - self._recorded_at > RECORD_SECONDS
        if not self or not (is_time or len(self._new) >= COMMIT_GROUP):
            return
        self._commit([*self._new.values()])
        self._sharing.push(self._new.values(), are_new=True)
        self._clear([*self._new])
        self._new.clear()
        self._recorded_at = time.monotonic()
        # During the build, since it may be killed.
        self._planner.store.remember(self._planner.recipe_id, self.keys)
        self.keys = {}

    def restore(self, results: Collection[Result]) -> None:
        """Record results with their files again: the database was replaced and may lack them."""
        is_intact = self._planner.store.is_intact
        intact = {
            result.key: result for result in (*self.built.values(), *results)
            if all(is_intact(*f) for m in result.outputs.values() for f in m.files.values())
        }  # fmt: skip
        self._commit([*intact.values()])

    def _commit(self, results: Sequence[Result]) -> None:
        try:
            self._planner.store.commit(results, run=self._run)
        except OSError as error:
            raise StepError(
                f"the outputs of steps can't be recorded: {error}",
                fix="free some disk space and build again: no data is lost",
            ) from error

    def _clear(self, keys: list[str]) -> None:
        """Remove the folders of recorded keys in the background, since a busy disk is slow.

        Each is unlocked afterwards, since another build may be waiting to run its step again.
        """
        store = self._planner.store

        def clear() -> None:
            for key in keys:
                try:
                    store.clear_work(key)
                finally:
                    store.unlock(key)

        thread = threading.Thread(target=clear)
        thread.start()
        self._cleaners.append(thread)

    def close(self) -> None:
        """Commit everything, and wait until all folders are removed and all keys unlocked."""
        try:
            self.write(now=True)
        finally:
            for thread in self._cleaners:
                thread.join()
