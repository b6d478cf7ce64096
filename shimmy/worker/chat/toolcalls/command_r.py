"""Command R: a list of actions, between marks since R7B, in a fence before."""

from shimmy.worker.chat.toolcalls.call_objects import CallObjects

COMMAND_R7B = CallObjects(
    name="command-r7b",
    begins=("<|START_ACTION|>",),
    other_marks=("<|END_ACTION|>",),
    close="<|END_ACTION|>",
    in_list=True,
    number_key="tool_call_id",
    name_key="tool_name",
    arguments_key="parameters",
)
COMMAND_R = CallObjects(
    name="command-r",
    begins=("Action: ```json",),
    also_begins=("Action:\n```json", "Action:```json"),
    close="```",
    opening="Action: ```json\n",
    in_list=True,
    name_key="tool_name",
    arguments_key="parameters",
)
