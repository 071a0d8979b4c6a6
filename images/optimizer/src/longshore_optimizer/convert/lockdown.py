"""Takes the network away from this process for good: a seccomp filter that no privilege is needed for.

The filter denies socket(2) and io_uring, as described in seccomp(2) and
https://docs.kernel.org/userspace-api/seccomp_filter.html. Resource limits bound what hostile code may use up.
"""

import ctypes
import errno
import os
import platform
import resource
import socket
import struct

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_LOAD_WORD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_AT_LEAST = 0x35
_RETURN = 0x06
_OFFSET_NUMBER = 0
_OFFSET_ARCHITECTURE = 4
_OFFSET_FIRST_ARGUMENT = 16
"""Of its lower half: both architectures are little-endian, and the kernel takes an int."""
_X32_BIT = 0x40000000

# (audit architecture, denied system calls: socket, io_uring_setup, ptrace, process_vm_writev)
_ARCHITECTURES = {
    "x86_64": (0xC000003E, (41, 425, 101, 311)),
    "aarch64": (0xC00000B7, (198, 425, 117, 271)),
}


def _filter(architecture: int, denied: tuple[int, ...], but_local: bool) -> bytes:
    deny = _ERRNO | errno.EPERM
    program: list[tuple[int, int, int, int]] = [
        (_LOAD_WORD, 0, 0, _OFFSET_ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, deny),
        (_LOAD_WORD, 0, 0, _OFFSET_NUMBER),
        (_JUMP_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, deny),
    ]
    if but_local:
        program += [
            (_JUMP_EQUAL, 0, 3, denied[0]),
            (_LOAD_WORD, 0, 0, _OFFSET_FIRST_ARGUMENT),
            (_JUMP_EQUAL, 0, 1, socket.AF_UNIX),
            (_RETURN, 0, 0, _ALLOW),
            (_LOAD_WORD, 0, 0, _OFFSET_NUMBER),
        ]
    for number in denied:
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, deny)]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def deny_network(but_local: bool = False) -> None:
    """Forbid new sockets to this process and its children; `but_local` leaves those of AF_UNIX.

    Raises:
        OSError: the kernel or the architecture does not support it; nothing hostile may be loaded then.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no network filter for {machine}")
    code = _filter(*_ARCHITECTURES[machine], but_local)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0),
    ):
        if libc.prctl(*(ctypes.c_ulong(a) for a in arguments)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def limit_resources(cpu_seconds: int, file_bytes: int) -> None:
    """Bound CPU time in seconds and the size of any file written in bytes; no core dumps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
