"""Tells a model's dialect from its chat template. What is most specific is looked for first."""

import re

from shimmy.worker.chat.toolcalls.apertus import APERTUS
from shimmy.worker.chat.toolcalls.command_r import COMMAND_R, COMMAND_R7B
from shimmy.worker.chat.toolcalls.deepseek import DEEPSEEK_R1, DEEPSEEK_V4, DEEPSEEK_V31, DEEPSEEK_V32
from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.functionary import FUNCTIONARY_31, FUNCTIONARY_32
from shimmy.worker.chat.toolcalls.gemma import FUNCTION_GEMMA, GEMMA
from shimmy.worker.chat.toolcalls.gigachat import GIGACHAT_3, GIGACHAT_31
from shimmy.worker.chat.toolcalls.glm import GLM, GLM_DENSE, hunyuan
from shimmy.worker.chat.toolcalls.granite import GRANITE
from shimmy.worker.chat.toolcalls.harmony import HARMONY
from shimmy.worker.chat.toolcalls.hermes import DESCRIBED, HERMES
from shimmy.worker.chat.toolcalls.kimi import KIMI_K2
from shimmy.worker.chat.toolcalls.lists import APRIEL, FUNCTOOLS, NEMOTRON_NANO, PHI
from shimmy.worker.chat.toolcalls.llama import LLAMA
from shimmy.worker.chat.toolcalls.minicpm import MINICPM
from shimmy.worker.chat.toolcalls.minimax import MINIMAX_M1, MINIMAX_M2
from shimmy.worker.chat.toolcalls.mistral import MISTRAL, MISTRAL_LIST
from shimmy.worker.chat.toolcalls.pythonic import LFM, PYTHONIC
from shimmy.worker.chat.toolcalls.qwen_coder import QWEN_CODER, SEED
from shimmy.worker.chat.toolcalls.solar import SOLAR

# All of these strings in the template, and the dialect is this.
_SIGNS: tuple[tuple[tuple[str, ...], Dialect], ...] = (
    (("<|channel|>", "<|message|>", "functions."), HARMONY),
    (("｜DSML｜", "dsml_token + 'tool_calls>"), DEEPSEEK_V4),
    (("｜DSML｜",), DEEPSEEK_V32),
    (("<｜tool▁calls▁begin｜>", "```json"), DEEPSEEK_R1),
    (("<｜tool▁calls▁begin｜>",), DEEPSEEK_V31),
    (("<|tool_calls_section_begin|>",), KIMI_K2),
    (("<|tool_call:begin|>",), SOLAR),
    (("<|tool_call>call:",), GEMMA),
    (("<start_function_call>",), FUNCTION_GEMMA),
    (("<seed:tool_call>",), SEED),
    (("<minimax:tool_call>",), MINIMAX_M2),
    # MiniMax M3 writes each part of an argument as a tag, which is not read here.
    (("]<]minimax[>[",), DESCRIBED),
    (("<arg_key>", "</arg_key>\n<arg_value>"), GLM),
    (("<arg_key>", "</arg_key>\\n<arg_value>"), GLM),
    (("<arg_key>", "'\\n<arg_value>'"), GLM),
    (("<arg_key>",), GLM_DENSE),
    (("<function=", "<parameter=", "<tool_call>"), QWEN_CODER),
    (('<function name="', '<param name="'), MINICPM),
    (("<|START_ACTION|>",), COMMAND_R7B),
    (("Action:", "```json", "tool_name"), COMMAND_R),
    (("<|tools_prefix|>",), APERTUS),
    (("<|function_call|>",), GIGACHAT_31),
    (("function call", "<|role_sep|>"), GIGACHAT_3),
    (("[TOOL_CALLS]", "[ARGS]"), MISTRAL),
    (("[TOOL_CALLS]",), MISTRAL_LIST),
    (("<TOOLCALL>",), NEMOTRON_NANO),
    (("<|tool_call_start|>",), LFM),
    (("List of tools: ", "<|im_start|>"), LFM),
    ((">>>all",), FUNCTIONARY_32),
    (("<function=", "</function>"), FUNCTIONARY_31),
    (("<|/tool_call|>",), PHI),
    (("<|tool_call|>",), GRANITE),
    (("functools[",), FUNCTOOLS),
    (("<tool_calls>[",), APRIEL),
    (("<tool_calls>\n",), MINIMAX_M1),
    (("<tool_calls>\\n",), MINIMAX_M1),
    (("<tool_call>",), HERMES),
    (("[func_name1(",), PYTHONIC),
    (('"parameters": dictionary of argument name',), LLAMA),
    (("<|python_tag|>",), LLAMA),
)
# Hunyuan 3 puts its tags together from a part of this form.
_HUNYUAN = re.compile(r"HYTK\s*=\s*'([^']{0,40})'")


def recognise(template: str | None) -> Dialect:
    """The dialect of the model with this chat template. For a template that has no tools, for one whose way to write
    calls is not known, and for None, it is one that has instructions for the model."""
    if template is None:
        return DESCRIBED
    if found := _HUNYUAN.search(template):
        return hunyuan(found[1])
    return next((dialect for signs, dialect in _SIGNS if all(sign in template for sign in signs)), DESCRIBED)


def every_dialect() -> list[Dialect]:
    """Each one once."""
    return list({dialect.name: dialect for _, dialect in _SIGNS}.values()) + [hunyuan(":opensource")]
