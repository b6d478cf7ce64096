"""What a worker gives up before it reads a model: its parent's death is its own, it leaves no core file, it gains no
privileges, it has no current directory to speak of, and when memory runs out the kernel picks it before the server.
All of it on Linux; elsewhere what the system offers, and a worker whose parent died learns it from its pipe."""

import ctypes
import os
import signal
import sys

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_OOM_SCORE = b"500"


def enter() -> None:
    # A library is searched where another one says, and what CMake links says "the current directory" easily: an empty
    # part of a path is enough. Nobody must be able to leave one where a server happens to be started.
    os.chdir("/")
    _crash_quietly()
    # Ctrl-C goes to the whole terminal group, and Ctrl-Break too; the server decides when a worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.SIG_IGN)
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _prefer_as_oom_victim()


def _crash_quietly() -> None:
    """Without a core file, and on Windows without a dialog that waits for somebody while the process lives on."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.SetErrorMode(msvcrt.SEM_FAILCRITICALERRORS | msvcrt.SEM_NOGPFAULTERRORBOX)
    else:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _prefer_as_oom_victim() -> None:
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(descriptor, _OOM_SCORE)
    except OSError:
        pass
    finally:
        os.close(descriptor)
