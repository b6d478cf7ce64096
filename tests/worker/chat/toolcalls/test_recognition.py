"""Which dialect each of the real templates has. Those that llama.cpp carries are all in the table."""

import subprocess
import sys

import pytest

from shimmy.worker.chat.toolcalls import recognise
from tests.worker.chat.templates import NAMES, text_of
from tests.worker.chat.toolcalls.dialects import every_dialect

DIALECTS = {
    "Apertus-8B-Instruct": "apertus",
    "Apriel-1.6-15b-Thinker-fixed": "apriel",
    "Bielik-11B-v3.0-Instruct": "hermes",
    "ByteDance-Seed-OSS": "seed",
    "Cohere2MoE": "command-r7b",
    "CohereForAI-c4ai-command-r-plus-tool_use": "command-r",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command-r7b",
    "GLM-4.6": "glm",
    "GLM-4.7-Flash": "glm-dense",
    "GigaChat3-10B-A1.8B": "gigachat-3",
    "GigaChat3.1-10B-A1.8B": "gigachat-3.1",
    "HuggingFaceTB-SmolLM3-3B": "described",
    "Kimi-K2-Instruct": "kimi-k2",
    "Kimi-K2-Thinking": "kimi-k2",
    "Kimi-K3": "described",
    "LFM2-8B-A1B": "lfm",
    "LFM2.5-8B-A1B": "lfm",
    "LFM2.5-Instruct": "lfm",
    "MiMo-VL": "hermes",
    "MiniMax-M1": "minimax-m1",
    "MiniMax-M2": "minimax-m2",
    "MiniMax-M3": "described",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "qwen-coder",
    "NVIDIA-Nemotron-Nano-v2": "nemotron-nano",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes",
    "Qwen-QwQ-32B": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen3-Coder": "qwen-coder",
    "Qwen3.5-4B": "qwen-coder",
    "Reka-Edge": "hermes",
    "Spark2.5": "glm-dense",
    "StepFun3.5-Flash": "qwen-coder",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek-r1",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek-r1",
    "deepseek-ai-DeepSeek-V3.1": "deepseek-v3.1",
    "deepseek-ai-DeepSeek-V3.2": "deepseek-v3.2",
    "deepseek-ai-DeepSeek-V4": "deepseek-v4",
    "deepseek-ai-DeepSeek-V4-Flash-0731": "deepseek-v4",
    "fireworks-ai-llama-3-firefunction-v2": "functools",
    "google-gemma-2-2b-it": "described",
    "google-gemma-4-31B-it": "gemma",
    "google-gemma-4-31B-it-interleaved": "gemma",
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "ibm-granite-granite-4.0": "hermes",
    "ibm-granite-granite-4.1": "hermes",
    "inclusionai-ling-3.0-flash": "glm",
    "llama-cpp-deepseek-r1": "deepseek-r1",
    "llama-cpp-rwkv-world": "described",
    "meetkai-functionary-medium-v3.1": "functionary-v3.1",
    "meetkai-functionary-medium-v3.2": "functionary-v3.2",
    "meta-llama-Llama-3.1-8B-Instruct": "llama",
    "meta-llama-Llama-3.2-3B-Instruct": "llama",
    "meta-llama-Llama-3.3-70B-Instruct": "llama",
    "microsoft-Phi-3.5-mini-instruct": "described",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral-list",
    "moonshotai-Kimi-K2": "kimi-k2",
    "muse-glimmer": "described",
    "openai-gpt-oss-120b": "harmony",
    "openbmb-MiniCPM5-1B": "minicpm",
    "poolside-Laguna-S-2.1": "glm-dense",
    "poolside-Laguna-XS-2.1": "glm",
    "poolside-Laguna-XS.2": "glm",
    "tencent-Hy3": "hunyuan",
    "unsloth-Apriel-1.5": "apriel",
    "unsloth-mistral-Devstral-Small-2507": "mistral",
    "upstage-Solar-Open-100B": "solar",
}


@pytest.mark.model
def test_every_template_is_in_the_table() -> None:
    assert set(NAMES) == set(DIALECTS)


@pytest.mark.model
@pytest.mark.parametrize("name", DIALECTS)
def test_a_template_tells_its_dialect(name: str) -> None:
    assert recognise(text_of(name)).name == DIALECTS[name]


@pytest.mark.parametrize("template", [None, "", "{{ messages[0].content }}", "{{ tools }}"])
def test_a_template_without_a_known_way_to_call_has_instructions(template: str | None) -> None:
    assert recognise(template).name == "described"


def test_only_the_described_dialect_has_instructions() -> None:
    assert [dialect.name for dialect in every_dialect() if dialect.instructions([])] == ["described"]


def test_hunyuan_has_the_suffix_of_its_template() -> None:
    assert recognise("{%- set HYTK = ':x' %}").begins == ("<tool_calls:x>",)


@pytest.mark.parametrize(
    ("sign", "name"),
    [
        ("<|tool_call|>[...]<|/tool_call|>", "phi"),
        ("<start_function_call>call:", "function-gemma"),
        ("[func_name1(params_name1=params_value1)]", "pythonic"),
    ],
)
def test_dialects_of_other_templates(sign: str, name: str) -> None:
    assert recognise("{{ messages }} " + sign).name == name


def test_a_worker_imports_the_dialect_of_its_model_alone() -> None:
    code = """
import sys
from shimmy.worker.chat.toolcalls import recognise
print(recognise("<tool_call>").name, *(name for name in sys.modules if ".toolcalls." in name))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    name, *modules = done.stdout.split()
    imported = {module.rpartition(".")[2] for module in modules}
    assert name == "hermes" and "hermes" in imported
    assert not imported & {"gemma", "harmony", "llama", "mistral", "qwen_coder", "tagged", "python_calls"}
