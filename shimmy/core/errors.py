"""Every error a request can end with, as one tree.

    ShimmyError                    500  internal_error
    ├── RequestError               400  invalid_request
    │   ├── Unsupported            400  unsupported_parameter
    │   ├── ContextOverflow        400  context_length_exceeded
    │   ├── TooLarge               413  request_too_large
    │   ├── RequestCrashes         422  request_crashes
    │   └── RequestTimeout         408  request_timeout
    ├── Unauthorized               401  invalid_api_key
    ├── Forbidden                  403  forbidden
    ├── NotFound                   404  not_found
    │   └── ModelNotFound          404  model_not_found
    ├── MethodNotAllowed           405  method_not_allowed
    ├── Unimplemented              501  unimplemented
    ├── ModelInUse                 409  model_in_use
    ├── ModelInvalid               422  model_invalid
    ├── QueueTimeout               408  queue_timeout
    ├── DeadlineExceeded           504  deadline_exceeded
    ├── Busy                       429  queue_full
    ├── RateLimited                429  rate_limit_exceeded
    ├── Unavailable                503  unavailable
    │   ├── InsufficientMemory     503  insufficient_memory
    │   └── Draining               503  server_draining
    ├── ModelFailed                500  model_failed
    ├── WorkerLost                 502  worker_lost
    ├── PullFailed                 502  pull_failed
    │   └── DigestMismatch         502  digest_mismatch
    └── StoreFailed                500  store_failed
        └── StoreFull              507  insufficient_storage

Errors are raised with facts. How a client reads them is each protocol's `encode_error`; this module knows no wire
format. A `Fault` is the same error as data, for the frames between server and worker.
"""

from typing import Any, ClassVar

import msgspec


class Fault(msgspec.Struct, frozen=True):
    """An error on its way through a frame: `code` finds the class again."""

    code: str
    message: str
    param: str | None = None
    details: dict[str, Any] = {}


class ShimmyError(Exception):
    """Base of the tree; on its own it means a fault of ours."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = details

    def fault(self) -> Fault:
        return Fault(self.code, self.message, self.param, self.details)


class RequestError(ShimmyError):
    """The request itself is wrong; `param` names the field."""

    status = 400
    code = "invalid_request"


class Unsupported(RequestError):
    """A field, or a value of it, that cannot be honoured and would change the answer if it were."""

    code = "unsupported_parameter"


class ContextOverflow(RequestError):
    """The prompt does not fit; details: `num_prompt_tokens`, `context_length`."""

    code = "context_length_exceeded"


class TooLarge(RequestError):
    status = 413
    code = "request_too_large"


class RequestCrashes(RequestError):
    """It ended the model's process more than once, so it is not run again."""

    status = 422
    code = "request_crashes"


class RequestTimeout(RequestError):
    """The client did not finish sending its request in time."""

    status = 408
    code = "request_timeout"


class Unauthorized(ShimmyError):
    status = 401
    code = "invalid_api_key"


class Forbidden(ShimmyError):
    status = 403
    code = "forbidden"


class NotFound(ShimmyError):
    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(ShimmyError):
    status = 405
    code = "method_not_allowed"


class Unimplemented(ShimmyError):
    """A call that its protocol has, and this server cannot do."""

    status = 501
    code = "unimplemented"


class ModelInUse(ShimmyError):
    """The model cannot be unloaded: requests use it, or it is being loaded."""

    status = 409
    code = "model_in_use"


class ModelInvalid(ShimmyError):
    """The model file cannot be served; the message says why."""

    status = 422
    code = "model_invalid"


class QueueTimeout(ShimmyError):
    """The request's turn did not come within the time that it, or the server, allows for that."""

    status = 408
    code = "queue_timeout"


class DeadlineExceeded(ShimmyError):
    """The request was not finished within the time that it was given."""

    status = 504
    code = "deadline_exceeded"


class Busy(ShimmyError):
    """The queue is full; worth retrying after `retry_after_seconds` (a detail)."""

    status = 429
    code = "queue_full"


class RateLimited(ShimmyError):
    """The API key has used up what it may; worth retrying after `retry_after_seconds` (a detail)."""

    status = 429
    code = "rate_limit_exceeded"


class Unavailable(ShimmyError):
    status = 503
    code = "unavailable"


class InsufficientMemory(Unavailable):
    """A model would not fit; details: `needed_bytes`, `free_bytes`, `limit_bytes`, `device` for memory of a GPU, and
    `is_lasting` where it would not fit either if it were alone: worth no retry."""

    code = "insufficient_memory"


class Draining(Unavailable):
    """The server is shutting down."""

    code = "server_draining"


class ModelFailed(ShimmyError):
    """The model would not load, or crashed too often; retrying will not help."""

    status = 500
    code = "model_failed"


class WorkerLost(ShimmyError):
    """The worker process ended while it held the request."""

    status = 502
    code = "worker_lost"


class PullFailed(ShimmyError):
    """A hub that models come from cannot be reached, refuses, or answers with what makes no sense."""

    status = 502
    code = "pull_failed"


class DigestMismatch(PullFailed):
    """What came is not what was announced; nothing of it is kept."""

    code = "digest_mismatch"


class StoreFailed(ShimmyError):
    """The store of pulled models cannot be read or written."""

    code = "store_failed"


class StoreFull(StoreFailed):
    """There is no room for the model; details: `needed_bytes`, `free_bytes`."""

    status = 507
    code = "insufficient_storage"


def _tree(cls: type[ShimmyError]) -> dict[str, type[ShimmyError]]:
    found = {cls.code: cls}
    for sub in cls.__subclasses__():
        found.update(_tree(sub))
    return found


_BY_CODE = _tree(ShimmyError)


def from_fault(fault: Fault) -> ShimmyError:
    """The exception a fault stands for; an unknown code becomes the base class."""
    cls = _BY_CODE.get(fault.code, ShimmyError)
    return cls(fault.message, param=fault.param, **fault.details)
