"""What each route of this protocol takes, apart from /api/generate, which is described with Ollama's."""

from shimmy.core.operation import Operation
from shimmy.protocols.native.models import LoadRequest

OPERATIONS = {
    "/api/models": Operation("The models there are, and in which state."),
    "/api/models/discover": Operation("Looks for models again."),
    "/api/models/{name}/load": Operation(
        "Loads a model, or loads it anew, or says how one that is loaded is to be kept.", LoadRequest
    ),
    "/api/models/{name}/unload": Operation("Ends the worker of a model that nobody uses."),
    "/api/models/{name}/status": Operation("The state of one model."),
}
