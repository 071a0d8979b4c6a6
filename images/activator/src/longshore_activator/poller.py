"""Readiness of many short-lived sockets at one system call each.

The loop's own `add_reader` costs several system calls for every descriptor that it sees for the first time
(libuv's `uv_poll_init` tries the descriptor in its epoll and makes it non-blocking before it is watched).
Connections that live for one request pay that for two descriptors each. So all of them share one epoll
inside the loop's; a descriptor that is closed leaves it by itself.
"""

import asyncio
import select
from collections.abc import Callable

_EVENTS_A_TURN = 256
_WAKES_READER = ~select.EPOLLOUT
_WAKES_WRITER = ~select.EPOLLIN

Callback = Callable[[], None]


class Poller:
    """Calls back, level-triggered, while a descriptor can be read or written, has failed or was hung up.

    A callback may remove or add any descriptor, and may be called once more than needed: what it does must
    not block.

    Args:
        loop: the running event loop, which must be able to watch a descriptor.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        loop.add_reader(self._epoll.fileno(), self._turn)

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call back while `fd` has something to read; nothing else may be reading it."""
        watched = fd in self._writers
        self._readers[fd] = callback
        if watched:
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        else:
            self._epoll.register(fd, select.EPOLLIN)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call back while `fd` takes bytes; nothing else may be writing it."""
        watched = fd in self._readers
        self._writers[fd] = callback
        if watched:
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        else:
            self._epoll.register(fd, select.EPOLLOUT)

    def remove_reader(self, fd: int) -> None:
        """Stop calling back for reading, if it was asked for."""
        if self._readers.pop(fd, None) is not None:
            if fd in self._writers:
                self._epoll.modify(fd, select.EPOLLOUT)
            else:
                self._epoll.unregister(fd)

    def remove_writer(self, fd: int) -> None:
        """Stop calling back for writing, if it was asked for."""
        if self._writers.pop(fd, None) is not None:
            if fd in self._readers:
                self._epoll.modify(fd, select.EPOLLIN)
            else:
                self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """Drop both callbacks of a descriptor that is closed next, which takes it out of the epoll."""
        self._readers.pop(fd, None)
        self._writers.pop(fd, None)

    def close(self) -> None:
        """Stop watching everything."""
        self._loop.remove_reader(self._epoll.fileno())
        self._readers.clear()
        self._writers.clear()
        self._epoll.close()

    def _turn(self) -> None:
        readers, writers = self._readers, self._writers
        for fd, events in self._epoll.poll(0, _EVENTS_A_TURN):
            # A callback before this one may have closed `fd`, and it may be another connection's by now.
            if events & _WAKES_READER and (reader := readers.get(fd)) is not None:
                reader()
            if events & _WAKES_WRITER and (writer := writers.get(fd)) is not None:
                writer()
