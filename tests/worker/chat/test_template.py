"""Chat templates render as Hugging Face renders them (jinja2), and hostile ones cost one request at most."""

import re
import signal
import subprocess
import sys

import jinja2
import jinja2.sandbox
import pytest

from shimmy.core.errors import ModelInvalid, RequestError
from shimmy.core.request import Chat, Message
from shimmy.worker.chat.template import CHATML, ChatTemplate

CONVERSATION = [
    Message("system", "You are <b>brief</b> & 'kind'."),
    Message("user", "Hi\n"),
    Message("assistant", "Hello — 你好"),
    Message("user", 'What is "2+2"?', name="ann"),
]
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
NAMESPACES = (
    "{%- set ns = namespace(seen=0) %}\n{%- for m in messages %}\n    {%- if m.role == 'user' %}\n"
    "        {%- set ns.seen = ns.seen + 1 %}\n    {%- endif %}\n    {{- m | tojson }}\n{%- endfor %}\n"
    "{{ ns.seen }} {{ messages | map(attribute='role') | join(',') }}{% if tools is defined %}tools{% endif %}\n"
)


def by_jinja2(text: str) -> str:
    import json

    def refuse(reason: str) -> None:
        raise jinja2.TemplateError(reason)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.globals.update(raise_exception=refuse, bos_token="<s>", eos_token="</s>")
    messages = [{"role": m.role, "content": m.content, **({"name": m.name} if m.name else {})} for m in CONVERSATION]
    return environment.from_string(text).render(messages=messages, tools=None, add_generation_prompt=True)


def template(text: str | None) -> ChatTemplate:
    return ChatTemplate(text, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("text", [CHATML, LLAMA2, NAMESPACES], ids=["chatml", "llama2", "namespaces"])
def test_renders_like_jinja2(text: str) -> None:
    assert template(text).render(Chat(CONVERSATION)) == by_jinja2(text)


def test_a_model_without_a_template_gets_chatml_and_its_stops() -> None:
    chatml = template(None)
    assert (chatml.source, chatml.stops[0]) == ("chatml", "<|im_end|>")
    assert chatml.render(Chat([Message("user", "Hi")])) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_the_source_of_a_models_own_template_is_its_file() -> None:
    assert template(LLAMA2).source == "gguf"
    assert template(LLAMA2).stops == []


def test_what_the_template_refuses_is_the_clients_mistake() -> None:
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        template(LLAMA2).render(Chat([Message("assistant", "I begin")]))
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{{ messages.__class__.__mro__ }}",
        "{% include 'chat' %}",
        "{{ undefined_function() }}",
    ],
)
def test_a_hostile_template_fails_its_request(text: str) -> None:
    with pytest.raises((ModelInvalid, AssertionError)):
        rendered = template(text).render(Chat(CONVERSATION))
        # An attribute that does not exist renders as nothing: no Python object is reached.
        assert "class" in rendered


def test_a_template_that_does_not_compile_is_the_models_fault() -> None:
    with pytest.raises(ModelInvalid, match="does not compile"):
        template("{% for %}").render(Chat(CONVERSATION))


@pytest.mark.parametrize(
    "text",
    [
        "{{ messages[0].content.secret.more }}\n" + "x" * 10_000,
        "{{ '' | nothing }}" + "(" * 10_000,
        "{{ raise_exception('no ' * 10_000) }}",
    ],
)
def test_what_is_told_of_a_failure_is_short_and_shows_no_variables(text: str) -> None:
    with pytest.raises((ModelInvalid, RequestError)) as caught:
        template(text).render(Chat([Message("user", "in confidence")]))
    message = caught.value.message
    assert len(message) < 1000 and "\n" not in message and "in confidence" not in message


def test_a_refusal_does_not_stick() -> None:
    llama2 = template(LLAMA2)
    with pytest.raises(RequestError):
        llama2.render(Chat([Message("assistant", "I begin")]))
    assert llama2.render(Chat([Message("user", "Hi")])) == "<s>[INST] Hi [/INST]"


def test_a_panic_of_the_library_is_the_templates_fault() -> None:
    """It is no `Exception`, and would end the thread that reads requests."""
    with pytest.raises(ModelInvalid):
        template("{{ (messages[::-1])[0] }}{{ messages[::-1][0] }}").render(Chat([]))


# From the advisories of those who render templates of models: CVE-2024-34359, CVE-2024-56326, CVE-2025-27516.
ESCAPES = [
    "{{ self.__init__.__globals__.__builtins__.__import__('os').popen('id').read() }}",
    "{% for c in ().__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
    "{{ messages | attr('__class__') }}{{ ('{0.__class__}' | attr('format'))(messages) }}",
    "{{ raise_exception.__globals__['__builtins__'] }}",
    "{{ strftime_now.__self__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_no_template_reaches_python(text: str) -> None:
    try:
        rendered = template(text).render(Chat(CONVERSATION))
    except ModelInvalid:
        return
    assert not re.search("class|module|builtin|root:|uid=", rendered)


@pytest.mark.parametrize(
    "text",
    [
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ " + "(" * 100_000 + ")" * 100_000 + " }}",
        "{% if true %}" * 20_000,
        "{{ 'a' * 100000000000 }}",
        "{{ range(1000000000) | list }}",
        "{{ 2 ** 1000000000 }}",
        "{{ strftime_now('%c' * 1000) }}",
        "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
    ],
)
def test_a_bomb_fails_its_request(text: str) -> None:
    with pytest.raises((ModelInvalid, RequestError)):
        template(text).render(Chat(CONVERSATION))


def test_how_deep_json_is_indented_is_bounded() -> None:
    text = template("{{ messages | tojson(indent=1000000) }}").render(Chat(CONVERSATION))
    assert len(text) < 2000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stops a process for one thread's memory")
@pytest.mark.parametrize(
    "text, end",
    [
        (
            "{% set n = namespace(s='a' * 1000) %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
            "SIGABRT",
        ),
        ("{{ '{:>20000000000}'.format('x') }}", "SIGABRT"),
        (
            "{% set n = namespace(x=[1]) %}{% for i in range(90000) %}{% for j in range(90000) %}"
            "{% set n.x = n.x + [1] %}{% endfor %}{% endfor %}",
            "SIGVTALRM",
        ),
    ],
)
def test_a_bomb_that_no_count_of_steps_stops_ends_its_process(text: str, end: str) -> None:
    code = (
        "import sys; from shimmy.worker.chat import bounds, template; from shimmy.core.request import Chat\n"
        f"bounds.CPU_SECONDS = {0.2 if end == 'SIGVTALRM' else 20}; bounds.allowance = lambda: 64 << 20\n"
        "template.ChatTemplate(sys.argv[1], bos_token='', eos_token='').render(Chat([]))"
    )
    done = subprocess.run([sys.executable, "-c", code, text], stderr=subprocess.DEVNULL, timeout=60)
    assert signal.Signals(-done.returncode).name == end
