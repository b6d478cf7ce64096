"""`serve`: what flags and environment make of the settings, and a real start and end."""

import base64
import json
import math
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import click
import pytest

from shimmy.cli.options import disk_size
from shimmy.core.engine_settings import EngineSettings
from shimmy.core.keys import ApiKey
from shimmy.core.request import Secret
from shimmy.core.settings import Settings
from tests import program
from tests.cli.conftest import Invoke
from tests.program import inside

pytestmark = pytest.mark.program


@inside("the settings")
def test_without_flags_the_defaults_hold(invoke: Invoke, served: list[Settings]) -> None:
    assert invoke("serve").exit_code == 7
    assert served == [Settings()]


@inside("the settings")
def test_every_flag_arrives(invoke: Invoke, served: list[Settings], machine: Path) -> None:
    for name in ("m.gguf", "a.gguf", "b.gguf"):
        (machine / name).touch()
    (machine / "key").write_bytes(b"k" * 32)
    flags = """--bind [::1]:8080 --model-path m.gguf --model-dirs .;.. --model-dirs / --ctx 4096 --parallel 2
        --threads 3 --prefix-ram 64 --kv-cache 1.5G --kv-cache-key-file key
        --gpu-layers 20 --device CUDA0 --device Vulkan1 --gpu-backend vulkan --split-mode layer --tensor-split 3,1.5
        --n-cpu-moe 4 --cache-type-k q8_0 --cache-type-v q4_0 --flash-attn on --lora a.gguf --lora b.gguf=0.5
        --model-draft small --spec-type ngram --preload a --preload b
        --pin c --memory-budget 1.5G --keep-alive 1h30m
        --ready-file r.json --log-format json --api-key one --api-key two
        --insecure-no-auth --api-keys-file keys --cors-origin https://a --cors-origin *
        --tls-cert cert.pem --tls-key key.pem --max-connections 9 --allow-pull
        --queue-seconds 2.5 --drain-seconds 1.5"""
    assert invoke("serve", *flags.split()).exit_code == 7
    assert served == [
        Settings(
            bind="[::1]:8080",
            model_path="m.gguf",
            model_dirs=(".", "..", "/"),
            context_length=4096,
            num_sequences=2,
            num_threads=3,
            prefix_ram_bytes=64 << 20,
            kv_cache_bytes=3 << 29,
            kv_cache_key=Secret(b"k" * 32),
            engine=EngineSettings(
                lora=("a.gguf", "b.gguf=0.5"),
                gpu_layers=20,
                device=("CUDA0", "Vulkan1"),
                gpu_backend="vulkan",
                split_mode="layer",
                tensor_split=(3.0, 1.5),
                n_cpu_moe=4,
                cache_type_k="q8_0",
                cache_type_v="q4_0",
                flash_attn="on",
            ),
            draft_model="small",
            speculative="ngram",
            preload=("a", "b"),
            pinned=("c",),
            memory_budget_bytes=3 << 29,
            keep_alive_seconds=5400.0,
            ready_file="r.json",
            log_format="json",
            api_keys=(ApiKey.of("one"), ApiKey.of("two")),
            insecure_no_auth=True,
            api_keys_file="keys",
            cors_origins=("https://a", "*"),
            tls_cert="cert.pem",
            tls_key="key.pem",
            max_connections=9,
            allow_pull=True,
            queue_seconds=2.5,
            drain_seconds=1.5,
        )
    ]


VARIABLES = {
    "SHIMMY_BIND": "auto",
    "SHIMMY_CTX": "64",
    "SHIMMY_PARALLEL": "1",
    "SHIMMY_THREADS": "2",
    "SHIMMY_PREFIX_RAM": "0",
    "SHIMMY_KV_CACHE": "512MiB",
    "SHIMMY_KV_CACHE_KEY_FILE": "key",
    "SHIMMY_GPU_LAYERS": "all",
    "SHIMMY_DEVICE": "CUDA0 CUDA1",
    "SHIMMY_GPU_BACKEND": "cuda",
    "SHIMMY_SPLIT_MODE": "none",
    "SHIMMY_MAIN_GPU": "1",
    "SHIMMY_CPU_MOE": "1",
    "SHIMMY_CACHE_TYPE_K": "f32",
    "SHIMMY_CACHE_TYPE_V": "bf16",
    "SHIMMY_FLASH_ATTN": "off",
    "SHIMMY_LORA_GGUF": "a b.gguf",
    "SHIMMY_PRELOAD": "a b",
    "SHIMMY_PIN": "c d",
    "SHIMMY_MEMORY_BUDGET": "512M",
    "SHIMMY_KEEP_ALIVE": "-1",
    "SHIMMY_READY_FILE": "r",
    "SHIMMY_ALLOW_PULL": "1",
    "SHIMMY_LOG_FORMAT": "json",
    "SHIMMY_API_KEY": "one two",
    "SHIMMY_QUEUE_SECONDS": "0",
    "SHIMMY_DRAIN_SECONDS": "0",
}


