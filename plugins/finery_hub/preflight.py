"""What `finery check --deep` loads of a model on the hub, and what steps of the hub import."""

from collections.abc import Mapping

from finery import Job, Model, Preflight
from finery_data.preflight import SourcePreflight
from finery_hub.model import HubModel
from finery_hub.push.step import HubPush
from finery_local.folder import HEAVY


class ModelPreflight(Preflight[HubModel]):
    """Fetches the small files."""

    def packages(self) -> Mapping[str, str]:
        """What talks to the hub."""
        return {"huggingface-hub": "finery[hub]"}

    def sketch(self, job: Job) -> Model | None:
        """The tokenizer, the chat template and the configuration.

        None for a GGUF file, which holds all of that itself.
        """
        step = self.step
        if step.file is not None:
            return None
        folder = step.fetched(step.patterns(), job, unwanted=HEAVY)
        if not folder.is_model:
            return None  # the build's error explains it better
        trusted, about = step.trust_remote_code, step.about()
        model = folder.sketch(job.out, base=step.base, trust_remote_code=trusted, about=about)
        return step.with_template(model)


class DatasetPreflight(SourcePreflight):
    """Compiles the templates of `columns`."""

    def packages(self) -> Mapping[str, str]:
        """What reads data sets of the hub."""
        return dict.fromkeys(("datasets", "huggingface-hub"), "finery[hub]")


class PushPreflight(Preflight[HubPush]):
    """Names the packages."""

    def packages(self) -> Mapping[str, str]:
        """What talks to the hub, and what merges an adapter."""
        hub = {} if self.step.dry_run else {"huggingface-hub": "finery[hub]"}
        names = ("torch", "transformers", "peft") if self.step.merge else ()
        return hub | dict.fromkeys(names, "finery[train]")
