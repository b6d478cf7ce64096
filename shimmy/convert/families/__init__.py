"""The families that can be converted, by llama.cpp's names."""

from shimmy.convert.families.bert import BERT
from shimmy.convert.families.gemma import GEMMA2, GEMMA3
from shimmy.convert.families.llama import LLAMA
from shimmy.convert.families.phi3 import PHI3
from shimmy.convert.families.qwen import QWEN2, QWEN3
from shimmy.convert.family import Family

FAMILIES: dict[str, Family] = {
    family.architecture: family for family in (LLAMA, QWEN2, QWEN3, GEMMA2, GEMMA3, PHI3, BERT)
}
