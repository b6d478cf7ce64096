"""Numbers as people read them."""


def parameter_size(num_parameters: int) -> str:
    """As Ollama has it: 134.52M, 8.0B."""
    for unit, digits, letter in ((10**12, 1, "T"), (10**9, 1, "B"), (10**6, 2, "M"), (10**3, 0, "K")):
        if num_parameters >= unit:
            return f"{num_parameters / unit:.{digits}f}{letter}"
    return str(num_parameters)
