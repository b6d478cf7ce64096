"""What llama.cpp's own converter makes of the checkpoints of checkpoints.py, as tests/golden/convert/*.json.

`python -m tests.convert.reference PYTHON LLAMA_CPP [FAMILY ...]` writes them anew. PYTHON is an interpreter that has
torch, transformers and sentencepiece, which nothing here needs otherwise; LLAMA_CPP is a folder with its
convert_hf_to_gguf.py, as the source distribution of llama-cpp-python has it in vendor/llama.cpp.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.convert.checkpoints import FAMILIES, write_checkpoint
from tests.fakes.gguf_reader import ReadFile, ReadTensor, read

GOLDEN = Path(__file__).parents[1] / "golden" / "convert"
TYPES = ("BF16", "F16", "F32")
# The converter knows a rule by what it makes of a text with all tokens of a real vocabulary; ours are no real ones.
RULES = {"llama": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2", "bert": "jina-v2-en"}
_RUN = """
import runpy, sys
rule, sys.argv = sys.argv[1], sys.argv[2:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
import conversion.base
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: rule
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def digest(file: ReadFile) -> dict[str, Any]:
    """A file as the golden ones have it: long texts, arrays and tensors by what they hash to."""
    return {
        "metadata": {key: _short(value) for key, value in sorted(file.metadata.items())},
        "tensors": {name: _tensor(tensor) for name, tensor in sorted(file.tensors.items())},
    }


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return f"{len(value)} elements, {_hash(json.dumps(value).encode())}"
    # 32 bits in the file.
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _tensor(tensor: ReadTensor) -> list[Any]:
    # Computed, in one order of operations or another.
    data = [float(f"{value:.5g}") for value in tensor.floats()] if len(tensor.data) <= 64 else _hash(tensor.data)
    return [tensor.type, list(tensor.shape), data]


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def _converted(python: str, converter: Path, family: str, kind: str, folder: Path) -> ReadFile:
    checkpoint = write_checkpoint(folder / kind, family, kind)
    target = folder / f"{family}-{kind}.gguf"
    arguments = [str(converter), str(checkpoint), "--outfile", str(target), "--outtype", kind.lower()]
    subprocess.run([python, "-c", _RUN, RULES.get(family, "default"), *arguments], check=True, timeout=600)
    return read(target)


def main() -> None:
    python, llama_cpp, *families = sys.argv[1:]
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for family in families or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            converter = Path(llama_cpp) / "convert_hf_to_gguf.py"
            made = {kind: digest(_converted(python, converter, family, kind, Path(folder))) for kind in TYPES}
        (GOLDEN / f"{family}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
