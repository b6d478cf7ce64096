"""Chat templates render as Hugging Face renders them (jinja2), and hostile ones cost one request at most."""

import jinja2
import jinja2.sandbox
import pytest

from shimmy.core.errors import ModelInvalid, RequestError
from shimmy.core.request import Message
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
    return environment.from_string(text).render(messages=messages, add_generation_prompt=True)


def template(text: str | None) -> ChatTemplate:
    return ChatTemplate(text, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("text", [CHATML, LLAMA2, NAMESPACES], ids=["chatml", "llama2", "namespaces"])
def test_renders_like_jinja2(text: str) -> None:
    assert template(text).render(CONVERSATION) == by_jinja2(text)


def test_a_model_without_a_template_gets_chatml_and_its_stops() -> None:
    chatml = template(None)
    assert (chatml.source, chatml.stops[0]) == ("chatml", "<|im_end|>")
    assert chatml.render([Message("user", "Hi")]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_the_source_of_a_models_own_template_is_its_file() -> None:
    assert template(LLAMA2).source == "gguf"
    assert template(LLAMA2).stops == []


def test_what_the_template_refuses_is_the_clients_mistake() -> None:
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        template(LLAMA2).render([Message("assistant", "I begin")])
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
        rendered = template(text).render(CONVERSATION)
        # An attribute that does not exist renders as nothing: no Python object is reached.
        assert "class" in rendered


def test_a_template_that_does_not_compile_is_the_models_fault() -> None:
    with pytest.raises(ModelInvalid, match="does not compile"):
        template("{% for %}").render(CONVERSATION)


def test_a_refusal_does_not_stick() -> None:
    llama2 = template(LLAMA2)
    with pytest.raises(RequestError):
        llama2.render([Message("assistant", "I begin")])
    assert llama2.render([Message("user", "Hi")]) == "<s>[INST] Hi [/INST]"
