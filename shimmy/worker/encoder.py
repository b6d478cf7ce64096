"""A worker's parts put together for a model that makes vectors and no text: one context, and a loop that fills it."""

from collections.abc import Callable, Iterable
from queue import SimpleQueue

from shimmy.core import ipc
from shimmy.core.errors import Unsupported
from shimmy.core.events import Event, Failed
from shimmy.core.request import Chat, Generation, Pooling, Prompt, Text, Tokens
from shimmy.hardware.cpu import num_usable_cores
from shimmy.worker.embedding import Embedder, Job
from shimmy.worker.embedding_inputs import InputReader, default_pooling
from shimmy.worker.intake import Intake
from shimmy.worker.llama.model import Model, gpu_bytes
from shimmy.worker.llama.pooled import BATCH_TOKENS, PooledContext
from shimmy.worker.loop import Closed, Command
from shimmy.worker.sequence import Request

# What one input may have by default, where the model allows more: an encoder compares every token with every other.
DEFAULT_INPUT_TOKENS = 8192


class EncoderEngine:
    """Raises `ModelFailed` when no context can be made."""

    def __init__(self, model: Model, cpu_variant: str, options: ipc.EngineOptions) -> None:
        self._model = model
        self._cpu_variant = cpu_variant
        self._num_threads = options.num_threads or num_usable_cores()
        wanted, trained = options.context_length or DEFAULT_INPUT_TOKENS, model.training_context_length
        self._max_tokens = min(wanted, trained) if trained > 0 else wanted
        pooling = default_pooling(model)
        self._contexts = {pooling: self._make_context(pooling)}

    def facts(self, load_seconds: float) -> ipc.Loaded:
        return ipc.Loaded(
            context_length=self._max_tokens,
            training_context_length=self._model.training_context_length,
            num_sequences=next(iter(self._contexts.values())).num_sequences,
            num_threads=self._num_threads,
            num_parameters=self._model.num_parameters,
            model_bytes=self._model.size_bytes,
            vocabulary_size=self._model.vocabulary_size,
            template_source="",
            cpu_variant=self._cpu_variant,
            load_seconds=load_seconds,
            layers=self._model.layers,
            buffers=self._model.buffers,
            gpus=gpu_bytes(self._model),
        )

    def run(self, messages: Iterable[ipc.ToWorker], send: Callable[[ipc.Events | ipc.Answer], None]) -> None:
        """Serves until `messages` ends. The calling thread becomes the step thread; two threads call `send`."""
        commands: SimpleQueue[Command] = SimpleQueue()
        Intake(messages, _NoText(self._model), self.inputs(), commands, send).start()
        EncoderLoop(commands, send, self.embedder()).run()

    def inputs(self) -> InputReader:
        return InputReader(self._model, self._max_tokens)

    def embedder(self) -> Embedder:
        return Embedder(self._context)

    def _context(self, pooling: Pooling) -> PooledContext:
        if pooling not in self._contexts:
            self._contexts[pooling] = self._make_context(pooling)
        return self._contexts[pooling]

    def _make_context(self, pooling: Pooling) -> PooledContext:
        return PooledContext(self._model, pooling, max_tokens=self._max_tokens, num_threads=self._num_threads)


class EncoderLoop:
    """Takes commands, computes one batch, tells what came of it."""

    def __init__(
        self, commands: "SimpleQueue[Command]", send: Callable[[ipc.Events], None], embedder: Embedder
    ) -> None:
        self._commands = commands
        self._send = send
        self._embedder = embedder
        self._open = True

    def run(self) -> None:
        """Until `Closed` arrives."""
        while self._open:
            events = self._receive()
            if self._embedder.has_work:
                events += self._embedder.step(BATCH_TOKENS)
            if events:
                self._send(ipc.Events(events))

    def _receive(self) -> list[Event]:
        """Waits while there is nothing to compute."""
        events: list[Event] = []
        while self._open and not (self._commands.empty() and (self._embedder.has_work or events)):
            match self._commands.get():
                case Job() as job:
                    if (failed := self._embedder.add(job)) is not None:
                        events.append(failed)
                case Failed() as failed:
                    events.append(failed)
                case ipc.Abort(id):
                    self._embedder.abort(id)
                case Closed():
                    self._open = False
        return events


class _NoText:
    """Refuses all generations, and knows no chats."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._architecture = model.metadata("general.architecture")

    def prepare(self, generation: Generation, /) -> Request:
        raise self._unsupported(f"the model {generation.model!r}")

    def answer(self, question: ipc.Question, /) -> list[ipc.Tokenized | ipc.Counted | ipc.Written]:
        """See worker/questions.py."""
        from shimmy.worker.questions import answer, parts

        return list(parts(answer(question, self, self._model)))

    @property
    def context_length(self) -> int:
        return 0

    @property
    def template_source(self) -> str:
        return ""

    def tokens(self, prompt: Prompt) -> list[int]:
        match prompt:
            case Text(text):
                return self._model.tokenize(text, add_special=True)
            case Tokens(ids):
                self._model.check_tokens(ids)
                return list(ids)
        raise self._unsupported("this model")

    def rendered(self, chat: Chat) -> str:
        raise self._unsupported("this model")

    def _unsupported(self, who: str) -> Unsupported:
        return Unsupported(
            f"{who} generates no text: it is an encoder ({self._architecture}) that makes vectors", param="model"
        )
