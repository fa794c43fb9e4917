"""Answer prompts with a model on this machine: transformers' `generate`, in batches."""

import time
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from finery import (
    Completion,
    DataError,
    Engine,
    EngineJob,
    Key,
    Model,
    Request,
    Sampling,
)
from finery_local.facts import ModelFiles
from finery_transformers.answering import constraint
from finery_transformers.hardware import exhausted, explained, log_unused_gpu
from finery_transformers.precision import auto_dtype, usable_gpus

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

    from finery_transformers.answering.answers import TokenReader
    from finery_transformers.chat import PromptTemplate


ROWS = 16
"""On AVX512 cores, 16 rows reach 1.6 times the tokens per second of four; 32 reach no more."""
CHARACTERS = 64 * 1024
"""Limit of rows × longest row of a batch, some 16,000 tokens of cache."""
MOST_ROWS = 256
CACHE_SHARE = 0.25
"""Share of a GPU's memory, apart from the weights. The rest is for answers that are longer than
prompts, for activations, and for other programs."""
CHARACTERS_A_TOKEN = 4
CACHE_BYTES = 2
"""Of a number in the cache of keys and values."""


class Room(NamedTuple):
    """Limits of a batch: its rows, and rows × characters of the longest one."""

    rows: int = ROWS
    characters: int = CHARACTERS

    @classmethod
    def of(cls, model: Model) -> Self:
        """The room on this machine: more on a GPU with memory for it, by powers of two.

        It depends on the GPU's whole memory and not on what is free, since the other rows of a
        batch can change the last digits of a row's logits. A batch is the unit of the record cache,
        so its rows are in the key of each record.
        """
        gpus = usable_gpus()
        sizes = _sizes(model)
        if not gpus or sizes is None:
            return cls()
        cache_bytes, parameters = sizes
        cache = CACHE_SHARE * (gpus[0].memory - 2 * parameters)
        wanted = CHARACTERS / CHARACTERS_A_TOKEN * cache_bytes
        factor = 1
        while ROWS * factor < MOST_ROWS and 2 * factor * wanted <= cache:
            factor *= 2
        return cls(ROWS * factor, CHARACTERS * factor)


def _sizes(model: Model) -> tuple[float, float] | None:
    """(bytes in the cache for each token, about how many parameters), by a model's config.json.

    None without these numbers.
    """
    try:
        config = ModelFiles(model).text_config
        layers, hidden = config["num_hidden_layers"], config["hidden_size"]
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        head = config.get("head_dim") or hidden // heads
        inside = config.get("intermediate_size") or 4 * hidden
        block = hidden * (2 * head * (heads + kv_heads) + 3 * inside)
        embedding = config["vocab_size"] * hidden
        return 2 * layers * kv_heads * head * CACHE_BYTES, layers * block + 2 * embedding
    except (DataError, KeyError, TypeError):
        return None


