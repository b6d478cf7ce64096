"""The recipes of the servers to compare with, without compiler and network."""

import io
import tarfile
from pathlib import Path

import pytest

from build import native, peers

TOP = native.SOURCE.file_name.removesuffix(".tar.gz")


class FakeTools:
    """Stands for CMake and pip; what is compiled is what llama.cpp's build leaves."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, ...]] = []
        self.program = "#!/bin/sh\n"

    def cmake(self, *arguments: str, log: Path, label: str) -> None:
        self.runs.append(arguments)
        if arguments[0] == "--build":
            built = Path(arguments[1], "bin")
            built.mkdir(parents=True)
            names = ["llama-server", "llama-cli", "libllama.so.0.0.1", "libllama-server-impl.so", "libggml-cpu-x64.so"]
            for name in names:
                (built / name).write_text(self.program)
                (built / name).chmod(0o755)
            (built / "libllama.so.0").symlink_to("libllama.so.0.0.1")
            (built / "libllama.so").symlink_to("libllama.so.0")

    def logged(self, *command: str, log: Path, label: str) -> None:
        self.runs.append(command)
        target = Path(command[0])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self.program)
        target.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTools:
    def fetch(source: object, folder: Path) -> Path:
        names = ["CMakeLists.txt", "src/llama.cpp", "tools/server/main.cpp", ".git"]
        with tarfile.open(folder / "source.tar.gz", "w:gz") as tar:
            for name in [*(f"vendor/llama.cpp/{each}" for each in names), "llama_cpp/llama.py"]:
                member = tarfile.TarInfo(f"{TOP}/{name}")
                member.size = 4
                tar.addfile(member, io.BytesIO(b"text"))
        return folder / "source.tar.gz"

    tools = FakeTools()
    monkeypatch.setenv("SHIMMY_BUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "install_tools", lambda: None)
    monkeypatch.setattr(peers, "fetch", fetch)
    monkeypatch.setattr(peers, "cmake", tools.cmake)
    monkeypatch.setattr(peers, "logged", tools.logged)
    monkeypatch.setattr(peers, "make_environment", lambda stage: (stage / "bin").mkdir(parents=True))
    return tools


def test_both_are_made_once_and_their_paths_are_said(tools: FakeTools, capfd: pytest.CaptureFixture[str]) -> None:
    peers.main()
    assert capfd.readouterr().out.split() == [str(peers.llama_server()), str(peers.python_server())]
    assert peers.llama_server().exists() and peers.python_server().exists()
    num_runs = len(tools.runs)
    peers.main()
    assert len(tools.runs) == num_runs
    assert list((peers.llama_server().parents[2] / "work").iterdir()) == []


def test_what_does_not_run_is_not_kept(tools: FakeTools) -> None:
    """But what it was made of is, so that the next try is quick."""
    tools.program = "#!/bin/sh\necho a library is missing\nexit 127\n"
    with pytest.raises(SystemExit, match="a library is missing\n.*llama-server does not run"):
        peers.main()
    assert not peers.llama_server().exists()
    assert (peers.llama_server().parents[2] / "work" / peers.llama_server().parents[1].name / "build").exists()


def test_the_source_is_whole_and_without_our_patches(tools: FakeTools, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    stage = peers.make_llama_server(work)
    source = Path(tools.runs[0][1])
    assert sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()) == [
        "CMakeLists.txt",
        "src/llama.cpp",
        "tools/server/main.cpp",
    ]
    assert sorted(path.name for path in (stage / "bin").iterdir()) == [
        "libggml-cpu-x64.so",
        "libllama-server-impl.so",
        "libllama.so.0",
        "llama-server",
    ]


def test_flags_are_ours_where_they_decide_the_speed() -> None:
    ours, theirs = ({flag.partition("=")[0]: flag for flag in flags} for flags in (native.FLAGS, peers.FLAGS))
    different = {name for name in ours | theirs if ours.get(name) != theirs.get(name)}
    assert different == {
        *("LLAMA_BUILD_COMMON", "LLAMA_BUILD_TOOLS", "LLAMA_BUILD_SERVER", "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI"),
        *("LLAMA_OPENSSL", "CMAKE_EXE_LINKER_FLAGS", "GGML_RPC"),
    }
    # CMake takes the last one of two.
    assert len(theirs) == len(peers.FLAGS)


def test_the_versions_are_one() -> None:
    """The pin of the source that we compile, and of the package that is installed."""
    pinned = peers.REQUIREMENTS.read_text().partition(f"{native.SOURCE.project}==")[2]
    assert pinned.startswith(f"{native.SOURCE.version} ") and native.SOURCE.sha256 in pinned.partition("# via")[0]


def test_all_that_is_installed_is_pinned(tools: FakeTools, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    peers.make_python_server(work)
    installs = [run for run in tools.runs if "install" in run]
    assert installs and all("--require-hashes" in run for run in installs)
    assert "--no-build-isolation" in installs[-1], "what builds it would come unpinned"
    assert tools.runs[-1][1:5] == ("-m", "pip", "--disable-pip-version-check", "uninstall")
