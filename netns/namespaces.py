"""Network namespaces with names, exactly as ``ip netns`` keeps them, so that a person can use ``ip netns exec`` on
ours.

A namespace lives as long as a process is in it or something refers to it; its name is a bind mount of its handle on
``/run/netns/<name>`` (ip-netns(8)). For the mount to be seen, and its removal to take effect, in every mount namespace
of the machine, ``/run/netns`` is made a shared mount point first. Doing that twice at the same time would stack mounts,
so, like iproute2, we hold ``flock`` on the folder meanwhile.

``setns(2)`` and ``unshare(2)`` change the calling *thread*. So a namespace is made, and visited, in a thread of its own
that ends afterwards: the caller's thread never leaves its namespace. ``enter`` is the exception, for a process that
wants to live in a namespace: call it first, while the process has one thread; later threads inherit.

(ctypes, because ``os.setns`` and ``os.unshare`` exist from Python 3.12 only.)
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from netns.errors import NetnsError

T = TypeVar("T")

FOLDER = Path("/run/netns")

CLONE_NEWNET = 0x40000000
MS_BIND, MS_REC, MS_SHARED = 0x1000, 0x4000, 1 << 20
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def path_of(name_or_path: str | Path) -> Path:
    """Where the handle of a namespace lies: a name stands for ``/run/netns/<name>``, anything with a slash for
    itself.
    """
    text = str(name_or_path)
    return Path(text) if "/" in text else FOLDER / text


def enter(name_or_path: str | Path) -> None:
    """Move the calling thread into a namespace, for good. Raises NetnsError."""
    path = path_of(name_or_path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NetnsError(f"cannot enter network namespace {path}: there is none; `ip netns list` shows them") from error
    try:
        _call("setns", handle, CLONE_NEWNET, what=f"enter network namespace {path}")
    finally:
        os.close(handle)


def inside(name_or_path: str | Path, action: Callable[[], T]) -> T:
    """The result of ``action``, run in a thread of its own inside a namespace. Sockets it makes stay in that
    namespace.
    """

    def visit() -> T:
        enter(name_or_path)
        return action()

    return _in_thread(visit)


def in_new(action: Callable[[], T]) -> T:
    """The result of ``action``, run in a thread of its own inside a new, nameless namespace that is gone afterwards."""

    def visit() -> T:
        _call("unshare", CLONE_NEWNET, what="make a network namespace")
        return action()

    return _in_thread(visit)


def ensure(name: str) -> Path:
    """Make the namespace unless it exists, and return its path. Raises NetnsError."""
    path = _named(name)
    with _locked_folder():
        if exists(name):
            return path
        with contextlib.suppress(FileExistsError):  # left behind by an `add` that was cut short
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o000))
        try:
            _in_thread(lambda: _make(path))
        except BaseException:
            path.unlink()
            raise
    return path


def remove(name: str) -> None:
    """Take the name away; the kernel destroys the namespace when nobody is in it any more. Absent: nothing."""
    path = _named(name)
    if not path.exists():
        return
    try:
        _call("umount2", os.fsencode(path), MNT_DETACH, what=f"remove network namespace {name}")
    except NetnsError as error:
        if not _is(error, errno.EINVAL):  # EINVAL: not a mount point, just a file
            raise
    path.unlink(missing_ok=True)


def exists(name_or_path: str | Path) -> bool:
    """Whether there is a namespace behind the name (a mere file that somebody left is none)."""
    path = path_of(name_or_path)
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


def names() -> tuple[str, ...]:
    """The named namespaces of this machine, sorted."""
    return tuple(sorted(name for name in os.listdir(FOLDER) if exists(name))) if FOLDER.is_dir() else ()


def same(one: str | Path, other: str | Path) -> bool:
    """Whether two handles are the same namespace."""
    return os.path.samestat(os.stat(path_of(one)), os.stat(path_of(other)))


def _named(name: str) -> Path:
    """Where a name lies. What is no name must not reach mount(2) and umount(2): it would mean another place."""
    if not name or "/" in name or name in (".", ".."):
        raise NetnsError(f"cannot use {name!r} as the name of a network namespace")
    return FOLDER / name


def _make(path: Path) -> None:
    _call("unshare", CLONE_NEWNET, what=f"make network namespace {path.name}")
    handle = b"/proc/thread-self/ns/net"
    _call("mount", handle, os.fsencode(path), None, MS_BIND, None, what=f"name network namespace {path.name}")


@contextlib.contextmanager
def _locked_folder() -> Iterator[None]:
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        _share_folder()
        yield
    finally:
        os.close(folder)


def _share_folder() -> None:
    place = os.fsencode(FOLDER)
    try:
        _call("mount", b"", place, b"none", MS_SHARED | MS_REC, None, what=f"share {FOLDER}")
    except NetnsError as error:
        if not _is(error, errno.EINVAL):
            raise
        _call("mount", place, place, b"none", MS_BIND | MS_REC, None, what=f"make {FOLDER} a mount point")
        _call("mount", b"", place, b"none", MS_SHARED | MS_REC, None, what=f"share {FOLDER}")


def _call(function: str, *arguments: bytes | int | None, what: str) -> None:
    if getattr(_libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        hint = "; this needs root (CAP_SYS_ADMIN)" if number == errno.EPERM else ""
        raise NetnsError(f"cannot {what}: {os.strerror(number)}{hint}") from OSError(number, os.strerror(number))


def _is(error: NetnsError, number: int) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == number


def _in_thread(action: Callable[[], T]) -> T:
    """``action``'s result or exception, from a thread that lives only for it."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            failures.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
