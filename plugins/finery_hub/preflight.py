"""Sketches of models on the hub for `finery check --deep`, and the imports of steps."""

from collections.abc import Mapping

from finery import Job, Model, Preflight
from finery_data.preflight import SourcePreflight
from finery_hub.model import HubModel
from finery_hub.push.step import HubPush
from finery_local.folder import ADAPTER_CONFIG, HEAVY, sketch_model
from finery_local.template import with_template


class ModelPreflight(Preflight[HubModel]):
    """Fetches the small files."""

    def packages(self) -> Mapping[str, str]:
        """The package that connects to the hub."""
        return {"huggingface-hub": "finery[hub]"}

    def sketch(self, job: Job) -> Model | None:
        """The tokenizer, the chat template and the configuration.

        None for a GGUF file, which holds all of that itself.
        """
        step = self.step
        if step.file is not None:
            return None
        folder = step.fetched(step.patterns(), job, unwanted=HEAVY)
        if not folder.names & {"config.json", ADAPTER_CONFIG}:
            return None  # the build's error explains it better
        model = sketch_model(
            folder,
            job.out,
            base=step.base,
            trust_remote_code=step.trust_remote_code,
            about=step.about(),
        )
        return with_template(model, step.chat_template)


class DatasetPreflight(SourcePreflight):
    """Compiles the templates of `columns`."""

    def packages(self) -> Mapping[str, str]:
        """The packages that read data sets of the hub."""
        return dict.fromkeys(("datasets", "huggingface-hub"), "finery[hub]")


class PushPreflight(Preflight[HubPush]):
    """Names the packages."""

    def packages(self) -> Mapping[str, str]:
        """The packages that connect to the hub and merge an adapter."""
        hub = {} if self.step.dry_run else {"huggingface-hub": "finery[hub]"}
        names = ("torch", "transformers", "peft") if self.step.merge else ()
        return hub | dict.fromkeys(names, "finery[train]")