class TransformersEngine(Engine):
    """Answers with Hugging Face folders and adapters, which are merged into their base.

    The weights are in `loading.default_dtype()`. Earlier batches don't change a batch's answers.
    With llguidance, they follow a schema.
    """

    batched = True
    local = True
    takes_tools = True
    packages = ("torch", "transformers", "peft", "tokenizers")
    schema_packages = (constraint.PACKAGE,)

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        self.constrains = constraint.is_installed()

    @classmethod
    def cache_key(cls) -> Key:
        """Also the dtype of the weights."""
        return super().cache_key() | Key(facts={"dtype": auto_dtype()})

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Requests of similar length, longest first. Those that begin alike follow one another.

        Counted in characters, so that answers from the cache need no tokenizer.
        """
        lengths = [len(msgspec.json.encode([*r.messages, *(r.tools or ())])) for r in requests]
        alike: dict[bytes, list[int]] = {}
        for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            alike.setdefault(requests[i].beginning(), []).append(i)
        room = Room.of(self.model)
        batches: list[list[int]] = []
        longest = 0
        for i in chain.from_iterable(alike.values()):
            longest = max(longest, lengths[i])
            full = not batches or len(batches[-1]) == room.rows
            if full or (len(batches[-1]) + 1) * longest > room.characters:
                batches.append([])
                longest = lengths[i]
            batches[-1].append(i)
        return batches

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer one batch."""
        return self._generated(requests, sampling, self._arguments(sampling))

    def timed(self, request: Request, sampling: Sampling) -> tuple[Completion, float | None]:
        """The answer, and when its first token came; None for an answer without any."""
        arguments, tokens = self._arguments(sampling), list[float]()
        stopped = arguments.get("stopped")

        def noted(answer: list[int]) -> bool:
            tokens.append(time.perf_counter())
            return stopped is not None and bool(stopped(answer))

        (answer,) = self._generated([request], sampling, {**arguments, "stopped": noted})
        return answer, next(iter(tokens), None)

    def _generated(
        self, requests: Sequence[Request], sampling: Sampling, arguments: dict[str, Any]
    ) -> list[Completion]:
        import torch

        from finery_transformers.answering import generation
        from finery_transformers.answering.answers import seed_of

        loaded = self._loaded
        for request in requests:
            loaded.answers.reader.check(request.tools)
        context = getattr(loaded.model.config, "max_position_embeddings", None)
        prompts = [loaded.answers.prompt(r, sampling.max_tokens, context) for r in requests]
        reader = loaded.answers
        schemas = [reader.reader.schema_after(reader.end_of(p), sampling) for p in prompts]
        constraints = [self._constraints.begin(s, strict=sampling.strict) for s in schemas]
        # The caller's random state doesn't change.
        purpose = f"to answer {len(prompts)} prompts of up to {max(map(len, prompts))} tokens at "
        purpose += f"once, with up to {sampling.max_tokens} tokens each"
        memory = explained(lambda error: exhausted(error, purpose))
        with torch.no_grad(), torch.random.fork_rng(), memory:
            torch.manual_seed(seed_of(sampling.seed, prompts))
            batch = generation.read(loaded.model, prompts, loaded.pad)
            answers, logprobs = generation.answers(
                loaded.model, batch, ends=loaded.ends, constraints=constraints, **arguments
            )
        completions = [
            loaded.answers.completion(
                answer, loaded.ends, prompt=prompt, request=request, stop=sampling.stop
            )
            for answer, prompt, request in zip(answers, prompts, requests, strict=True)
        ]
        return [
            msgspec.structs.replace(completion, logprob=logprob)
            for completion, logprob in zip(completions, logprobs, strict=True)
        ]

    @cached_property
    def _loaded(self) -> "_Loaded":
        from finery_transformers.answering import cpu
        from finery_transformers.loading import load_model, load_template, to_device

        template, model = load_template(self.model), load_model(self.model)
        log_unused_gpu(self.job.log)
        to_device(model, self.job.log)
        cpu.pack(model)
        cpu.install(model)
        return _ready(model, template)

    @cached_property
    def _constraints(self) -> "constraint.Constraints":
        def vocabulary() -> Any:
            from llguidance.hf import from_tokenizer

            tokenizer: Any = self._loaded.tokenizer
            return from_tokenizer(tokenizer, eos_token=sorted(self._loaded.ends))

        return constraint.Constraints(vocabulary, self.job.log)

    def _arguments(self, sampling: Sampling) -> dict[str, Any]:
        arguments: dict[str, Any] = {"max_new_tokens": sampling.max_tokens, "do_sample": False}
        if sampling.temperature > 0:
            arguments |= {"do_sample": True, "temperature": sampling.temperature}
            arguments |= {"top_p": sampling.top_p, "top_k": 0}
        if stop := sampling.stop:
            text = self._loaded.answers.text
            arguments["stopped"] = lambda answer: any(s in text(answer) for s in stop)
        return arguments


class LiveEngine(TransformersEngine):
    """Answers with a model in memory, e.g. one that is being trained.

    The model answers in evaluation mode and is then restored. trained: a transformers or PEFT
    model, which may have weights in several dtypes; products are in `dtype` if it has 16 bits.
    """

    def __init__(
        self,
        model: Model,
        job: EngineJob,
        *,
        trained: Any,
        template: "PromptTemplate",
        dtype: "torch.dtype",
    ) -> None:
        super().__init__(model, job)
        self._trained = trained
        self._template = template
        self._dtype = dtype

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer one batch."""
        import torch

        model = self._trained
        training, settings = model.training, model.generation_config
        model.generation_config = self._loaded.settings
        short = self._dtype in (torch.bfloat16, torch.float16)
        try:
            model.eval()
            with torch.autocast(model.device.type, self._dtype if short else None, enabled=short):
                return super().generate(requests, sampling)
        finally:
            model.train(training)
            model.generation_config = settings

    @cached_property
    def _loaded(self) -> "_Loaded":
        return _ready(self._trained, self._template)


class _Loaded(NamedTuple):
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    ends: frozenset[int]  # token ids that end an answer
    pad: int
    settings: "GenerationConfig"
    answers: "TokenReader"


def _ready(model: "PreTrainedModel", template: "PromptTemplate") -> _Loaded:
    """Make a model answer until its turn ends, only by the given sampling.

    Settings that a model's authors recommend (top_k, a repetition penalty) would change answers
    without the user's knowledge.
    """
    from transformers import GenerationConfig

    from finery_transformers.answering.answers import TokenReader

    ends = template.ends_with(_ends(model.generation_config))
    tokens: dict[str, Any] = {"eos_token_id": ends, "pad_token_id": ends[0]}
    settings = GenerationConfig(**tokens)  # type: ignore[no-untyped-call]
    model.generation_config = settings
    answers = TokenReader(template)
    return _Loaded(model, template.tokenizer, frozenset(ends), ends[0], settings, answers)


def _ends(config: Any) -> set[int]:
    """The end-of-sequence ids of a generation config, which has none, one or a list."""
    ids = getattr(config, "eos_token_id", None)
    return {i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)}
