"""Extension modules among the native libraries are imported like any other, but only by the frozen program."""

import importlib.util
import sys
from pathlib import Path

import pytest

from shimmy.worker import extensions
from shimmy.worker.llama import payload

CODE = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "carried", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_carried(void) {
    PyObject *made = PyModule_Create(&module);
    PyModule_AddIntConstant(made, "VALUE", 7);
    return made;
}
"""


class Carried:
    def __init__(self, file: Path) -> None:
        self._file = file

    def find(self, name: str) -> Path:
        if name != self._file.name:
            raise OSError(name)
        return self._file


@pytest.fixture
def library(tmp_path: Path) -> Path:
    import shutil
    import subprocess
    import sysconfig

    if shutil.which("cc") is None or not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        pytest.skip("needs a C compiler and Python's header files")
    (tmp_path / "carried.c").write_text(CODE)
    target = tmp_path / "carried.so"
    include = sysconfig.get_paths()["include"]
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{include}", "-o", target, tmp_path / "carried.c"], check=True)
    return target


def test_a_carried_module_is_imported(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "extensions", lambda: {"carried": "carried.so"})
    monkeypatch.setattr(payload, "carried", lambda: Carried(library))
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    extensions.install()
    monkeypatch.delitem(sys.modules, "carried", raising=False)
    import carried  # type: ignore[import-not-found]

    assert (carried.VALUE, carried.__file__) == (7, str(library))
    assert importlib.util.find_spec("not_carried") is None


def test_a_checkout_needs_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    extensions.install()
    assert extensions.Finder not in sys.meta_path