ENGINE = EngineSettings(
    lora=("a b.gguf",),
    gpu_layers="all",
    device=("CUDA0", "CUDA1"),
    gpu_backend="cuda",
    split_mode="none",
    main_gpu=1,
    cpu_moe=True,
    cache_type_k="f32",
    cache_type_v="bf16",
    flash_attn="off",
)


@inside("the settings")
def test_variables_stand_in_for_flags(invoke: Invoke, served: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("key").write_bytes(base64.b64encode(b"k" * 32) + b"\n")
    Path("a b.gguf").touch()
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    invoke("serve")
    invoke("serve", "--bind", "127.0.0.1:0", "--ctx", "128", "--api-key", "three", "--log-format", "text")
    assert served == [
        Settings(
            bind="auto",
            context_length=64,
            num_sequences=1,
            num_threads=2,
            prefix_ram_bytes=0,
            kv_cache_bytes=512 << 20,
            kv_cache_key=Secret(b"k" * 32),
            engine=ENGINE,
            preload=("a", "b"),
            pinned=("c", "d"),
            memory_budget_bytes=512 << 20,
            keep_alive_seconds=math.inf,
            allow_pull=True,
            ready_file="r",
            log_format="json",
            api_keys=(ApiKey.of("one"), ApiKey.of("two")),
            queue_seconds=0.0,
            drain_seconds=0.0,
        ),
        Settings(
            bind="127.0.0.1:0",
            context_length=128,
            num_sequences=1,
            num_threads=2,
            prefix_ram_bytes=0,
            kv_cache_bytes=512 << 20,
            kv_cache_key=Secret(b"k" * 32),
            engine=ENGINE,
            preload=("a", "b"),
            pinned=("c", "d"),
            memory_budget_bytes=512 << 20,
            keep_alive_seconds=math.inf,
            allow_pull=True,
            ready_file="r",
            log_format="text",
            api_keys=(ApiKey.of("three"),),
            queue_seconds=0.0,
            drain_seconds=0.0,
        ),
    ]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--bind", "localhost"),
        ("--bind", "127.0.0.1:65536"),
        ("--bind", "::1:80"),
        ("--bind", ":80"),
        ("--bind", ""),
        ("--ctx", "0"),
        ("--ctx", "many"),
        ("--parallel", "0"),
        ("--parallel", "257"),
        ("--threads", "-1"),
        ("--prefix-ram", "-1"),
        ("--prefix-ram", "1.5"),
        ("--prefix-ram", "1GB"),
        ("--kv-cache", "-1"),
        ("--kv-cache", "much"),
        ("--kv-cache", "1X"),
        ("--kv-cache", ""),
        ("--memory-budget", "all"),
        ("--keep-alive", "soon"),
        ("--keep-alive", ""),
        ("--kv-cache-key-file", "absent"),
        ("--kv-cache-key-file", "."),
        ("--kv-cache-key-file", "/dev/zero"),
        ("--gpu-layers", "-1"),
        ("--gpu-backend", "webgpu"),
        ("--split-mode", "tensor"),
        ("--tensor-split", "1,two"),
        ("--tensor-split", "1,-1"),
        ("--tensor-split", ",".join("1" * 17)),
        ("--main-gpu", "-1"),
        ("--main-gpu", "first"),
        ("--n-cpu-moe", "-1"),
        ("--n-cpu-moe", "all"),
        ("--cache-type-k", "q3_k"),
        ("--cache-type-v", ""),
        ("--flash-attn", "yes"),
        ("--log-format", "xml"),
        ("--api-key", ""),
        ("--api-key", "two words"),
        ("--api-key", "schlüssel"),
        ("--cors-origin", "chat.example"),
        ("--cors-origin", "https://chat.example/page"),
        ("--max-connections", "0"),
        ("--bind", "unix:"),
        ("--drain-seconds", "nan"),
        ("--drain-seconds", "-1"),
        ("--drain-seconds", "inf"),
        ("--drain-seconds", "soon"),
        ("--model-path", "absent.gguf"),
        ("--model-dirs", "absent"),
        ("--ready-file", "."),
    ],
)
def test_nonsense_is_a_usage_error_that_names_the_flag(
    flag: str, value: str, invoke: Invoke, served: list[Settings]
) -> None:
    result = invoke("serve", flag, value)
    assert (result.exit_code, result.stdout, served) == (2, "", [])
    assert f"Invalid value for '{flag}'" in result.stderr


