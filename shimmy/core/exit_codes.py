"""What the exit codes of the program mean. docs/cli.md has the same table (a test compares)."""

OK = 0
FAILURE = 1
USAGE = 2
NOT_FOUND = 3
CANNOT_BIND = 4
MODEL_FAILED = 5
INTERRUPTED = 130


def of_error(error: Exception) -> int:
    from shimmy.core import errors

    match error:
        case errors.NotFound():
            return NOT_FOUND
        case errors.ModelInvalid() | errors.ModelFailed() | errors.WorkerLost():
            return MODEL_FAILED
        case _:
            return FAILURE
