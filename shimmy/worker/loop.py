"""The step loop: schedule, decode, sample, emit. Runs on the step thread, which alone touches the llama context.

It takes commands from one queue, which the intake thread fills, and sends one frame of events per step. It knows
tokens, never text that was not made of them, and no process or pipe.
"""

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

import msgspec

from shimmy.core.errors import Fault, QueueTimeout, ShimmyError, Unavailable
from shimmy.core.events import (
    Accepted,
    Echoed,
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)
from shimmy.core.ipc import Abort, Events, Pause, Resume
from shimmy.core.request import Sampling
from shimmy.worker.adapters import AdapterSet
from shimmy.worker.chat.parts import CallArguments, Content, Thought
from shimmy.worker.embedding import Embedder, Job
from shimmy.worker.llama.context import BATCH_TOKENS, DecodeFailed, KVCacheFull
from shimmy.worker.reply import Reply, Said
from shimmy.worker.scheduler import Memory, Scheduler
from shimmy.worker.sequence import Request, Sequence, TokenSampler
from shimmy.worker.threads import ThreadGovernor

# Nothing has happened for so long: time to look whether what is kept is sound.
CHECK_AFTER_SECONDS = 2.0


class Context(Memory, Protocol):
    """What the loop needs of a context (worker/llama/context.py is the real one)."""

    @property
    def handle(self) -> int: ...
    def set_adapters(self, adapters: AdapterSet) -> None: ...
    def decode(self) -> None: ...
    def set_num_threads(self, count: int) -> None: ...


class Closed(msgspec.Struct, frozen=True):
    """The server is gone or wants the worker to end."""


Command = Request | Job | Failed | Abort | Pause | Resume | Closed
MakeSampler = Callable[[Sampling, Request, int], TokenSampler]


