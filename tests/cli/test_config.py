"""--config: what a settings file says, what wins over it, and what is wrong with one."""

from pathlib import Path

import pytest

from shimmy.core.engine_settings import EngineSettings
from shimmy.core.keys import ApiKey
from shimmy.core.settings import Settings
from tests.cli.conftest import Invoke
from tests.program import DEMO, DEMO_ID, inside, run

pytestmark = pytest.mark.program

EVERYTHING = """
bind = "auto"
model-dirs = ["/", ".."]
ctx = 4096
api-key = ["one", "two"]
insecure-no-auth = true
kv-cache = "1G"
drain-seconds = 1.5
max-body-bytes = 1000
stall-seconds = 2.5
hang-seconds = 0
max-queued-requests = 7
max-connections-per-address = 5

[engine]
lora = ["a.gguf=0.5"]
gpu-layers = "all"
device = ["CUDA0"]
gpu-backend = "cuda"
tensor-split = [1]
n-cpu-moe = 3
override-tensor = ["blk=CPU"]
mmap = false
mlock = true
cache-type-k = "q8_0"
cache-type-v = "q4_0"
kv-offload = false
flash-attn = "on"
ubatch-size = 64
rope-scaling = "yarn"
rope-freq-base = 1e5
rope-freq-scale = 0.5
yarn-orig-ctx = 4096
yarn-ext-factor = 1
yarn-attn-factor = 1.5
yarn-beta-fast = 30
yarn-beta-slow = 2
"""
ENGINE = EngineSettings(
    lora=("a.gguf=0.5",),
    gpu_layers="all",
    device=("CUDA0",),
    gpu_backend="cuda",
    tensor_split=(1.0,),
    n_cpu_moe=3,
    override_tensor=("blk=CPU",),
    mmap=False,
    mlock=True,
    cache_type_k="q8_0",
    cache_type_v="q4_0",
    kv_offload=False,
    flash_attn="on",
    ubatch_size=64,
    rope_scaling="yarn",
    rope_freq_base=1e5,
    rope_freq_scale=0.5,
    yarn_orig_ctx=4096,
    yarn_ext_factor=1.0,
    yarn_attn_factor=1.5,
    yarn_beta_fast=30.0,
    yarn_beta_slow=2.0,
)


@inside("the settings")
def test_everything_in_a_file_arrives(invoke: Invoke, served: list[Settings]) -> None:
    Path("a.gguf").touch()
    Path("s.toml").write_text(EVERYTHING)
    assert invoke("serve", "--config", "s.toml").exit_code == 7
    assert served == [
        Settings(
            bind="auto",
            model_dirs=("/", ".."),
            context_length=4096,
            api_keys=(ApiKey.of("one"), ApiKey.of("two")),
            max_connections_per_address=5,
            insecure_no_auth=True,
            kv_cache_bytes=1 << 30,
            drain_seconds=1.5,
            max_body_bytes=1000,
            stall_seconds=2.5,
            hang_seconds=0.0,
            max_queued_requests=7,
            engine=ENGINE,
        )
    ]


@inside("the settings")
def test_flags_win_over_variables_and_those_over_the_file(
    invoke: Invoke, served: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("s.toml").write_text("ctx = 64\nparallel = 3\n[engine]\ncache-type-k = 'f32'\ncache-type-v = 'f32'")
    monkeypatch.setenv("SHIMMY_CONFIG", "s.toml")
    monkeypatch.setenv("SHIMMY_CTX", "128")
    monkeypatch.setenv("SHIMMY_CACHE_TYPE_V", "f16")
    monkeypatch.setenv("SHIMMY_CACHE_TYPE_K", "f16")
    invoke("serve", "--cache-type-k", "q8_0")
    invoke("serve", "--ctx", "256")
    first = EngineSettings(cache_type_k="q8_0", cache_type_v="f16")
    second = EngineSettings(cache_type_k="f16", cache_type_v="f16")
    assert served == [
        Settings(context_length=128, num_sequences=3, engine=first),
        Settings(context_length=256, num_sequences=3, engine=second),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("context = 1", "there is no setting 'context'"),
        ("config = 's.toml'", "there is no setting 'config'"),
        ("help = true", "there is no setting 'help'"),
        ("gpu-layers = 1", "there is no setting 'gpu-layers'"),
        ("[server]\nbind = 'auto'", "there is no setting 'server'"),
        ("engine = 1", "engine is no table"),
        ("[engine]\ncache-type = 'f16'", "in [engine]: Object contains unknown field 'cache-type'"),
        ("[engine]\nmmap = 'yes'", "in [engine]: mmap: Expected 'bool | null', got 'str'"),
        ("[engine]\ncache-type-k = 'q9'", "in [engine]: cache-type-k: it must be f32 or f16 or bf16 or q8_0"),
        ("[engine]\ncpu-moe = true\nn-cpu-moe = 1", "cpu-moe and n-cpu-moe exclude each other"),
        ("[engine]\nlora = ['absent.gguf']", "lora: there is no file 'absent.gguf'"),
        ("ctx = [1]", "ctx must be a text or a number"),
        ("ctx = true", "ctx must be a text or a number"),
        ("ctx = 'many'", "Invalid value for '--ctx'"),
        ("bind = 'localhost'", "Invalid value for '--bind'"),
        ("insecure-no-auth = 'yes'", "insecure-no-auth must be true or false"),
        ("api-key = ['two words']", "Invalid value for '--api-key'"),
        ("stall-seconds = 0", "stall-seconds must be more than 0"),
        ("hang-seconds = -1", "hang-seconds must be more than 0"),
        ("stall-seconds = inf", "stall-seconds must be more than 0"),
        ("max-body-bytes = 'much'", "max-body-bytes: Expected `int`, got `str`"),
        ("ctx = ", "Invalid value"),
        ("a = 1\na = 2", "Cannot overwrite a value"),
        ("\ud800", "codec can't decode"),
        ("#" * (2 << 20), "is no settings file: it has more than 1048576 bytes"),
    ],
)
def test_what_is_wrong_is_named(content: str, reason: str, invoke: Invoke, served: list[Settings]) -> None:
    Path("s.toml").write_bytes(content.encode("utf-8", "surrogatepass"))
    result = invoke("serve", "--config", "s.toml")
    assert (result.exit_code, result.stdout, served) == (2, "", [])
    assert reason in result.stderr


def test_a_file_that_is_not_there(invoke: Invoke, served: list[Settings]) -> None:
    for path, reason in (("absent.toml", "No such file or directory"), (".", "Is a directory")):
        result = invoke("serve", "--config", path)
        assert (result.exit_code, served) == (2, [])
        assert f"Invalid value for '--config': {path!r}: {reason}." in result.stderr


@pytest.mark.model
def test_other_commands_take_what_they_know(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(f"bind = 'auto'\nmodel-path = '{DEMO}'\n[engine]\ncache-type-k = 'q8_0'\n")
    asked = ["--config", "s.toml", "--prompt", "Hi", "--max-tokens", "2", "--temperature", "0"]
    done = run("generate", DEMO_ID, *asked, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.strip()
    assert run("probe", DEMO_ID, "--config", "s.toml", cwd=tmp_path).stdout.startswith("ok: loaded ")
    broken = run("probe", DEMO_ID, "--config", "s.toml", "--cache-type-v", "q4_0", "--flash-attn", "off", cwd=tmp_path)
    assert broken.returncode == 2 and "cache-type-v q4_0 needs flash attention" in broken.stderr
