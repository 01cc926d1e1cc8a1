"""
Run the Python program on standard input with as few rights as the kernel can take away.

A script of its own, run with ``python -I``: standard library only, nothing of t2l is importable.
Arguments: seconds, bytes, and the exit status that says that the program ran to its end; the
program doesn't know it, so it can't leave early and pretend. Status 97: rights couldn't be dropped.
"""

import ctypes
import os
import platform
import resource
import struct
import sys

REFUSED = 97
# Linux system call numbers: no sockets, no new processes or programs, no signals to others, no
# tracing, no ring of calls that a filter can't see, no change to the file system.
_FORBIDDEN = {
    "x86_64": """
        41 53 56 57 58 59 62 76 77 82 83 84 85 86 87 88 90 91 92 93 94 101 133 161 165 200 234 258
        259 260 263 264 265 266 268 310 311 316 322 425 435 437 452
    """,
    "aarch64": """
        33 34 35 36 37 38 40 45 46 51 52 53 54 55 117 129 130 131 198 199 220 221 270 271 276 281
        425 435 437 452
    """,
}
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # as the kernel names them to filters
_OPENAT = {"x86_64": 257, "aarch64": 56}
_OPEN_X86 = 2
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
_LOAD, _EQUAL, _LEAST, _SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_OTHER_ABI = 0x40000000  # the same calls by other numbers, x86 only
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # deny: the call fails with EPERM


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def _filter(machine: str) -> bytes:
    """Give the seccomp program: forbidden calls fail, files open for reading only."""
    opening = [(_OPENAT[machine], 32)]  # call, offset of its flags argument
    if machine == "x86_64":
        opening.append((_OPEN_X86, 24))
    steps = [
        _step(_LOAD, 4),
        _step(_EQUAL, _ARCH[machine], 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, 0),
    ]
    steps += [_step(_LEAST, _OTHER_ABI, 0, 1), _step(_RETURN, _DENY)]
    for number, flags_at in opening:
        steps += [
            _step(_EQUAL, number, 0, 4),
            _step(_LOAD, flags_at),
            _step(_SET, _WRITING, 0, 1),
            _step(_RETURN, _DENY),
            _step(_RETURN, _ALLOW),
        ]
    for number in map(int, _FORBIDDEN[machine].split()):
        steps += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _DENY)]
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


class _Program(ctypes.Structure):
    _fields_ = [("size", ctypes.c_ushort), ("steps", ctypes.c_void_p)]


def _drop_rights(seconds: int, memory: int) -> bool:
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    if platform.machine() not in _FORBIDDEN:
        return False
    steps = _filter(platform.machine())
    buffer = ctypes.create_string_buffer(steps, len(steps))
    program = _Program(len(steps) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None)
    set_no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    refused: int = libc.prctl(set_no_new_privileges, 1, 0, 0, 0)
    refused |= libc.prctl(set_seccomp, filter_mode, ctypes.byref(program), 0, 0)
    return refused == 0


if __name__ == "__main__":
    seconds, memory, done = map(int, sys.argv[1:])
    sys.argv[1:] = []
    source = sys.stdin.read()
    if not _drop_rights(seconds, memory):
        sys.exit(REFUSED)
    exec(compile(source, "answer.py", "exec"), {"__name__": "__main__"})  # noqa: S102 - its purpose
    os._exit(done)
