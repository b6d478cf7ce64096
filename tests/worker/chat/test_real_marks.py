"""Which marks of thoughts the models have whose templates llama.cpp carries, and what their prompts do about them."""

import pytest

from shimmy.core.request import Chat, Message, Reasoning
from shimmy.worker.chat.reasoning import is_open, recognise
from shimmy.worker.chat.template import ChatTemplate
from tests.worker.chat.templates import text_of

pytestmark = pytest.mark.model

OPEN, UNSAID = True, False
# Whether the prompt has begun the thoughts, and whether it has when thinking is switched off.
EXPECTED = {
    "Qwen-Qwen3-0.6B": ("<think>", UNSAID, UNSAID),
    "Qwen3.5-4B": ("<think>", OPEN, UNSAID),
    "GLM-4.6": ("<think>", UNSAID, UNSAID),
    "GLM-4.7-Flash": ("<think>", OPEN, UNSAID),
    "MiniMax-M2": ("<think>", OPEN, OPEN),
    "MiniMax-M3": ("<mm:think>", UNSAID, UNSAID),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("<think>", OPEN, OPEN),
    "deepseek-ai-DeepSeek-V3.1": ("<think>", UNSAID, UNSAID),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("<think>", OPEN, UNSAID),
    "HuggingFaceTB-SmolLM3-3B": ("<think>", UNSAID, UNSAID),
    "ByteDance-Seed-OSS": ("<seed:think>", UNSAID, UNSAID),
    "Cohere2MoE": ("<|START_THINKING|>", OPEN, OPEN),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("[THINK]", UNSAID, UNSAID),
    "Apertus-8B-Instruct": ("<|inner_prefix|>", UNSAID, UNSAID),
    "Apriel-1.6-15b-Thinker-fixed": ("Here are my reasoning steps:", OPEN, OPEN),
    "google-gemma-4-31B-it": ("<|channel>thought", UNSAID, UNSAID),
    "tencent-Hy3": ("<think:opensource>", UNSAID, UNSAID),
}
NONE = [
    "meta-llama-Llama-3.3-70B-Instruct",
    "Qwen-Qwen2.5-7B-Instruct",
    "google-gemma-2-2b-it",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "ibm-granite-granite-4.0",
    "microsoft-Phi-3.5-mini-instruct",
]


@pytest.mark.parametrize("name", EXPECTED)
def test_marks_and_what_the_prompt_does_about_them(name: str) -> None:
    template = ChatTemplate(text_of(name), bos_token="<s>", eos_token="</s>")
    marks = recognise(text_of(name))
    assert marks is not None
    found = []
    for enabled in (None, False):
        chat = Chat([Message("user", "hi")], reasoning=Reasoning(enabled=enabled))
        found.append(is_open(marks, template.render(chat), chat))
    assert (marks.begin, *found) == EXPECTED[name]


@pytest.mark.parametrize("name", NONE)
def test_models_that_do_not_think(name: str) -> None:
    assert recognise(text_of(name)) is None
