"""An Ollama store on the disk, for a test."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any


def put_blob(store: Path, content: bytes) -> str:
    digest = sha256(content).hexdigest()
    path = store / "blobs" / f"sha256-{digest}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(content)
        # Not just now: nobody takes it for a file that is still being written.
        os.utime(path, (1.7e9, 1.7e9))
    return digest


def put_model(store: Path, name: str, model: bytes, **layers: Any) -> None:
    """`name` is `model:tag` of the library; `layers` are bytes or texts by their kind, or what becomes JSON."""
    described = [_layer(store, "model", model)]
    for kind, content in layers.items():
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        described.append(_layer(store, kind, content))
    path = store / "manifests/registry.ollama.ai/library" / name.replace(":", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schemaVersion": 2, "layers": described}))


def _layer(store: Path, kind: str, content: bytes) -> dict[str, Any]:
    digest = f"sha256:{put_blob(store, content)}"
    return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": len(content)}
