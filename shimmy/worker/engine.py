"""Puts a worker's parts together for one model: a context, then intake thread and step loop around one queue."""

import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Listed
from functools import cached_property
from queue import SimpleQueue
from typing import TYPE_CHECKING

import msgspec

from shimmy import __version__
from shimmy.core import ipc
from shimmy.core.errors import ModelFailed
from shimmy.core.request import Pooling, Sampling
from shimmy.hardware.cpu import num_usable_cores
from shimmy.worker.adapters import Adapters
from shimmy.worker.chat.plan import Planner
from shimmy.worker.chat.template import ChatTemplate
from shimmy.worker.drafting.drafts import Drafter, Drafting
from shimmy.worker.drafting.lookup import LookupDrafter
from shimmy.worker.embedding import Embedder
from shimmy.worker.embedding_inputs import InputReader
from shimmy.worker.fingerprint import Fingerprint, content
from shimmy.worker.intake import Intake
from shimmy.worker.llama.context import Context
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.model import Model, gpu_bytes
from shimmy.worker.llama.probe import Probe
from shimmy.worker.llama.recipe import Recipes
from shimmy.worker.llama.sampler import Sampler
from shimmy.worker.loop import Command, Loop
from shimmy.worker.prefix_cache import PrefixCache
from shimmy.worker.prefix_states import RamTier
from shimmy.worker.prompt import Prompter, private_namespace
from shimmy.worker.scheduler import Scheduler
from shimmy.worker.sequence import Request
from shimmy.worker.threads import ThreadGovernor

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings
    from shimmy.worker.disk.identity import Stamp
    from shimmy.worker.disk.tier import DiskTier
    from shimmy.worker.llama.pooled import PooledContext

# More tokens of context only when asked for: where it cannot grow it has all of its memory from the start, and where it
# can, a long one takes a few MB and ms before there is anything in it (`python -m bench.contexts`).
FIXED_CONTEXT_LENGTH = 8192
GROWING_CONTEXT_LENGTH = 1 << 18


