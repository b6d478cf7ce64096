"""GigaChat 3: one object after a mark, or after the header of another role."""

from shimmy.worker.chat.toolcalls.call_objects import CallObjects

GIGACHAT_31 = CallObjects(name="gigachat-3.1", begins=("<|function_call|>",), close="")
GIGACHAT_3 = CallObjects(
    name="gigachat-3",
    begins=("<|message_sep|>\n\nfunction call<|role_sep|>",),
    also_begins=("function call<|role_sep|>",),
    other_marks=("<|message_sep|>", "<|role_sep|>"),
    opening="<|message_sep|>\n\nfunction call<|role_sep|>\n",
    close="",
)
