"""Batches are computed by threads that stay."""

import os
from pathlib import Path

import pytest

from shimmy.core.startup import EngineOptions
from shimmy.worker.encoder import EncoderEngine
from shimmy.worker.llama import threadpool
from shimmy.worker.loading import load
from tests.models import minilm
from tests.worker.test_vectors import vectors

TASKS = Path("/proc/self/task")


@pytest.mark.model
@pytest.mark.skipif(not TASKS.exists(), reason="only Linux shows the threads of a process")
def test_threads_are_made_once() -> None:
    threadpool._pool.cache_clear()  # those that other tests have made
    before = set(os.listdir(TASKS))
    engines = [load([str(minilm.path())], EngineOptions(num_threads=3), lambda fraction: None) for _ in range(2)]
    made = set(os.listdir(TASKS)) - before
    assert len(made) == 2, "the thread that asks is the third"
    for engine in engines:
        assert isinstance(engine, EncoderEngine)
        assert vectors(engine, ["one"]) == vectors(engine, ["one"])
    assert set(os.listdir(TASKS)) - before == made
