"""Tells a model's dialect from its chat template. What is most specific is looked for first."""

import importlib
import re

from shimmy.worker.chat.toolcalls.dialect import Dialect

# All of these strings in the template, and the dialect is this one of this module: a worker imports that of its model.
_SIGNS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|channel|>", "<|message|>", "functions."), "harmony.HARMONY"),
    (("｜DSML｜", "dsml_token + 'tool_calls>"), "deepseek.DEEPSEEK_V4"),
    (("｜DSML｜",), "deepseek.DEEPSEEK_V32"),
    (("<｜tool▁calls▁begin｜>", "```json"), "deepseek.DEEPSEEK_R1"),
    (("<｜tool▁calls▁begin｜>",), "deepseek.DEEPSEEK_V31"),
    (("<|tool_calls_section_begin|>",), "kimi.KIMI_K2"),
    (("<|tool_call:begin|>",), "solar.SOLAR"),
    (("<|tool_call>call:",), "gemma.GEMMA"),
    (("<start_function_call>",), "gemma.FUNCTION_GEMMA"),
    (("<seed:tool_call>",), "qwen_coder.SEED"),
    (("<minimax:tool_call>",), "minimax.MINIMAX_M2"),
    # MiniMax M3 writes each part of an argument as a tag, which is not read here.
    (("]<]minimax[>[",), "hermes.DESCRIBED"),
    (("<arg_key>", "</arg_key>\n<arg_value>"), "glm.GLM"),
    (("<arg_key>", "</arg_key>\\n<arg_value>"), "glm.GLM"),
    (("<arg_key>", "'\\n<arg_value>'"), "glm.GLM"),
    (("<arg_key>",), "glm.GLM_DENSE"),
    (("<function=", "<parameter=", "<tool_call>"), "qwen_coder.QWEN_CODER"),
    (('<function name="', '<param name="'), "minicpm.MINICPM"),
    (("<|START_ACTION|>",), "command_r.COMMAND_R7B"),
    (("Action:", "```json", "tool_name"), "command_r.COMMAND_R"),
    (("<|tools_prefix|>",), "apertus.APERTUS"),
    (("<|function_call|>",), "gigachat.GIGACHAT_31"),
    (("function call", "<|role_sep|>"), "gigachat.GIGACHAT_3"),
    (("[TOOL_CALLS]", "[ARGS]"), "mistral.MISTRAL"),
    (("[TOOL_CALLS]",), "mistral.MISTRAL_LIST"),
    (("<TOOLCALL>",), "lists.NEMOTRON_NANO"),
    (("<|tool_call_start|>",), "pythonic.LFM"),
    (("List of tools: ", "<|im_start|>"), "pythonic.LFM"),
    ((">>>all",), "functionary.FUNCTIONARY_32"),
    (("<function=", "</function>"), "functionary.FUNCTIONARY_31"),
    (("<|/tool_call|>",), "lists.PHI"),
    (("<|tool_call|>",), "granite.GRANITE"),
    (("functools[",), "lists.FUNCTOOLS"),
    (("<tool_calls>[",), "lists.APRIEL"),
    (("<tool_calls>\n",), "minimax.MINIMAX_M1"),
    (("<tool_calls>\\n",), "minimax.MINIMAX_M1"),
    (("<tool_call>",), "hermes.HERMES"),
    (("[func_name1(",), "pythonic.PYTHONIC"),
    (('"parameters": dictionary of argument name',), "llama.LLAMA"),
    (("<|python_tag|>",), "llama.LLAMA"),
)
_DESCRIBED = "hermes.DESCRIBED"
# Hunyuan 3 puts its tags together from a part of this form.
_HUNYUAN = re.compile(r"HYTK\s*=\s*'([^']{0,40})'")


def recognise(template: str | None) -> Dialect:
    """The dialect of the model with this chat template. For a template that has no tools, for one whose way to write
    calls is not known, and for None, it is one that has instructions for the model."""
    if template is None:
        return _imported(_DESCRIBED)
    if found := _HUNYUAN.search(template):
        return _hunyuan(found[1])
    return _imported(next((name for signs, name in _SIGNS if all(sign in template for sign in signs)), _DESCRIBED))


def _imported(name: str) -> Dialect:
    module, _, attribute = name.partition(".")
    found: Dialect = getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
    return found


def _hunyuan(suffix: str) -> Dialect:
    from shimmy.worker.chat.toolcalls.glm import hunyuan

    return hunyuan(suffix)
