"""MiniCPM 5: tags as in XML, with text that has signs of XML in CDATA."""

from shimmy.worker.chat.toolcalls.reading import Reading, Steps
from shimmy.worker.chat.toolcalls.tagged import Tagged


class MiniCpm(Tagged, frozen=True, kw_only=True):
    def read_value(self, reading: Reading, types: frozenset[str]) -> Steps[None]:
        if (yield from reading.next_is("<![CDATA[")):
            yield from self.read_text(reading, frozenset(["string"]), "]]></param>")
        else:
            yield from super().read_value(reading, types)


MINICPM = MiniCpm(
    name="minicpm",
    begins=('<function name="',),
    other_marks=("</function>", '<param name="', "</param>"),
    call='<function name="',
    name_end='">',
    call_end="</function>",
    key='<param name="',
    key_end='">',
    value_end="</param>",
    gap="",
)
