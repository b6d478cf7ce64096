"""Calls as Python writes them: Llama 4 and others that are told so, and LFM 2 between marks."""

from shimmy.worker.chat.toolcalls.python_calls import PythonCalls

PYTHONIC = PythonCalls(name="pythonic", begins=())
LFM = PythonCalls(
    name="lfm",
    begins=("<|tool_call_start|>",),
    other_marks=("<|tool_call_end|>",),
    close="<|tool_call_end|>",
)
