"""The demo model, and one that makes vectors, loaded once per test process."""

from pathlib import Path

import pytest

from shimmy.core.ipc import EngineOptions
from shimmy.worker.encoder import EncoderEngine
from shimmy.worker.engine import Engine
from shimmy.worker.loading import load, load_engine
from tests.models import minilm

DEMO = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def engine() -> Engine:
    return load_engine([str(DEMO)], EngineOptions(context_length=2048, num_sequences=8), lambda fraction: None)


@pytest.fixture(scope="session")
def small_engine() -> Engine:
    """A context that a few sequences fill."""
    return load_engine([str(DEMO)], EngineOptions(context_length=256, num_sequences=4), lambda fraction: None)


@pytest.fixture(scope="session")
def encoder() -> EncoderEngine:
    engine = load([str(minilm.path())], EngineOptions(), lambda fraction: None)
    assert isinstance(engine, EncoderEngine)
    return engine
