"""One question, one worker: what it says before its answer, how it fails, and what it leaves."""

from pathlib import Path

import pytest

from shimmy.core import ipc
from shimmy.core.errors import ModelFailed, ShimmyError
from shimmy.pool.quantize import quantize
from tests.fakes.gguf_writer import model
from tests.fakes.pool import fake_spawn, run
from tests.pool.test_devices import python


def job(folder: Path, order: str = "ready") -> ipc.Quantize:
    source = model(fake__load=order).write(folder / "in.gguf")
    return ipc.Quantize(str(source), str(folder / "out.gguf"), str(folder / ".partial"), file_type=2)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_progress_then_the_answer(tmp_path: Path) -> None:
    told: list[ipc.QuantizeProgress] = []
    assert run(quantize(job(tmp_path), told.append, fake_spawn)) == ipc.Quantized(4, 1, 9)
    assert told == [ipc.QuantizeProgress(1, 4)]
    assert names(tmp_path) == {"in.gguf", "out.gguf"}


@pytest.mark.parametrize(
    ("order", "error", "message"),
    [
        ("crash SIGABRT", ShimmyError, r"did not write the whole file \(SIGABRT\)"),
        ("fail model_failed no such tensor", ModelFailed, "^no such tensor$"),
    ],
)
def test_a_failure_leaves_nothing(order: str, error: type[ShimmyError], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        run(quantize(job(tmp_path, order), lambda progress: None, fake_spawn))
    assert names(tmp_path) == {"in.gguf"}


def test_who_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C: the worker ends before its file is removed."""
    import asyncio

    async def cancelled() -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(quantize(job(tmp_path, "hold"), lambda progress: begun.set(), fake_spawn))
        await begun.wait()
        assert names(tmp_path) == {"in.gguf", ".partial"}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled())
    assert names(tmp_path) == {"in.gguf"}


@pytest.mark.parametrize("message", [ipc.LoadProgress(0.5), ipc.Opening("/x.so")])
def test_a_message_out_of_place_ends_the_worker(message: ipc.FromWorker, tmp_path: Path) -> None:
    code = f"import os; os.write(1, {ipc.encode(message)!r}); input()"
    with pytest.raises(ShimmyError, match="broke the frame protocol"):
        run(quantize(job(tmp_path), lambda progress: None, python(code)))
