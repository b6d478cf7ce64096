"""What each route of this protocol takes."""

from shimmy.core.operation import EVENTS, JSON, Operation
from shimmy.protocols.anthropic.wire import CountRequest, MessagesRequest

OPERATIONS = {
    "/v1/messages": Operation(
        "An answer to a conversation, as Anthropic's API gives it.", MessagesRequest, media=(JSON, EVENTS)
    ),
    "/v1/messages/count_tokens": Operation("How many tokens a conversation has.", CountRequest),
}
