"""The parts of the executable that others made, as CycloneDX 1.6: what, which version, which licence.

Python packages are read from the metadata of the environment that was frozen; the rest is listed here.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
import ssl
import sys
import uuid
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from build import native
from build.contents import NO_PACKAGES, SHARED, Contents
from shimmy import __version__

# CHANGELOG.md of llama-cpp-python says which commit of llama.cpp a version of it carries.
_LLAMA_CPP_COMMITS = {"0.3.36": "0c1e57098"}

_MICROSOFT = ("microsoft-visual-cpp-runtime", "LicenseRef-Microsoft-Visual-Cpp-Runtime", None)
# The beginning of a file's name: project, licence, version where it can be asked for.
_LIBRARIES = {
    "libcrypto": ("openssl", "Apache-2.0", ssl.OPENSSL_VERSION.split()[1]),
    "libssl": ("openssl", "Apache-2.0", ssl.OPENSSL_VERSION.split()[1]),
    "libz": ("zlib", "Zlib", zlib.ZLIB_RUNTIME_VERSION),
    "libdeflate": ("libdeflate", "MIT", None),
    "libffi": ("libffi", "MIT", None),
    "liblzma": ("xz", "LicenseRef-Public-Domain", None),
    "libuuid": ("util-linux", "BSD-3-Clause", None),
    "libgcc_s": ("gcc", "GPL-3.0-or-later WITH GCC-exception-3.1", None),
    "vcruntime140": _MICROSOFT,
    "vcruntime140_1": _MICROSOFT,
    "msvcp140": _MICROSOFT,
}
# What a package has compiled into it: project, version where it can be asked for, licence.
_WITHIN = {"pynacl": ("libsodium", None, "ISC")}
# Where a package's metadata has only the old spelling (core metadata, "Classifier").
_CLASSIFIERS = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
}


def text(contents: Contents, source_date_epoch: str) -> str:
    """JSON, the same for the same executable."""
    content = contents.executable.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    made_at = datetime.fromtimestamp(int(source_date_epoch), UTC)
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": made_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": _component("shimmy", __version__, "MIT", "application")
            | {"hashes": [{"alg": "SHA-256", "content": digest}]},
        },
        "components": components(contents),
    }
    return json.dumps(document, indent=1) + "\n"


def components(contents: Contents) -> list[dict[str, Any]]:
    shared = [item.name for item in contents.items if item.group == SHARED]
    return [*_runtime(), *_packages(contents), *_shared_libraries(shared, contents.carried_files)]


def _runtime() -> list[dict[str, Any]]:
    commit = _LLAMA_CPP_COMMITS[native.SOURCE.version]
    llama = _component("llama.cpp", commit, "MIT") | {
        "purl": f"pkg:github/ggml-org/llama.cpp@{commit}",
        "description": f"from {native.SOURCE.file_name}, sha256 {native.SOURCE.sha256}",
    }
    bootloader = _component(
        "pyinstaller-bootloader",
        importlib.metadata.version("pyinstaller"),
        "GPL-2.0-or-later WITH Bootloader-exception",
    )
    return [_component("cpython", platform.python_version(), "PSF-2.0", "platform"), bootloader, llama]


def _packages(contents: Contents) -> list[dict[str, Any]]:
    tops = {item.group for item in contents.items} - NO_PACKAGES - {"shimmy"}
    tops |= {name.split(".")[0] for name in contents.carried_modules} - sys.stdlib_module_names
    known = importlib.metadata.packages_distributions()
    if missing := tops - set(known):
        sys.exit(f"shimmy build: no installed package is known for {', '.join(sorted(missing))}")
    projects = sorted({project for top in tops for project in known[top]}, key=str.lower)
    found = [_package(importlib.metadata.distribution(project)) for project in projects]
    return [*found, *(_component(*_WITHIN[package["name"]]) for package in found if package["name"] in _WITHIN)]


def _package(found: importlib.metadata.Distribution) -> dict[str, Any]:
    name = found.name.lower().replace("_", "-")
    return _component(name, found.version, _licence(found)) | {"purl": f"pkg:pypi/{name}@{found.version}"}


def _licence(found: importlib.metadata.Distribution) -> str:
    """An SPDX expression. Exits when the metadata has none that is known: nothing unnamed goes into a release."""
    if "License-Expression" in found.metadata:
        return found.metadata["License-Expression"]
    for classifier in found.metadata.get_all("Classifier") or []:
        if classifier in _CLASSIFIERS:
            return _CLASSIFIERS[classifier]
    sys.exit(f"shimmy build: the licence of {found.name} is not in its metadata in a form that build/sbom.py knows")


def _shared_libraries(names: Iterable[str], carried: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Whose they are; of those that are `carried` with llama.cpp's, only what is not llama.cpp's."""
    found = {}
    # libffi.so.8, libffi-8.dll, VCRUNTIME140.dll
    stems = {name: re.split("[-.]", name.lower())[0] for name in names}
    for name, stem in stems.items():
        if stem not in _LIBRARIES:
            sys.exit(f"shimmy build: build/sbom.py does not know whose library {name} is")
    for stem in [*stems.values(), *(re.split("[-.]", name)[0] for name in carried)]:
        if stem in _LIBRARIES:
            project, licence, version = _LIBRARIES[stem]
            found[project] = _component(project, version, licence)
    return [found[project] for project in sorted(found)]


def _component(name: str, version: str | None, licence: str, kind: str = "library") -> dict[str, Any]:
    component: dict[str, Any] = {"type": kind, "name": name, "licenses": [{"expression": licence}]}
    return component | ({"version": version} if version else {})
