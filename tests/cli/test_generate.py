"""`generate` and `probe`, with fake workers and, marked `model`, with the real one."""

import os
import signal
import subprocess

import pytest

from shimmy.core.request import Chat, Generation, Message, Reasoning, Sampling, Text
from tests import program
from tests.cli.conftest import Invoke
from tests.fakes.instead import fake_workers
from tests.program import DEMO

pytestmark = pytest.mark.program


def asked(invoke: Invoke, *flags: str, stdin: str | None = None) -> Generation:
    """What reached the worker."""
    import msgspec

    result = invoke("generate", "echo", *flags, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return msgspec.json.decode(result.stdout, type=Generation)


@pytest.mark.usefixtures("fake")
class TestGenerate:
    def test_writes_the_answer(self, invoke: Invoke) -> None:
        result = invoke("generate", "echo", "--prompt", "one two three")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "one two three\n", "")

    def test_the_prompt_may_be_piped(self, invoke: Invoke) -> None:
        assert invoke("generate", "echo", stdin="one\ntwo\n").stdout == "one\ntwo\n"

    def test_every_flag_reaches_the_worker(self, invoke: Invoke) -> None:
        flags = "--max-tokens 9 --temperature 0.5 --top-p 0.25 --top-k 3 --seed -7 --system Terse.".split()
        generation = asked(invoke, "--prompt", "!request", *flags)
        assert generation.prompt == Chat(
            [Message("system", "Terse."), Message("user", "!request")], reasoning=Reasoning(is_raw=True)
        )
        assert generation.sampling == Sampling(temperature=0.5, top_p=0.25, top_k=3, seed=-7)
        assert (generation.model, generation.max_tokens) == ("echo", 9)

    def test_raw_leaves_the_template_out(self, invoke: Invoke) -> None:
        generation = asked(invoke, "--raw", stdin="!request\n")
        assert generation.prompt == Text("!request")
        assert (generation.sampling, generation.max_tokens) == (Sampling(), None)

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--prompt", ""], "The prompt is empty."),
            (["--prompt", "x", "--raw", "--system", "y"], "--system needs the chat template"),
            (["--prompt", "x", "--temperature", "nan"], "Invalid value for '--temperature'"),
            (["--prompt", "x", "--top-p", "2"], "Invalid value for '--top-p'"),
            (["--prompt", "x", "--top-k", "1.5"], "Invalid value for '--top-k'"),
            (["--prompt", "x", "--max-tokens", "0"], "Invalid value for '--max-tokens'"),
            (["--prompt", "x", "--seed", "many"], "Invalid value for '--seed'"),
            (["--prompt", "x\udcff"], "Invalid value for '--prompt': it is not valid UTF-8."),
        ],
    )
    def test_nonsense_is_a_usage_error(self, flags: list[str], message: str, invoke: Invoke) -> None:
        result = invoke("generate", "echo", *flags)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr

    def test_bytes_that_are_no_text_are_a_usage_error(self, invoke: Invoke) -> None:
        result = invoke("generate", "echo", stdin=b"\xff\xfe")
        assert result.exit_code == 2 and "not UTF-8" in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (("nobody", "--prompt", "x"), 3, "the model 'nobody' does not exist"),
            (("broken", "--prompt", "x"), 5, "the model 'broken' cannot be served: truncated"),
            (("echo", "--prompt", "!crash SIGABRT 3"), 5, "SIGABRT"),
            (("echo", "--prompt", "!fail context_length_exceeded too long"), 1, "too long"),
        ],
    )
    def test_failures_have_codes(self, arguments: tuple[str, ...], code: int, message: str, invoke: Invoke) -> None:
        result = invoke("generate", *arguments)
        assert result.exit_code == code
        (said,) = result.stderr.splitlines()
        assert said.startswith("shimmy: ") and message in said


@pytest.mark.usefixtures("fake")
class TestProbe:
    def test_says_what_was_loaded(self, invoke: Invoke) -> None:
        result = invoke("probe", "echo")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith("ok: loaded echo in ")

    @pytest.mark.parametrize(("name", "code"), [("nobody", 3), ("broken", 5)])
    def test_failures_have_codes(self, name: str, code: int, invoke: Invoke) -> None:
        result = invoke("probe", name)
        assert (result.exit_code, result.stdout) == (code, "")
        assert result.stderr.startswith("shimmy: ")


def start(*arguments: str, fake: bool = False) -> "subprocess.Popen[str]":
    environment = {**os.environ, **(fake_workers() if fake else {})}
    return program.start(*arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.usefixtures("fake")
def test_ctrl_c_ends_it_cleanly() -> None:
    with start("generate", "echo", "--prompt", "!stall 2", fake=True) as process:
        assert process.stdout and process.stderr
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == ""


@pytest.mark.usefixtures("fake")
def test_a_reader_that_leaves_ends_it_quietly() -> None:
    with start("generate", "echo", "--prompt", "!deluge", fake=True) as process:
        assert process.stdout and process.stderr
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


@pytest.mark.model
@pytest.mark.usefixtures("machine")
@pytest.mark.skipif(not DEMO.exists(), reason="make model fetches the demo model")
class TestRealModel:
    def test_generates(self) -> None:
        flags = ["--prompt", "The capital of France is", "--raw", "--temperature", "0", "--max-tokens", "4"]
        with start("generate", DEMO.stem, "--model-path", str(DEMO), *flags) as process:
            stdout, stderr = process.communicate(timeout=100)
        assert (process.returncode, stderr) == (0, "")
        assert "Paris" in stdout

    def test_probes(self) -> None:
        with start("probe", DEMO.stem, "--model-path", str(DEMO)) as process:
            stdout, stderr = process.communicate(timeout=100)
        assert (process.returncode, stderr) == (0, "")
        assert stdout.startswith("ok: loaded smollm2-135m-instruct.q4-1 in ")
        assert "135M parameters" in stdout

    def test_ctrl_c(self) -> None:
        # What has no end soon, as an answer to a question may have.
        flags = ["--prompt", "1, 2, 3, 4, 5,", "--raw", "--temperature", "0", "--model-path", str(DEMO)]
        with start("generate", DEMO.stem, *flags) as process:
            assert process.stdout and process.stderr
            assert process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert process.stderr.read() == ""
