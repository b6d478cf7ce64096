"""A worker without a model: a real process that speaks the real frames and echoes the prompt word by word.

The prompt's text is the script. A plain text is echoed, one word per step. A text that begins with "!" is an order:

    !stall N            N words, then silence until aborted or released
    !release            ends every stall: the stalled requests finish
    !crash SIGNAL N     N words, then the process dies by that signal (SIGABRT, SIGSEGV ...)
    !exit CODE N        N words, then the process exits
    !garbage N          N words, then bytes that are no frame
    !misplaced          a message that is out of place
    !fail CODE TEXT     `Failed` instead of `Accepted`
    !break CODE TEXT    `Failed` after two words
    !flood N            N words of 1 KiB, heeding Pause
    !deluge             words of 1 KiB for ever, not heeding Pause
    !deaf               stops reading its stdin, so that the pipe fills up and a close goes unheard
    !say TEXT           TEXT as one single delta
    !cached N           one word; N tokens of the prompt were cached
    !drafted N M        one word; N tokens were drafted, M of them accepted
    !think N TEXT       N words of TEXT are thoughts, the others the answer
    !call N TEXT        TEXT in pieces of a word as the arguments of N calls of the first tool, or "f", after a word
    !doubt TEXT         TEXT as it is, with a warning
    !crash-call         a call, and within its arguments the process dies by SIGKILL
    !stall-call         a call, and within its arguments silence
    !log                which Abort, Pause, Resume and Embed came, as "abort ID pause ID ..."
    !active             how many other requests there are, waiting or running
    !request            the whole Generation as JSON
    !nan                a word whose probability is not a number
    !pid, !environment  the process id, the environment as JSON

Of texts it makes vectors: the length of the text, the number of its words, and the place of its input; each last input
first. With a query it scores a text by its length. Orders are texts that begin with "!" here too:

    !stall              no result of this text until aborted
    !crash SIGNAL       the process dies by that signal
    !fail CODE TEXT     `Failed`

The model file, where it exists, may say in its header, as `fake.load`, how loading goes: "ready" (default), "hold"
(until a file of the same name plus ".go" exists), "crash SIGNAL", "fail CODE TEXT", "exit CODE", "mute" (no answer),
"encoder" (ready, to make vectors only), "answer TEXT": ready, but every prompt is taken for that text, "fits N": GPUs
have memory for so many layers, and "with-gpus ORDER": one of these if there are layers on GPUs, else ready.
The same key says how quantizing it goes: "ready", "hold", "crash SIGNAL", "fail CODE TEXT".
"""

import math
import os
import resource
import signal
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from queue import SimpleQueue
from typing import NoReturn

import msgspec

