"""gRPC: Spindll's service, health and reflection, on the same port as all else. Nothing here is imported before the
first call; see call.py for what a call is."""

from shimmy.protocols.grpc.call import Call
from shimmy.protocols.grpc.services import Services

__all__ = ["Call", "Services"]
