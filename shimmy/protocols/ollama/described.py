"""What each route of this protocol takes."""

from shimmy.core.operation import EVENTS, JSON, LINES, TEXT, Operation
from shimmy.protocols.ollama.wire import (
    ChatRequest,
    CopyRequest,
    CreateRequest,
    DeleteRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    PullRequest,
    ShowRequest,
)

OPERATIONS = {
    "/": Operation("Says that Ollama is running.", media=(TEXT,)),
    "/api/version": Operation("The version of Ollama's API that this is."),
    "/api/chat": Operation("An answer to a chat; in lines unless `stream` is false.", ChatRequest, media=(LINES, JSON)),
    # In the form of the original Shimmy, which is told apart, it is events.
    "/api/generate": Operation(
        "How a text goes on; in lines unless `stream` is false.", GenerateRequest, media=(LINES, JSON, EVENTS)
    ),
    "/api/embed": Operation("Vectors of texts.", EmbedRequest),
    "/api/embeddings": Operation("The vector of one text.", EmbeddingsRequest),
    "/api/tags": Operation("The models there are."),
    "/api/ps": Operation("The models that are loaded."),
    "/api/show": Operation("One model.", ShowRequest),
    "/api/pull": Operation("Brings a model into the store; in lines unless `stream` is false.", PullRequest),
    "/api/push": Operation("Always 501: this server gives no models away."),
    "/api/create": Operation(
        "Makes a model of another one or of files; in lines unless `stream` is false.", CreateRequest
    ),
    "/api/copy": Operation("Gives a model a further name.", CopyRequest),
    "/api/delete": Operation("Removes a model from the store.", DeleteRequest),
    "/api/blobs/{digest}": Operation("Brings a file for a model that is to be made; HEAD says whether it is here."),
}
