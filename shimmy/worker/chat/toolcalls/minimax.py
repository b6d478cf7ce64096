"""MiniMax M1 and M2."""

from shimmy.worker.chat.toolcalls.call_objects import CallObjects
from shimmy.worker.chat.toolcalls.tagged import Tagged

MINIMAX_M1 = CallObjects(
    name="minimax-m1",
    begins=("<tool_calls>",),
    other_marks=("</tool_calls>",),
    close="</tool_calls>",
    padding="\n",
    one_section=True,
)
MINIMAX_M2 = Tagged(
    name="minimax-m2",
    begins=("<minimax:tool_call>",),
    other_marks=("</minimax:tool_call>",),
    section="<minimax:tool_call>",
    section_end="</minimax:tool_call>",
    call='<invoke name="',
    name_end='">',
    call_end="</invoke>",
    key='<parameter name="',
    key_end='">',
    value_end="</parameter>",
)