from shimmy.core import ipc
from shimmy.core.errors import ContextOverflow, Fault
from shimmy.core.events import (
    Accepted,
    Alternative,
    Dropped,
    Echoed,
    Embedded,
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    Timings,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from shimmy.core.request import Chat, Embedding, Generation, Infill, Text
from shimmy.worker.chat.parts import CallArguments, CallBegin, Thought

CONTEXT_LENGTH = 4096
VOCABULARY_SIZE = 0xD800  # a token is a character, and those that follow are none
LOAD_KEY = b"fake.load"
BIG_WORD = "x" * 1023 + " "
Inbox = SimpleQueue[ipc.ToWorker | None]
Step = str | Thought | CallBegin | CallArguments | None


def send(message: ipc.FromWorker) -> None:
    write(ipc.encode(message))


def write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def die(name: str) -> NoReturn:
    print(f"fake worker: dying by {name}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.Signals[name])
    while True:
        time.sleep(1)


def words_of(text: str) -> list[str]:
    """The text in pieces that join to it again: "a b" is "a", " b"."""
    pieces = text.split(" ")
    return [piece for piece in [pieces[0], *(f" {piece}" for piece in pieces[1:])] if piece]


def first_tool_of(generation: Generation) -> str:
    tools = generation.prompt.tools if isinstance(generation.prompt, Chat) else []
    return tools[0].name if tools else "f"


def prompt_of(generation: Generation) -> tuple[str, int]:
    """What to echo, and the number of tokens of the whole prompt: a word is a token."""
    match generation.prompt:
        case Chat(messages):
            return messages[-1].content, sum(len(words_of(message.content)) for message in messages)
        case Text(text):
            return text, len(words_of(text))
        case Infill() as infill:
            return f"[{infill.prefix}|{infill.prompt}|{infill.suffix}]", 3
        case tokens:
            return " ".join(f"t{id}" for id in tokens.ids), len(tokens.ids)


def answer_to(question: ipc.Question) -> ipc.Tokenized | ipc.Counted | ipc.Written | ipc.Refused:
    """A character is a token; a chat is rendered as its messages' texts, each in brackets."""
    match question:
        case ipc.Render(chat):
            return ipc.Written(rendered(chat))
        case ipc.Detokenize(tokens) if max(tokens, default=0) >= VOCABULARY_SIZE:
            return ipc.Refused(Fault("invalid_request", "tokens: there is no such token", "tokens"))
        case ipc.Detokenize(tokens):
            return ipc.Written("".join(map(chr, tokens)))
        case ipc.Explain(generation):
            return ipc.Written(msgspec.json.encode(explanation(generation)).decode())
    text = question.prompt.text if isinstance(question.prompt, Text) else rendered(question.prompt)
    if text.startswith("!fail "):
        _, code, reason = text.split(" ", 2)
        return ipc.Refused(Fault(code, reason))
    if text == "!crash":
        die("SIGABRT")
    if text == "!hang":
        threading.Event().wait()
    if isinstance(question, ipc.CountTokens):
        return ipc.Counted(len(text))
    text = f"^{text}" if question.add_special else text
    text = text if question.parse_special else text.replace("<", "?")
    return ipc.Tokenized([ord(letter) for letter in text], [letter.encode() for letter in text * question.spelled])


def explanation(generation: Generation) -> ipc.Explanation:
    text = rendered(generation.prompt)
    return ipc.Explanation(
        prompt=text,
        prompt_tokens=len(text),
        context_length=CONTEXT_LENGTH,
        max_tokens=generation.max_tokens or CONTEXT_LENGTH,
        template_source="chatml",
        stop=generation.stop,
        stop_token_ids=[],
        constraint=None,
        calls=None,
        reasoning_budget=None,
        sampling={"temperature": generation.sampling.temperature},
    )


def rendered(chat: object) -> str:
    assert isinstance(chat, Chat)
    return "".join(f"[{message.content}]" for message in chat.messages) + ">" * chat.add_generation_prompt


def cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The text before the first stop string in it, and which one that is."""
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    at, stop = min(found, default=(len(text), None))
    return text[:at], stop


class Sequence:
    """One request while it runs; `script` yields a word per step, or None for a step without one."""

    def __init__(self, generation: Generation, num_prompt_tokens: int, text: str) -> None:
        self.generation = generation
        self.num_prompt_tokens = num_prompt_tokens
        self.text, self.stop = (text, None) if text.startswith("!") else cut(text, generation.stop)
        self.script: Iterator[Step] = iter(())
        self.num_cached_tokens = int(text.split()[1]) if text.startswith("!cached ") else 0
        self.num_drafted = [int(count) for count in text.split()[1:3]] if text.startswith("!drafted ") else []
        self.num_tokens = 0
        self.num_thought = 0
        self.num_calls = 0
        self.warning: str | None = None
        self.paused = False

    def step(self) -> list[Event]:
        if self.num_tokens == self.generation.max_tokens:
            return self.finish("length", None)
        try:
            word = next(self.script)
        except StopIteration:
            return self.finish("stop", self.stop)
        if word is None:
            return []
        self.num_tokens += 1
        id, choices = self.generation.id, range(self.generation.num_choices)
        match word:
            case Thought(text):
                self.num_thought += 1
                return [ReasoningDelta(id, index, text, self.tokens(text, index)) for index in choices]
            case CallBegin(call, name, call_id):
                self.num_calls += 1
                return [ToolCallDelta(id, index, call, "", call_id, name) for index in choices]
            case CallArguments(call, text):
                return [ToolCallDelta(id, index, call, text) for index in choices]
        return [TextDelta(id, index, word, self.tokens(word, index)) for index in choices]

    def echo(self, text: str) -> list[Event]:
        """The prompt, of which each word is a token."""
        id = self.generation.id
        if not self.generation.echo_logprobs:
            return [Echoed(id, text)] if self.generation.echo else []
        first, *others = words_of(text)
        told = [token for word in others for token in self.tokens(word, 0)]
        return [Echoed(id, text, [TokenLogprob(first.encode(), None)]), Echoed(id, "", told)]

    def tokens(self, word: str, index: int) -> list[TokenLogprob]:
        """A word is a token; those of later choices are likelier."""
        if (count := self.generation.logprobs) is None:
            return []
        top = [Alternative(b"other%d" % number, -5.0 - number) for number in range(count)]
        logprob = math.nan if word == "nan" else -1 / (index + 1)
        return [TokenLogprob(word.encode(), logprob, top)]

    def finish(self, reason: FinishReason, stop: str | None) -> list[Event]:
        drafted, accepted = self.num_drafted or (0, 0)
        cached, thought = self.num_cached_tokens, self.num_thought
        usage = Usage(self.num_prompt_tokens, self.num_tokens, cached, drafted, accepted, thought)
        timings = Timings(0.001, 0.002, 0.003)
        if reason == "stop" and self.num_calls:
            reason = "tool_calls"
        choices = range(self.generation.num_choices)
        return [Finished(self.generation.id, index, reason, usage, timings, stop, self.warning) for index in choices]


class Worker:
    """Runs up to `num_sequences` requests side by side, the rest in the order they came."""

    def __init__(self, inbox: Inbox, options: ipc.EngineOptions, always: str | None = None) -> None:
        """`always` is what every prompt is taken for."""
        self.inbox = inbox
        self.always = always
        self.limit = options.num_sequences
        self.context_length = options.context_length or CONTEXT_LENGTH
        self.waiting: deque[Sequence] = deque()
        self.running: dict[str, Sequence] = {}
        self.log: list[str] = []
        self.num_releases = 0
        self.deaf = False

    def run(self) -> None:
        while True:
            progress = self.step()
            while not (progress and self.inbox.empty()):
                message = self.inbox.get()
                if message is None:
                    os._exit(0)
                self.receive(message)
                progress = True

    def step(self) -> bool:
        """One word for each that runs; False when there was nothing to do."""
        while self.waiting and len(self.running) < self.limit:
            sequence = self.waiting.popleft()
            self.running[sequence.generation.id] = sequence
        events: list[Event] = []
        for id, sequence in list(self.running.items()):
            if not sequence.paused:
                fresh = sequence.step()
                events += fresh
                if fresh and isinstance(fresh[-1], Finished | Failed):
                    self.running.pop(id, None)
        if events:
            send(ipc.Events(events))
        return bool(events)

    def receive(self, message: ipc.ToWorker) -> None:
        match message:
            case ipc.Generate(generation):
                self.accept(generation)
            case ipc.Ask(id, question):
                send(ipc.Answer(id, answer_to(question)))
            case ipc.Embed(embedding):
                self.embed(embedding)
            case ipc.Abort(id):
                self.log += ["abort", id]
                self.running.pop(id, None)
                self.waiting = deque(sequence for sequence in self.waiting if sequence.generation.id != id)
            case ipc.Pause(id) | ipc.Resume(id):
                self.log += [type(message).__name__.lower(), id]
                if id in self.running:
                    self.running[id].paused = isinstance(message, ipc.Pause)

    def embed(self, embedding: Embedding) -> None:
        """All results of the request in one frame, but for those that never come."""
        self.log += ["embed", embedding.id]
        events: list[Event] = []
        for index, text in enumerate(embedding.inputs):
            content = text if isinstance(text, str) else " ".join(f"t{id}" for id in text)
            order, *arguments = content.split(" ", 2)
            if order == "!crash":
                die(arguments[0])
            if order == "!fail":
                return send(ipc.Events([Failed(embedding.id, Fault(arguments[0], arguments[1]))]))
            if order != "!stall":
                events.insert(0, self.embedded(embedding, index, content))
        if events:
            send(ipc.Events(events))

    def embedded(self, embedding: Embedding, index: int, text: str) -> Embedded:
        num_words = len(words_of(text))
        length = len(text)
        if embedding.query is not None:
            return Embedded(embedding.id, index, num_words, struct.pack("<f", length))
        rows = num_words if embedding.pooling == "none" else 1
        vectors = struct.pack("<3f", length, num_words, index) * rows
        num_dropped = 0 if embedding.truncation is None else 3
        wanted = vectors[: 4 * (embedding.dimensions or len(vectors))]
        return Embedded(embedding.id, index, num_words, wanted, num_dropped)

    def accept(self, generation: Generation) -> None:
        text, num_tokens = prompt_of(generation)
        text = self.always or text
        if num_tokens > self.context_length:
            error = ContextOverflow(
                f"the prompt has {num_tokens} tokens, the context {self.context_length}",
                num_prompt_tokens=num_tokens,
                context_length=self.context_length,
            )
            return send(ipc.Events([Failed(generation.id, error.fault())]))
        if text.startswith("!fail "):
            _, code, reason = text.split(" ", 2)
            return send(ipc.Events([Failed(generation.id, Fault(code, reason))]))
        fingerprint, dropped = "fp_0123456789_abcdef0123", None
        if generation.truncation is not None:
            dropped = Dropped(generation.truncation.what, 7, 2)
        sequence = Sequence(generation, num_tokens, text)
        send(ipc.Events([Accepted(generation.id, num_tokens, fingerprint, dropped), *sequence.echo(text)]))
        sequence.script = self.script(sequence, sequence.text)
        self.waiting.append(sequence)

    def script(self, sequence: Sequence, text: str) -> Iterator[Step]:
        generation = sequence.generation
        order, *arguments = text.split(" ") if text.startswith("!") else [""]
        count = int(arguments[-1]) if arguments and arguments[-1].isdigit() else 0
        few = (f"{'' if i == 0 else ' '}w{i}" for i in range(count))
        match order:
            case "":
                yield from words_of(text)
            case "!stall":
                # Before the words: a release that comes while they are written counts as well.
                releases = self.num_releases
                yield from few
                while self.num_releases == releases:
                    yield None
            case "!release":
                self.num_releases += 1
                yield "released"
            case "!crash":
                yield from few
                die(arguments[0])
            case "!exit":
                yield from few
                os._exit(int(arguments[0]))
            case "!garbage":
                yield from few
                write(b"\xff" * 64)
                yield None
            case "!misplaced":
                send(ipc.LoadProgress(0.5))
                yield None
            case "!break":
                yield from ["one", " two"]
                send(ipc.Events([Failed(generation.id, Fault(arguments[0], " ".join(arguments[1:])))]))
                self.running.pop(generation.id)
                yield None
            case "!flood":
                yield from (BIG_WORD for _ in range(count))
            case "!deluge":
                while True:
                    send(ipc.Events([TextDelta(generation.id, 0, BIG_WORD)]))
            case "!deaf":
                yield "deaf"
                os.kill(os.getpid(), signal.SIGSTOP)
                yield None
            case "!say":
                yield text.removeprefix("!say ")
            case "!think":
                words = words_of(" ".join(arguments[1:]))
                yield from map(Thought, words[: int(arguments[0])])
                yield from words[int(arguments[0]) :]
            case "!call":
                yield "calling"
                for number in range(int(arguments[0])):
                    yield CallBegin(number, first_tool_of(generation), f"id{number}")
                    yield from (CallArguments(number, word) for word in words_of(" ".join(arguments[1:])))
            case "!doubt":
                sequence.warning = "a call is not valid JSON"
                yield " ".join(arguments)
            case "!crash-call" | "!stall-call":
                yield CallBegin(0, "f", "id0")
                yield CallArguments(0, '{"a')
                if order == "!crash-call":
                    die("SIGKILL")
                while True:
                    yield None
            case "!nan":
                yield "nan"
            case "!cached":
                yield "cached"
            case "!drafted":
                yield "drafted"
            case "!log":
                yield " ".join(self.log)
            case "!active":
                yield str(len(self.running) + len(self.waiting) - 1)
            case "!request":
                yield msgspec.json.encode(generation).decode()
            case "!pid":
                yield str(os.getpid())
            case "!environment":
                yield msgspec.json.encode(dict(os.environ)).decode()
            case unknown:
                yield f"no such order: {unknown}"


def read(inbox: Inbox) -> None:
    frames = ipc.FrameReader(ipc.ToWorker)
    while data := os.read(0, 1 << 16):
        for message in frames.feed(data):
            inbox.put(message)
    inbox.put(None)


def load_script(path: str) -> str:
    """From a header as tests/fakes/gguf_writer.py writes it: the key, its type, the length of the text, the text."""
    if not os.path.isfile(path):
        return "ready"
    with open(path, "rb") as file:
        header = file.read()
    _, key, rest = header.partition(LOAD_KEY)
    if not key:
        return "ready"
    _, length = struct.unpack_from("<IQ", rest)
    return rest[12 : 12 + length].decode()


def layers_on_gpus(options: ipc.EngineOptions) -> dict[str, int]:
    """As far as the settings say on which."""
    if not options.settings:
        return {}
    from shimmy.core.engine_settings import EngineSettings

    settings = msgspec.msgpack.decode(options.settings, type=EngineSettings)
    parts = settings.tensor_split or (settings.num_gpu_layers,)
    return {name: int(number) for name, number in zip(settings.device, parts, strict=False)}


def load(path: str, options: ipc.EngineOptions) -> str | None:
    """Says what every prompt is to be taken for."""
    order, *arguments = load_script(path).split(" ")
    if order == "with-gpus":
        order, *arguments = arguments if layers_on_gpus(options) else ["ready"]
    send(ipc.LoadProgress(0.5))
    match order:
        case "hold":
            while not os.path.exists(f"{path}.go"):
                time.sleep(0.005)
        case "crash":
            die(arguments[0])
        case "exit":
            os._exit(int(arguments[0]))
        case "fail":
            send(ipc.LoadFailed(Fault(arguments[0], " ".join(arguments[1:]))))
            os._exit(1)
        case "mute":
            threading.Event().wait()
        case "fits" if sum(layers_on_gpus(options).values()) > int(arguments[0]):
            send(ipc.LoadFailed(Fault("model_failed", "failed to allocate buffer")))
            os._exit(1)
    send(
        ipc.Loaded(
            context_length=options.context_length or CONTEXT_LENGTH,
            training_context_length=CONTEXT_LENGTH,
            num_sequences=options.num_sequences,
            num_threads=options.num_threads or 2,
            num_parameters=1000,
            model_bytes=4000,
            vocabulary_size=256,
            template_source="" if order == "encoder" else "chatml",
            cpu_variant="fake",
            load_seconds=0.01,
            layers=layers_on_gpus(options),
        )
    )
    return " ".join(arguments) if order == "answer" else None


def quantize(job: ipc.Quantize) -> None:
    """As `load` does what the header says; the target then holds "quantized", under another name until it is whole."""
    order, *arguments = load_script(job.source).split(" ")
    with open(job.partial, "wb") as file:
        file.write(b"quant")
    send(ipc.QuantizeProgress(1, 4))
    match order:
        case "hold":
            while not os.path.exists(f"{job.source}.go"):
                time.sleep(0.005)
        case "crash":
            die(arguments[0])
        case "fail":
            return send(ipc.LoadFailed(Fault(arguments[0], " ".join(arguments[1:]))))
    with open(job.partial, "ab") as file:
        file.write(b"ized")
    os.replace(job.partial, job.target)
    send(ipc.Quantized(num_tensors=4, num_fallbacks=1, target_bytes=9))


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    inbox: Inbox = SimpleQueue()
    threading.Thread(target=read, args=(inbox,), daemon=True).start()
    match inbox.get():
        case ipc.ListDevices():
            cpu = ipc.Device("CPU", "a fake CPU", "cpu", "CPU", 1 << 30, 2 << 30)
            send(ipc.Devices([cpu], [ipc.AbsentBackend("CUDA", "not built in")], "b0", "fake", ["sse"]))
        case ipc.Quantize() as job:
            quantize(job)
        case ipc.Load(paths, options):
            always = load(paths[0], options)
            Worker(inbox, options, always).run()


if __name__ == "__main__":
    main()
