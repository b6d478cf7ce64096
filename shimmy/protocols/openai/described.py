"""What each route of this protocol takes."""

from shimmy.core.operation import EVENTS, JSON, Operation
from shimmy.protocols.openai.embeddings import EmbeddingsRequest, NativeRequest
from shimmy.protocols.openai.infill import InfillRequest
from shimmy.protocols.openai.models import Entry, Listing
from shimmy.protocols.openai.rerank import RerankRequest
from shimmy.protocols.openai.responses.wire import ResponsesRequest
from shimmy.protocols.openai.tokens import ChatFields, DetokenizeRequest, TokenizeRequest
from shimmy.protocols.openai.wire import ChatRequest, CompletionRequest

_EMBED = Operation("Vectors of texts, as llama-server gives them.", NativeRequest)
_RANK = Operation("Texts by how well they answer a query.", RerankRequest)
_STORED = Operation("Always 404: responses are not stored.")

OPERATIONS = {
    "/v1/chat/completions": Operation("An answer to a chat.", ChatRequest, media=(JSON, EVENTS)),
    "/v1/completions": Operation("How a text goes on.", CompletionRequest, media=(JSON, EVENTS)),
    "/v1/responses": Operation("An answer, as items. Nothing is stored.", ResponsesRequest, media=(JSON, EVENTS)),
    "/v1/responses/input_tokens": Operation("How many tokens an input has.", ResponsesRequest),
    "/v1/responses/{id}": _STORED,
    "/v1/responses/{id}/input_items": _STORED,
    "/v1/responses/{id}/cancel": _STORED,
    "/v1/explain": Operation("What a chat completion would compute: prompt, stops, constraint, sampling.", ChatRequest),
    "/v1/embeddings": Operation("Vectors of texts.", EmbeddingsRequest),
    "/embeddings": _EMBED,
    "/embedding": _EMBED,
    "/v1/rerank": _RANK,
    "/v2/rerank": _RANK,
    "/rerank": _RANK,
    "/v1/reranking": _RANK,
    "/reranking": _RANK,
    "/infill": Operation("What belongs between two texts.", InfillRequest, media=(JSON, EVENTS)),
    "/props": Operation("What llama-server's clients ask of a model: its context, its slots, its template."),
    "/slots": Operation("How many sequences a loaded model has, and how many of them run."),
    "/tokenize": Operation("The tokens of a text or a chat.", TokenizeRequest),
    "/detokenize": Operation("The text of tokens.", DetokenizeRequest),
    "/v1/chat/completions/input_tokens": Operation("How many tokens a chat has.", ChatFields),
    "/apply-template": Operation("A chat as the model's template renders it.", ChatFields),
    "/v1/models": Operation("The models there are.", answer=Listing),
    "/v1/models/{id}": Operation("One model.", answer=Entry),
}
