"""`<arg_key>` and `<arg_value>` within `<tool_call>`: GLM 4.5 and later, Laguna, Ling 3, Spark 2.5, Hunyuan 3."""

from msgspec.structs import replace

from shimmy.worker.chat.toolcalls.reading import Reading, Steps
from shimmy.worker.chat.toolcalls.tagged import Tagged


class Keyed(Tagged, frozen=True, kw_only=True):
    """The name ends with its line, or where the first argument begins, or the call ends."""

    def read_name(self, reading: Reading) -> Steps[str]:
        yield from reading.space()
        ends = (self.key, self.call_end, "\n", self.name_end) if self.name_end else (self.key, self.call_end, "\n")
        name = yield from reading.name_before(*ends)
        if self.name_end:
            yield from reading.next_is(self.name_end)
        return name


GLM = Keyed(
    name="glm",
    begins=("<tool_call>",),
    other_marks=("</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    call="<tool_call>",
    name_end="",
    call_end="</tool_call>",
    key="<arg_key>",
    key_end="</arg_key>",
    value="<arg_value>",
    value_end="</arg_value>",
)
# As GLM 4.7 writes it.
GLM_DENSE = replace(GLM, name="glm-dense", gap="", separator="")


def hunyuan(suffix: str) -> Keyed:
    """Hunyuan 3 has this suffix in all its tags."""
    tags = [f"<{tag}{suffix}>" for tag in ("/tool_call", "/tool_calls", "arg_key", "/arg_key", "arg_value")]
    return Keyed(
        name="hunyuan",
        begins=(f"<tool_calls{suffix}>",),
        also_begins=(f"<tool_call{suffix}>",),
        other_marks=(*tags, f"</arg_value{suffix}>", f"<tool_sep{suffix}>"),
        section=f"<tool_calls{suffix}>",
        section_end=f"</tool_calls{suffix}>",
        call=f"<tool_call{suffix}>",
        name_end=f"<tool_sep{suffix}>",
        call_end=f"</tool_call{suffix}>",
        key=f"<arg_key{suffix}>",
        key_end=f"</arg_key{suffix}>",
        value=f"<arg_value{suffix}>",
        value_end=f"</arg_value{suffix}>",
    )
