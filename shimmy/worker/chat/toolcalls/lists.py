"""A list of objects, each model with marks of its own: Phi 4 mini, Firefunction, Nemotron Nano 2, Apriel."""

from shimmy.worker.chat.toolcalls.call_objects import CallObjects

PHI = CallObjects(
    name="phi",
    begins=("<|tool_call|>",),
    also_begins=("functools[",),
    other_marks=("<|/tool_call|>",),
    close="<|/tool_call|>",
    in_list=True,
)
FUNCTOOLS = CallObjects(name="functools", begins=("functools[",), close="", in_list=True)
NEMOTRON_NANO = CallObjects(
    name="nemotron-nano", begins=("<TOOLCALL>",), other_marks=("</TOOLCALL>",), close="</TOOLCALL>", in_list=True
)
APRIEL = CallObjects(
    name="apriel", begins=("<tool_calls>",), other_marks=("</tool_calls>",), close="</tool_calls>", in_list=True
)
