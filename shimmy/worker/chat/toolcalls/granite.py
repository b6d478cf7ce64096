"""Granite 3: a list after `<|tool_call|>`. Granite 4 writes like Hermes."""

from shimmy.worker.chat.toolcalls.call_objects import CallObjects

GRANITE = CallObjects(name="granite", begins=("<|tool_call|>",), also_begins=("<tool_call>",), close="", in_list=True)
