"""What an answer must be: the fields that OpenAI, llama-server and vLLM have for it, as one `Constraint`."""

from collections.abc import Iterable, Iterator

import msgspec

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.raw_json import ABSENT, raw_text
from shimmy.core.request import MAX_CONSTRAINT_BYTES, Constraint, ConstraintKind
from shimmy.protocols.openai.wire import CommonFields, ResponseFormat, StructuredOutputs


def constraint(body: CommonFields, more: Iterable[Constraint] = ()) -> Constraint | None:
    """With `more`, those of other fields. Raises `RequestError` for two at once, and for one that is too long to be
    looked at."""
    found = [*more, *_constraints(body)]
    if not found:
        return None
    first, *others = found
    if others:
        raise RequestError(f"{others[0].field}: there is already {first.field}; choose one", param=others[0].field)
    if len(first.text.encode()) > MAX_CONSTRAINT_BYTES:
        raise RequestError(f"{first.field}: more than {MAX_CONSTRAINT_BYTES} bytes", param=first.field)
    return first


def _constraints(body: CommonFields) -> Iterator[Constraint]:
    if body.response_format is not None:
        yield from _of_format(body.response_format)
    if body.structured_outputs is not None:
        yield from _of_structured_outputs(body.structured_outputs)
    yield from schema("json_schema", body.json_schema)
    yield from schema("guided_json", body.guided_json)
    yield from _texts(body.grammar, body.regex, body.choice, "")
    yield from _texts(body.guided_grammar, body.guided_regex, body.guided_choice, "guided_")


def _of_format(format: ResponseFormat) -> Iterator[Constraint]:
    match format.type:
        case "text":
            return
        case "json_object" if format.schema == ABSENT:
            yield Constraint("json_object", "", "response_format")
        case "json_object":
            yield from schema("response_format.schema", format.schema)
        case "json_schema" if format.json_schema is not None:
            yield from schema("response_format.json_schema.schema", format.json_schema.schema, required=True)
        case "json_schema":
            # llama-server has it here, too.
            field = "response_format.schema" if format.schema != ABSENT else "response_format.json_schema"
            yield from schema(field, format.schema, required=True)
        case other:
            message = f"response_format.type: there is no {other[:40]!r}, only text, json_object, json_schema"
            raise Unsupported(message, param="response_format.type")


def _of_structured_outputs(given: StructuredOutputs) -> Iterator[Constraint]:
    prefix = "structured_outputs."
    if given.structural_tag is not None:
        raise Unsupported(f"{prefix}structural_tag is not supported", param=f"{prefix}structural_tag")
    yield from schema(f"{prefix}json", given.json)
    if given.json_object:
        yield Constraint("json_object", "", f"{prefix}json_object")
    yield from _texts(given.grammar, given.regex, given.choice, prefix)


def schema(field: str, raw: msgspec.Raw, *, required: bool = False) -> Iterator[Constraint]:
    """vLLM takes it in a string as well."""
    if raw == ABSENT:
        if required:
            raise RequestError(f"{field}: this field is required", param=field)
        return
    text = raw_text(field, raw)
    if text.startswith('"'):
        text = msgspec.json.decode(text, type=str)
    yield Constraint("json_schema", text, field)


def _texts(grammar: str | None, regex: str | None, choices: list[str] | None, prefix: str) -> Iterator[Constraint]:
    """An empty grammar is none, as for llama-server."""
    given: list[tuple[ConstraintKind, str | None]] = [("grammar", grammar), ("regex", regex)]
    for kind, text in given:
        if text:
            yield Constraint(kind, text, f"{prefix}{kind}")
    if choices:
        yield Constraint("choice", msgspec.json.encode(choices).decode(), f"{prefix}choice")
