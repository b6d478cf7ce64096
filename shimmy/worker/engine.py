"""Puts a worker's parts together for one model: a context, then intake thread and step loop around one queue."""

import time
from collections.abc import Callable, Iterable
from functools import cached_property
from queue import SimpleQueue

from shimmy.core import ipc
from shimmy.core.request import Sampling
from shimmy.hardware.cpu import num_usable_cores
from shimmy.worker.chat.template import ChatTemplate
from shimmy.worker.intake import Intake
from shimmy.worker.llama.context import Context
from shimmy.worker.llama.model import Model
from shimmy.worker.llama.probe import Probe
from shimmy.worker.llama.recipe import Recipes
from shimmy.worker.llama.sampler import Sampler
from shimmy.worker.loop import Command, Loop
from shimmy.worker.prefix_cache import PrefixCache
from shimmy.worker.prefix_states import RamTier
from shimmy.worker.prompt import Prompter
from shimmy.worker.scheduler import Scheduler
from shimmy.worker.sequence import Request
from shimmy.worker.threads import ThreadGovernor

# A longer context is allocated, zeroed and paid for at load; more than this only when asked for.
DEFAULT_CONTEXT_LENGTH = 8192


class Engine:
    """A loaded model with its context. Raises `ModelFailed` when no context can be made."""

    def __init__(self, model: Model, cpu_variant: str, options: ipc.EngineOptions) -> None:
        self._model = model
        self._cpu_variant = cpu_variant
        self._options = options
        self._num_threads = options.num_threads or num_usable_cores()
        self._context = Context(
            model,
            context_length=_context_length(options.context_length, model.training_context_length),
            num_sequences=options.num_sequences,
            num_threads=self._num_threads,
        )
        self._template = ChatTemplate(
            model.chat_template,
            bos_token=model.text_of(model.bos_token),
            eos_token=model.text_of(model.eos_token),
        )

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
        )

    def run(self, messages: Iterable[ipc.ToWorker], send: Callable[[ipc.Events], None]) -> None:
        """Serves until `messages` ends. The calling thread becomes the step thread."""
        commands: SimpleQueue[Command] = SimpleQueue()
        Intake(messages, self.prompter(), commands).start()
        self.loop(commands, send).run()

    def prompter(self) -> Prompter:
        return Prompter(self._model, self._template, self._context.context_length, self._recipes.of)

    def loop(self, commands: "SimpleQueue[Command]", send: Callable[[ipc.Events], None]) -> Loop:
        """A loop that begins with an empty KV cache."""
        self._context.clear()
        reuse, ram_bytes = self._model.reuse, self._options.prefix_ram_bytes
        tiers = [RamTier(ram_bytes, reuse)] if ram_bytes else []
        cache = PrefixCache(self._context, reuse, tiers, self._model.max_idle_cells)
        return Loop(
            self._context,
            Scheduler(self._context, cache, self._options.num_sequences),
            ThreadGovernor(self._num_threads, time.monotonic),
            commands,
            send,
            self._model.piece,
            self._make_sampler,
        )

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


def _context_length(wanted: int | None, trained: int) -> int:
    """At most what the model was trained for, where its file says so: it answers nonsense beyond that."""
    length = wanted or DEFAULT_CONTEXT_LENGTH
    return min(length, trained) if trained > 0 else length
