"""`<function=name>` with `<parameter=key>` tags: Qwen3-Coder, Qwen 3.5, Nemotron 3, Step 3.5 and Seed-OSS."""

import msgspec

from shimmy.worker.chat.toolcalls.tagged import Tagged

# Some of these models forget the tag around a call, so what is in it begins one too.
QWEN_CODER = Tagged(
    name="qwen-coder",
    begins=("<tool_call>",),
    also_begins=("<function=",),
    other_marks=("</tool_call>", "</function>", "<parameter=", "</parameter>"),
    section="<tool_call>",
    section_end="</tool_call>",
    call="<function=",
    name_end=">",
    call_end="</function>",
    key="<parameter=",
    key_end=">",
    value_end="</parameter>",
    padding="\n",
    one_each=True,
)
SEED = msgspec.structs.replace(
    QWEN_CODER,
    name="seed",
    begins=("<seed:tool_call>",),
    other_marks=("</seed:tool_call>", "</function>", "<parameter=", "</parameter>"),
    section="<seed:tool_call>",
    section_end="</seed:tool_call>",
    padding="",
)