class Engine:
    """A loaded model with its context. Raises `ModelFailed` when no context can be made."""

    def __init__(
        self,
        model: Model,
        cpu_variant: str,
        options: ipc.EngineOptions,
        files: "Mapping[str, Stamp] | None" = None,
        draft: Model | None = None,
        settings: "EngineSettings | None" = None,
        adapters: Adapters | None = None,
        paths: Listed[str] = (),
    ) -> None:
        """`paths` are the files of `model`. `files` are the model's as they were before the load, for the disk
        tier. `draft` is the draft model, which has the vocabulary of `model`. `settings` are for the contexts of
        both, `adapters` belong to `model`."""
        self._model = model
        self._cpu_variant = cpu_variant
        self._options = options
        self._num_threads = options.num_threads or num_usable_cores()
        self._adapters = adapters or Adapters()
        self._context = self._make_context(model, settings, self._adapters.handles)
        own = None if settings is None else settings.for_draft()
        self._draft, self._draft_context = draft, self._make_context(draft, own) if draft is not None else None
        self._template = ChatTemplate(
            model.chat_template,
            bos_token=model.text_of(model.bos_token),
            eos_token=model.text_of(model.eos_token),
        )
        self._disk = self._open_disk(files)
        self._fingerprint = self._named(paths, settings)

    def facts(self, load_seconds: float) -> ipc.Loaded:
        return ipc.Loaded(
            context_length=self._context.context_length,
            training_context_length=self._model.training_context_length,
            num_sequences=self._options.num_sequences,
            num_threads=self._num_threads,
            num_parameters=self._model.num_parameters,
            model_bytes=self._model.size_bytes,
            vocabulary_size=self._model.vocabulary_size,
            template_source=self._template.source,
            cpu_variant=self._cpu_variant,
            load_seconds=load_seconds,
            layers=self._model.layers,
            buffers=self._model.buffers,
            gpus=gpu_bytes(self._model, *([self._draft] if self._draft is not None else [])),
            adapters=self._adapters.scales,
        )

    def run(self, messages: Iterable[ipc.ToWorker], send: Callable[[ipc.Events | ipc.Answer], None]) -> None:
        """Serves until `messages` ends. The calling thread becomes the step thread; two threads call `send`."""
        commands: SimpleQueue[Command] = SimpleQueue()
        Intake(messages, self.prompter(), self.inputs(), commands, send).start()
        self.loop(commands, send).run()
        if self._disk is not None:
            self._disk.close(ipc.STORE_SECONDS)

    def prompter(self) -> Prompter:
        length = self._context.context_length
        unlock = self._disk.unlock if self._disk is not None else private_namespace
        planner = Planner(self._model.chat_template, self._model)
        recipe, has_draft_model = self._recipes.of, self._draft is not None
        return Prompter(
            self._model,
            self._template,
            length,
            unlock,
            recipe,
            planner,
            has_draft_model=has_draft_model,
            adapters=self._adapters,
            fingerprint=self._fingerprint.of if self._fingerprint else lambda adapters: "",
        )

    def inputs(self) -> InputReader:
        return InputReader(self._model, self._context.context_length)

    def loop(self, commands: "SimpleQueue[Command]", send: Callable[[ipc.Events], None]) -> Loop:
        """A loop that begins with an empty KV cache."""
        self._context.clear()
        reuse, ram_bytes = self._model.reuse, self._options.prefix_ram_bytes
        tiers = [RamTier(ram_bytes, reuse)] if ram_bytes else []
        cache = PrefixCache(self._context, reuse, tiers, self._model.max_idle_cells, self._disk)
        governor = ThreadGovernor(self._num_threads, time.monotonic)
        return Loop(
            self._context,
            Scheduler(self._context, cache, self._options.num_sequences, drafting=self._drafting(governor)),
            governor,
            commands,
            send,
            self._model.piece,
            self._make_sampler,
            Embedder(self._make_pooled_context),
        )

    def _make_pooled_context(self, pooling: Pooling) -> "PooledContext":
        """A context of its own, as the one that generates must not make vectors of every token that it computes."""
        from shimmy.worker.llama.pooled import PooledContext

        length = self._context.context_length
        return PooledContext(self._model, pooling, max_tokens=length, num_threads=self._num_threads)

    def _make_context(
        self, model: Model, settings: "EngineSettings | None" = None, adapters: Listed[int] = ()
    ) -> Context:
        """What nobody asked for is made shorter where it is more than the system would ever give to a process."""
        is_default, options = self._options.context_length is None, self._options
        reach = model.training_context_length
        if settings is not None and reach > 0:
            from shimmy.worker.llama.tuning import reach as extended

            reach = extended(settings, reach, options.context_length)
        length = _context_length(options.context_length, reach, Context.can_grow(model))
        while True:
            try:
                return Context(
                    model,
                    context_length=length,
                    num_sequences=options.num_sequences,
                    num_threads=self._num_threads,
                    fit_memory=is_default,
                    settings=settings,
                    adapters=adapters,
                )
            except ModelFailed:
                if not is_default or length <= FIXED_CONTEXT_LENGTH:
                    raise
                length = max(FIXED_CONTEXT_LENGTH, length // 2)

    def _open_disk(self, files: "Mapping[str, Stamp] | None") -> "DiskTier | None":
        if self._options.disk_cache is None or files is None:
            return None
        from shimmy.worker.disk_tier import open_tier

        return open_tier(self._options.disk_cache, files, self._model, self._context, self._cpu_variant)

    def _named(self, paths: Listed[str], settings: "EngineSettings | None") -> "Fingerprint | None":
        """A name for what answers: all that can change an answer, and no paths. None where the files are gone."""
        options = self._options
        try:
            setup = {
                "shimmy": __version__,
                "llama.cpp": llama().llama_version(),
                "cpu": self._cpu_variant,
                "context": sorted(self._context.traits.items()),
                # Where adapters lie says nothing of what they are.
                "engine": settings and msgspec.structs.replace(settings, lora=()),
                "layers": sorted(self._model.layers.items()),
                "adapters": [(each.name, content([each.path])) for each in options.adapters],
                "drafts": (options.speculative, content(options.draft_paths)),
            }
            return Fingerprint(paths, setup)
        except OSError:
            return None

    def _drafting(self, governor: ThreadGovernor) -> Drafting:
        """What was computed of a wrong guess has to be taken back, which not every memory can."""
        drafters: dict[str, Drafter] = {}
        if not self._model.reuse.whole:
            drafters["ngram"] = LookupDrafter()
            if self._draft is not None:
                drafters["draft"] = self._model_drafter(self._draft, governor)
        return Drafting(drafters, self._options.speculative)

    def _model_drafter(self, draft: Model, governor: ThreadGovernor) -> Drafter:
        from shimmy.worker.drafting.model import NUM_COMPARED, ModelDrafter
        from shimmy.worker.llama.likeliest import Likeliest

        assert self._draft_context is not None
        pick = Likeliest(NUM_COMPARED).pick
        slots, size = self._options.num_sequences, self._model.vocabulary_size
        return ModelDrafter(self._draft_context, draft.reuse, pick, slots, size, lambda: governor.num_threads)

    def _make_sampler(self, sampling: Sampling, request: Request, choice: int) -> Sampler:
        """`sampling` is as it was asked for; the recipe has the model's own values in it."""
        probe = None if request.generation.logprobs is None else self._probe
        return Sampler(request.recipe, choice, request.prompt, probe)

    @cached_property
    def _recipes(self) -> Recipes:
        return Recipes(self._model, self._context.context_length)

    @cached_property
    def _probe(self) -> Probe:
        return Probe(self._model.piece, self._model.spelling)


def _context_length(wanted: int | None, trained: int, can_grow: bool) -> int:
    """At most what the model was trained for, where its file says so: it answers nonsense beyond that."""
    if trained <= 0:
        return wanted or FIXED_CONTEXT_LENGTH
    return min(trained, wanted or (GROWING_CONTEXT_LENGTH if can_grow else FIXED_CONTEXT_LENGTH))