class Loop:
    """Owns the scheduler and the events of the current step."""

    def __init__(
        self,
        context: Context,
        scheduler: Scheduler,
        governor: ThreadGovernor,
        commands: "SimpleQueue[Command]",
        send: Callable[[Events], None],
        piece: Callable[[int], bytes | None],
        make_sampler: MakeSampler,
        embedder: Embedder,
    ) -> None:
        """`piece` gives a token's bytes, None for one that ends the generation."""
        self._embedder = embedder
        self._context = context
        self._scheduler = scheduler
        self._governor = governor
        self._num_threads = governor.num_threads
        self._commands = commands
        self._send = send
        self._piece = piece
        self._make_sampler = make_sampler
        self._events: list[Event] = []
        self._open = True

    def run(self) -> None:
        """Steps until `Closed` arrives."""
        idle = False
        while self._open:
            self._receive(wait=idle)
            idle = not self.step()
            self._emit()

    def step(self) -> bool:
        """One decode for everybody who has something to compute, and then a batch of texts of which vectors are made;
        False when there is neither."""
        has_generated = self._generate()
        return self._embed() or has_generated

    def _embed(self) -> bool:
        if not self._embedder.has_work:
            return False
        self._events += self._embedder.step(BATCH_TOKENS, self._scheduler.spare_seconds())
        return True

    def _generate(self) -> bool:
        now = time.monotonic()
        for sequence in self._scheduler.admit(now):
            self._prepare(sequence)
        for request in self._scheduler.expire(now):
            self._events.append(Failed(request.id, _too_late(request).fault()))
        try:
            sampled = self._scheduler.fill_batch()
            if not self._context.batch.size:
                return False
            # Steps are measured by the finer clock: on Windows the other one stands still for 16 ms.
            began_at = time.perf_counter()
            self._decode()
        except KVCacheFull:
            if not self._scheduler.reclaim():
                self._fail_batch(self._no_room().fault())
            return True
        except DecodeFailed as error:
            self._fail_batch(error.fault())
            return True
        for sequence, row, count in self._scheduler.prompt_rows:
            self._read_prompt(sequence, row, count)
        self._scheduler.commit()
        for sequence, row in sampled:
            self._sample_draft(sequence, row)
        self._scheduler.observe(time.perf_counter() - began_at)
        return True

    def _receive(self, *, wait: bool) -> None:
        commands = self._commands
        if wait and (command := self._wait()) is not None:
            self._apply(command)
        while not commands.empty():
            self._apply(commands.get())

    def _wait(self) -> Command | None:
        """The next command; None when a request that waits for its turn has waited long enough."""
        expiry = self._scheduler.next_expiry()
        if expiry is not None:
            return self._get(max(0.0, expiry - time.monotonic()))
        if (command := self._get(CHECK_AFTER_SECONDS)) is None:
            self._scheduler.check()
            command = self._commands.get()
        return command

    def _get(self, timeout_seconds: float) -> Command | None:
        try:
            return self._commands.get(timeout=timeout_seconds)
        except Empty:
            return None

    def _apply(self, command: Command) -> None:
        match command:
            case Request():
                self._accept(command)
            case Job():
                if (failed := self._embedder.add(command)) is not None:
                    self._events.append(failed)
            case Failed():
                self._events.append(command)
            case Abort(id):
                self._scheduler.abort(id)
                self._embedder.abort(id)
            case Pause(id):
                self._scheduler.set_paused(id, True)
            case Resume(id):
                self._scheduler.set_paused(id, False)
            case Closed():
                self._open = False

    def _accept(self, request: Request) -> None:
        self._events.append(Accepted(request.id, len(request.prompt), request.fingerprint, request.dropped))
        if (echo := request.echo) is not None:
            self._events.append(Echoed(request.id, echo.text, echo.first))
        self._scheduler.add(request)

    def _prepare(self, sequence: Sequence) -> None:
        request = sequence.request
        sequence.sampler = self._make_sampler(request.generation.sampling, request, sequence.index)

    def _decode(self) -> None:
        governor = self._governor
        only_decoding = self._scheduler.only_decodes
        # A prompt keeps every core busy between two barriers for long enough to be worth all of them.
        self._set_num_threads(governor.num_threads if only_decoding else governor.max_threads)
        self._context.set_adapters(self._scheduler.adapters)
        started_at, cpu_before = time.perf_counter(), time.process_time()
        self._context.decode()
        if only_decoding:
            # Drafts differ in length from step to step, and only steps of as many rows compare.
            num_rows, share = self._scheduler.undrafted()
            seconds, cpu_seconds = time.perf_counter() - started_at, time.process_time() - cpu_before
            governor.observe(num_rows, share * seconds, share * cpu_seconds)

    def _set_num_threads(self, count: int) -> None:
        if count != self._num_threads:
            self._num_threads = count
            self._context.set_num_threads(count)

    def _read_prompt(self, sequence: Sequence, first_row: int, num_rows: int) -> None:
        """Tells what is in the batch of a prompt whose probabilities are wanted, before it counts as computed."""
        log, sampler = sequence.prompt_log, sequence.sampler
        if log is None or sampler is None:
            return
        context, start = self._context.handle, sequence.num_computed
        told = log.take(start + num_rows, lambda at, token: sampler.tell(context, first_row + at - start, token))
        self._events.append(Echoed(sequence.request.id, "", told))

    def _sample_draft(self, sequence: Sequence, row: int) -> None:
        """Samples a row, and the next one for as long as that was the token which that one was computed from."""
        self._sample(sequence, row)
        for drafted in sequence.draft:
            if not sequence.is_running or sequence.tokens[-1] != drafted:
                break
            sequence.num_computed += 1
            sequence.num_accepted += 1
            row += 1
            self._sample(sequence, row)
        self._scheduler.settle(sequence)

    def _sample(self, sequence: Sequence, row: int) -> None:
        if sequence.sampler is None:
            # Another choice of its request has just failed.
            return
        if sequence.request.generation.max_tokens == 0:
            self._finish(sequence, "length")
            return
        try:
            token = self._next_token(sequence, sequence.sampler, row)
        except ShimmyError as error:
            self._fail(sequence.request, error.fault())
            return
        if sequence.first_token_at is None:
            sequence.first_token_at = time.monotonic()
        piece, reply = self._piece(token), sequence.reply
        if piece is None or token in sequence.request.generation.stop_tokens:
            if sequence.token_log and sequence.token_log.has_every_token:
                sequence.token_log.add(msgspec.structs.replace(sequence.sampler.take_logprob(), bytes=b""))
            self._finish(sequence, "stop", is_cut=piece is not None)
            return
        sequence.tokens.append(token)
        if reply is not None:
            self._read(sequence, sequence.sampler, reply, reply.plan.pieces.get(token, piece))
            return
        if sequence.token_log:
            sequence.token_log.add(sequence.sampler.take_logprob())
        text, stop = sequence.text.push(piece)
        self._tell(sequence, text)
        if stop is not None:
            self._finish(sequence, "stop", stop, is_cut=True)
        elif sequence.sampler.is_complete:
            self._finish(sequence, "stop")
        elif self._is_full(sequence):
            self._finish(sequence, "length")

    def _next_token(self, sequence: Sequence, sampler: TokenSampler, row: int) -> int:
        """The sampler's, except where thoughts have to end."""
        context, reply = self._context.handle, sequence.reply
        if reply is None or not reply.forced:
            token = sampler.sample(context, row)
            if reply is None or not reply.must_close(reply.plan.pieces.get(token, self._piece(token))):
                return token
            if sequence.token_log:
                sampler.take_logprob()
            reply.close()
        token = reply.forced.popleft()
        sampler.force(context, row, token)
        return token

    def _read(self, sequence: Sequence, sampler: TokenSampler, reply: Reply, piece: bytes) -> None:
        """As a piece of text is told, where it may be of a thought or a call."""
        if sequence.token_log:
            record = sampler.take_logprob()
            sequence.token_log.add(record if record.bytes == piece else msgspec.structs.replace(record, bytes=piece))
        awaited_answer = reply.awaits_answer
        self._say(sequence, reply, reply.push(piece))
        if awaited_answer and not reply.awaits_answer:
            sampler.begin_answer()
        if reply.due is not None:
            sampler.hold(*reply.due)
        if reply.is_over:
            self._finish(sequence, "stop", reply.stop, is_cut=reply.stop is not None)
        elif sampler.is_complete:
            self._finish(sequence, "stop")
        elif self._is_full(sequence):
            self._finish(sequence, "length")

    def _say(self, sequence: Sequence, reply: Reply, said: list[Said], *, last: bool = False) -> None:
        tokens = sequence.token_log.take_to(reply.num_certain, last=last) if sequence.token_log else []
        id, index = sequence.request.id, sequence.index
        for part in said:
            match part:
                case Content(text) | Thought(text):
                    told: list[TokenLogprob]
                    told, tokens = tokens, []
                    delta = TextDelta if isinstance(part, Content) else ReasoningDelta
                    self._events.append(delta(id, index, text, told))
                    if sequence.sent is not None and isinstance(part, Content):
                        sequence.sent.append(text)
                case CallArguments(call, text):
                    self._events.append(ToolCallDelta(id, index, call, text))
                case _:
                    self._events.append(ToolCallDelta(id, index, part.call, "", part.call_id, part.name))
        if tokens:
            self._events.append(TextDelta(id, index, "", tokens))

    def _tell(self, sequence: Sequence, text: str, *, last: bool = False) -> None:
        tokens = sequence.token_log.take(text, last=last) if sequence.token_log else []
        if sequence.sent is not None:
            sequence.sent.append(text)
        if text or tokens:
            self._events.append(TextDelta(sequence.request.id, sequence.index, text, tokens))

    def _is_full(self, sequence: Sequence) -> bool:
        limit = sequence.request.generation.max_tokens
        reached = limit is not None and sequence.num_generated >= limit
        return reached or len(sequence.tokens) >= self._context.context_length

    def _finish(
        self, sequence: Sequence, reason: FinishReason, stop: str | None = None, *, is_cut: bool = False
    ) -> None:
        """`is_cut` when the last token is not, or not all, in the text that is sent."""
        request_id, index, reply, warning = sequence.request.id, sequence.index, sequence.reply, None
        if reply is not None:
            self._say(sequence, reply, reply.finish(is_cut=is_cut or reason == "length"), last=True)
            warning = reply.warning
        else:
            self._tell(sequence, "" if stop is not None else sequence.text.flush(), last=True)
        if reason == "stop" and not self._is_met(sequence, is_cut=is_cut):
            reason = "length"
        elif reason == "stop" and reply is not None and reply.num_calls:
            reason = "tool_calls"
        timings = sequence.timings(time.monotonic())
        self._events.append(Finished(request_id, index, reason, sequence.usage(), timings, stop, warning))
        self._scheduler.finish(sequence)

    def _is_met(self, sequence: Sequence, *, is_cut: bool) -> bool:
        """A constrained answer that says that it is whole must be, and so must be a call."""
        if is_cut and sequence.reply is not None and sequence.reply.has_half_call:
            return False
        if sequence.sent is None or sequence.sampler is None:
            return True
        if sequence.reply is not None and sequence.reply.is_all_calls:
            return True
        return sequence.sampler.is_met("".join(sequence.sent), is_cut=is_cut)

    def _fail_batch(self, fault: Fault) -> None:
        for request in self._scheduler.batch_requests():
            self._fail(request, fault, sound=False)

    def _fail(self, request: Request, fault: Fault, *, sound: bool = True) -> None:
        self._events.append(Failed(request.id, fault))
        self._scheduler.abort(request.id, sound=sound)

    def _no_room(self) -> ShimmyError:
        have, limit = self._context.num_cells, self._context.context_length
        if have < limit:
            return Unavailable(f"there is no memory for more than {have} of {limit} tokens of context at the moment")
        return ShimmyError(f"a context of {limit} tokens cannot hold one sequence")

    def _emit(self) -> None:
        if self._events:
            self._send(Events(self._events))
            self._events = []


def _too_late(request: Request) -> ShimmyError:
    return QueueTimeout(f"the request has waited for its turn for {request.start_by - request.arrived_at:.1f} s")
