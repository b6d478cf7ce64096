"""What a response is made of so far: items that grow with the events of its generation. The same for whole answers and
streams, which differ in whether what happens to an item is told."""

import os
import time
from collections.abc import Iterator
from typing import Any

from shimmy.core.errors import ShimmyError
from shimmy.core.events import Accepted, Event, Finished, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta
from shimmy.protocols.openai.answer import Tally
from shimmy.protocols.openai.generation import token_limit
from shimmy.protocols.openai.logprobs import Offsets, chat_form
from shimmy.protocols.openai.responses.items import sealed
from shimmy.protocols.openai.responses.request import ENCRYPTED
from shimmy.protocols.openai.responses.tools import namespaced
from shimmy.protocols.openai.responses.wire import FunctionTool, ResponsesRequest, ToolField

Told = dict[str, Any]  # an event but for its number


class Output:
    """One response. What `add` and `fail` yield is what a stream tells."""

    def __init__(self, body: ResponsesRequest, id: str) -> None:
        self._body = body
        self._id = id
        self._created_at = int(time.time())
        self._items: list[Told] = []
        self._open: _Message | _Thoughts | _Call | None = None
        self._tally = Tally()
        self._has_begun = False
        self._ending: Told = {"status": "in_progress", "completed_at": None, "error": None, "incomplete_details": None}
        reasoning = body.reasoning
        self._hides_thoughts = bool(reasoning and reasoning.exclude)
        self._seals = ENCRYPTED in (body.include or [])
        self._namespaced = namespaced(body)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What was dropped of the input."""
        return self._tally.headers()

    def _begin(self) -> Iterator[Told]:
        self._has_begun = True
        for happened in ("created", "in_progress"):
            yield {"type": f"response.{happened}", "response": self.snapshot()}

    def add(self, event: Event) -> Iterator[Told]:
        match event:
            case Accepted():
                self._tally.accept(event)
                yield from self._begin()
            case TextDelta(_, _, text, tokens):
                if text and not isinstance(self._open, _Message):
                    yield from self._begin_item(_Message(len(self._items), self._body.tells_tokens))
                if isinstance(self._open, _Message):
                    yield self._open.add(text, tokens)
            case ReasoningDelta(_, _, text) if text and not self._hides_thoughts:
                if not isinstance(self._open, _Thoughts):
                    yield from self._begin_item(_Thoughts(len(self._items), _wants_summary(self._body), self._seals))
                assert isinstance(self._open, _Thoughts)
                yield self._open.add(text)
            case ToolCallDelta():
                if event.name is not None:
                    named = self._namespaced.get(event.name, {"name": event.name})
                    call = _Call(len(self._items), named, event.call_id or "")
                    yield from self._begin_item(call)
                if isinstance(self._open, _Call) and event.arguments:
                    yield self._open.add(event.arguments)
            case Finished():
                yield from self._finish(event)

    def fail(self, error: ShimmyError) -> Iterator[Told]:
        """As OpenAI does: an error, and the response as far as it came. Some clients read the error's fields at the
        top, and others only raise what has them in `error`."""
        if not self._has_begun:
            yield from self._begin()
        fields = {"code": error.code, "message": error.message, "param": error.param}
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        yield {"type": "error", **fields, "error": {"type": kind, **fields}}
        if self._open is not None:
            self._items.append(self._open.item("incomplete"))
            self._open = None
        self._ending |= {"status": "failed", "error": {"code": _failure(error), "message": error.message}}
        yield {"type": "response.failed", "response": self.snapshot()}

    def snapshot(self) -> Told:
        """The response as it is."""
        body, is_over = self._body, self._ending["status"] in ("completed", "incomplete")
        dropped = self._tally.truncation().get("truncation")
        reasoning, tools = body.reasoning, body.tools or []
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_at,
            **self._ending,
            "model": body.model,
            "output": list(self._items),
            "usage": self._usage() if is_over else None,
            "instructions": body.instructions,
            "max_output_tokens": token_limit(body),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "reasoning": {
                "effort": reasoning.effort if reasoning else None,
                "summary": (reasoning.summary or reasoning.generate_summary) if reasoning else None,
            },
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_logprobs": body.top_logprobs or 0,
            "text": {"format": _format(body)},
            "tool_choice": body.tool_choice or "auto",
            "tools": [_tool(tool) for tool in tools],
            "truncation": body.truncation or "disabled",
            "metadata": body.metadata or {},
            "store": False,
            "background": False,
            "previous_response_id": None,
            "system_fingerprint": self._tally.fingerprint,
            # The name that this has elsewhere is OpenAI's for the policy.
            **({"truncated": dropped} if dropped else {}),
            **({"timings": self._tally.timings()} if is_over else {}),
        }

    def _begin_item(self, item: "_Message | _Thoughts | _Call") -> Iterator[Told]:
        yield from self._end_item("completed")
        item.output_index = len(self._items)
        self._open = item
        yield from item.begin()

    def _end_item(self, status: str) -> Iterator[Told]:
        if self._open is not None:
            item = self._open.item(status)
            yield from self._open.end(item)
            self._items.append(item)
            self._open = None

    def _finish(self, event: Finished) -> Iterator[Told]:
        self._tally.add(0, event)
        status = "incomplete" if event.reason == "length" else "completed"
        yield from self._end_item(status)
        self._ending["status"] = status
        if status == "incomplete":
            self._ending["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self._ending["completed_at"] = int(time.time())
        if event.warning:
            self._ending["warning"] = event.warning
        yield {"type": f"response.{status}", "response": self.snapshot()}

    def _usage(self) -> Told:
        usage = self._tally.usage()
        thought = usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
        return {
            "input_tokens": usage["prompt_tokens"],
            # OpenAI counts what it charges for keeping; here that is nothing.
            "input_tokens_details": usage["prompt_tokens_details"] | {"cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": usage["total_tokens"],
        }


class _Item:
    """What is not complete yet. `prefix` is that of its id."""

    prefix: str

    def __init__(self, output_index: int) -> None:
        self.id = f"{self.prefix}_{os.urandom(12).hex()}"
        self.output_index = output_index
        self.texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def told(self, happened: str, **fields: Any) -> Told:
        return {"type": f"response.{happened}", "output_index": self.output_index, "item_id": self.id, **fields}

    def changed(self, happened: str, item: Told) -> Told:
        return {"type": f"response.output_item.{happened}", "output_index": self.output_index, "item": item}


class _Message(_Item):
    prefix = "msg"

    def __init__(self, output_index: int, tells_tokens: bool) -> None:
        super().__init__(output_index)
        self._logprobs: list[Told] = []
        self._tells_tokens = tells_tokens

    def begin(self) -> Iterator[Told]:
        yield self.changed("added", self.item("in_progress") | {"content": []})
        yield self.told("content_part.added", content_index=0, part=self._part())

    def add(self, text: str, tokens: list[TokenLogprob]) -> Told:
        self.texts.append(text)
        logprobs = chat_form(tokens, Offsets())["content"] if tokens else []
        self._logprobs += logprobs
        return self.told("output_text.delta", content_index=0, delta=text, logprobs=logprobs)

    def end(self, item: Told) -> Iterator[Told]:
        yield self.told("output_text.done", content_index=0, text=self.text, logprobs=self._logprobs)
        yield self.told("content_part.done", content_index=0, part=self._part())
        yield self.changed("done", item)

    def item(self, status: str) -> Told:
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": [self._part()]}

    def _part(self) -> Told:
        logprobs = list(self._logprobs) if self._tells_tokens else []
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": logprobs}


class _Thoughts(_Item):
    """As they are, or, for clients that read nothing else, as their own summary."""

    prefix = "rs"

    def __init__(self, output_index: int, is_summary: bool, seals: bool) -> None:
        super().__init__(output_index)
        self._is_summary = is_summary
        self._seals = seals

    def begin(self) -> Iterator[Told]:
        yield self.changed("added", self.item("in_progress") | {"summary": [], "content": []})
        if self._is_summary:
            yield self.told("reasoning_summary_part.added", summary_index=0, part=self._part())
        else:
            yield self.told("content_part.added", content_index=0, part=self._part())

    def add(self, text: str) -> Told:
        self.texts.append(text)
        if self._is_summary:
            return self.told("reasoning_summary_text.delta", summary_index=0, delta=text)
        return self.told("reasoning_text.delta", content_index=0, delta=text)

    def end(self, item: Told) -> Iterator[Told]:
        if self._is_summary:
            yield self.told("reasoning_summary_text.done", summary_index=0, text=self.text)
            yield self.told("reasoning_summary_part.done", summary_index=0, part=self._part())
        else:
            yield self.told("reasoning_text.done", content_index=0, text=self.text)
            yield self.told("content_part.done", content_index=0, part=self._part())
        yield self.changed("done", item)

    def item(self, status: str) -> Told:
        part = [self._part()]
        shown = {"summary": part, "content": []} if self._is_summary else {"summary": [], "content": part}
        item = {"id": self.id, "type": "reasoning", "status": status, **shown}
        return item | {"encrypted_content": sealed(self.text)} if self._seals and status != "in_progress" else item

    def _part(self) -> Told:
        return {"type": "summary_text" if self._is_summary else "reasoning_text", "text": self.text}


class _Call(_Item):
    prefix = "fc"

    def __init__(self, output_index: int, named: dict[str, str], call_id: str) -> None:
        """`named` has the function's `name`, and its `namespace` if it is in one."""
        super().__init__(output_index)
        self._named = named
        self._call_id = call_id

    def begin(self) -> Iterator[Told]:
        yield self.changed("added", self.item("in_progress"))

    def add(self, arguments: str) -> Told:
        self.texts.append(arguments)
        return self.told("function_call_arguments.delta", delta=arguments)

    def end(self, item: Told) -> Iterator[Told]:
        yield self.told("function_call_arguments.done", name=self._named["name"], arguments=self.text)
        yield self.changed("done", item)

    def item(self, status: str) -> Told:
        call = {"call_id": self._call_id, **self._named, "arguments": self.text}
        return {"id": self.id, "type": "function_call", "status": status, **call}


def _wants_summary(body: ResponsesRequest) -> bool:
    return bool(body.reasoning and (body.reasoning.summary or body.reasoning.generate_summary))


def _format(body: ResponsesRequest) -> Any:
    given = body.text.format if body.text is not None else None
    if given is None or given.type == "text":
        return {"type": "text"}
    if given.type != "json_schema":
        return {"type": given.type}
    named = {"name": given.name, "description": given.description, "strict": given.strict is not False}
    return {"type": "json_schema", **named, "schema": given.schema}


def _tool(tool: FunctionTool) -> Told:
    named = {"type": tool.type, "name": tool.name, "description": tool.description}
    if isinstance(tool, ToolField) and tool.type == "namespace":
        return named | {"tools": [_tool(function) for function in tool.tools or []]}
    if tool.type != "function":
        return {"type": tool.type}
    return named | {"parameters": tool.parameters, "strict": bool(tool.strict)}


def _failure(error: ShimmyError) -> str:
    """OpenAI's codes, of which clients know what to do, and ours where there is none."""
    if error.status >= 500:
        return "server_error"
    return "rate_limit_exceeded" if error.status == 429 else error.code