@inside("the settings")
@pytest.mark.parametrize(
    ("value", "num_bytes"),
    [("0", 0), ("1", 1), ("512k", 512 << 10), ("2G", 2 << 30), ("2 GB", 2 << 30), ("0.5T", 1 << 39), ("3mib", 3 << 20)],
)
def test_sizes(value: str, num_bytes: int, invoke: Invoke, served: list[Settings]) -> None:
    invoke("serve", "--kv-cache", value)
    assert [settings.kv_cache_bytes for settings in served] == [num_bytes]


@pytest.mark.parametrize("content", [b"", b"secret", b"secret" * 10, base64.b64encode(b"secret" * 5), b"\xff" * 31])
def test_what_is_no_key_is_refused_and_not_shown(content: bytes, invoke: Invoke, served: list[Settings]) -> None:
    Path("key").write_bytes(content)
    result = invoke("serve", "--kv-cache", "1G", "--kv-cache-key-file", "key")
    assert (result.exit_code, served) == (2, [])
    assert "Invalid value for '--kv-cache-key-file': 'key' does not hold a key of 32 bytes" in result.stderr
    assert "secret" not in result.stderr


@inside("the settings")
def test_a_key_that_others_may_read_deserves_a_warning(invoke: Invoke, served: list[Settings]) -> None:
    Path("key").write_bytes(b"k" * 32)
    for mode, warning in ((0o600, ""), (0o640, "shimmy: WARNING: others may read the key in key\n")):
        Path("key").chmod(mode)
        assert invoke("serve", "--kv-cache", "1G", "--kv-cache-key-file", "key").stderr == warning
    assert [settings.kv_cache_key for settings in served] == [Secret(b"k" * 32)] * 2


def test_a_key_for_no_cache_is_a_usage_error(invoke: Invoke, served: list[Settings]) -> None:
    Path("key").write_bytes(b"k" * 32)
    for size in ([], ["--kv-cache", "0"]):
        result = invoke("serve", "--kv-cache-key-file", "key", *size)
        assert result.exit_code == 2 and "--kv-cache-key-file needs --kv-cache" in result.stderr
    assert served == []


@inside("a function by itself")
def test_windows_has_no_such_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    assert disk_size("0") == 0
    with pytest.raises(click.BadParameter, match="Windows"):
        disk_size("1G")


def test_a_refused_key_is_not_shown(invoke: Invoke) -> None:
    assert "secret" not in invoke("serve", "--api-key", "secret word").stderr


def test_nonsense_in_a_variable_is_a_usage_error(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIMMY_CTX", "many")
    result = invoke("serve")
    assert result.exit_code == 2 and "--ctx" in result.stderr


def start(machine: Path, *flags: str) -> "subprocess.Popen[str]":
    return program.start("serve", *flags, cwd=machine, stderr=subprocess.PIPE)


def test_serves_until_it_is_told_to_stop(machine: Path) -> None:
    with start(machine, "--bind", "127.0.0.1:0", "--ready-file", "ready.json") as server:
        assert server.stderr
        try:
            for line in server.stderr:
                if "listening on" in line:
                    break
            ready = json.loads((machine / "ready.json").read_text())
            assert ready["pid"] == server.pid
            with urllib.request.urlopen(f"{ready['url']}/health", timeout=30) as answer:
                assert answer.status == 200
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
            server.stderr.read()


def test_a_port_in_use_has_its_own_code(machine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with start(machine, "--bind", f"127.0.0.1:{taken.getsockname()[1]}") as server:
            assert server.communicate(timeout=60)[1].startswith("shimmy: port ")
            assert server.returncode == 4


def test_other_machines_are_not_let_in_without_a_key(machine: Path) -> None:
    with start(machine, "--bind", "0.0.0.0:0") as server:
        assert "--api-key" in server.communicate(timeout=60)[1]
        assert server.returncode == 2
