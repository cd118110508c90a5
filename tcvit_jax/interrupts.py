"""Ctrl-C on the command line, which also ends a process that is compiling.

Python runs signal handlers between its own instructions, and a compilation may take minutes. So a thread receives
every `SIGINT` as well, and ends the process where Python cannot.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType

# Exit status of a process that ended on Ctrl-C, as in shells: 128 and the number of SIGINT.
EXIT_STATUS = 128 + signal.SIGINT
# Seconds that a command has to end after the first Ctrl-C, unless it saves its work.
GRACE = 5.0
_STOP = b"\0"

# Set while a command saves its work after the first Ctrl-C.
_is_saving = threading.Event()
# Set when `KeyboardInterrupt` has been raised, until the next command of the process.
_is_raised = threading.Event()


def announce_saving(is_saving: bool) -> None:
    """Say whether the command saves its work after a first Ctrl-C, so that only a second one ends it at once."""
    (_is_saving.set if is_saving else _is_saving.clear)()


def raise_interrupt(frame: FrameType | None, detail: str = "") -> None:
    """Raise `KeyboardInterrupt`, as a signal handler of the main thread.

    During an import it is raised after the import, because an exception in the initialization of a compiled module,
    such as those of JAX, crashes the process.

    Args:
        frame: The frame that was interrupted.
        detail: The message of the exception.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _raise_later(detail)
            return
        frame = frame.f_back
    _is_raised.set()
    raise KeyboardInterrupt(detail)


def _raise_later(detail: str) -> None:
    """Call `raise_interrupt` again after some hundredths of a second, in the main thread."""
    signal.signal(signal.SIGALRM, lambda number, frame: raise_interrupt(frame, detail))
    signal.setitimer(signal.ITIMER_REAL, 0.02)


def _receive(number: int, frame: FrameType | None) -> None:
    raise_interrupt(frame)


class Interrupts:
    """Context manager that ends the process soon after a first Ctrl-C, and at once after a second one.

    The first `SIGINT` raises `KeyboardInterrupt` in the main thread, unless the command handles the signal. Outside of
    the main thread, and where `SIGINT` is ignored or has another handler, the context does nothing.
    """

    def __init__(self) -> None:
        self._count, self._thread, self._is_reported = 0, None, False
        self._previous_descriptor, self._lock = -1, threading.Lock()
        self._previous_hook = sys.unraisablehook

    def __enter__(self) -> Interrupts:
        is_main = threading.current_thread() is threading.main_thread()
        _is_raised.clear()
        if is_main and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            signal.signal(signal.SIGINT, _receive)
            self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._receive_unraisable
            self._receiver, self._sender = socket.socketpair()
            self._sender.setblocking(False)
            self._previous_descriptor = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._watch, daemon=True, name="interrupts")
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        # The thread may not have received the signal yet.
        if self._count or self._is_reported:
            # The process is ending. Until then a second Ctrl-C ends it at once, without a traceback.
            signal.signal(signal.SIGINT, _ignore)
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = self._previous_hook
        signal.set_wakeup_fd(self._previous_descriptor)
        self._sender.send(_STOP)
        self._thread.join()
        self._sender.close()
        self._receiver.close()

    @property
    def is_raised(self) -> bool:
        """Whether `KeyboardInterrupt` has been raised, also where a library raised another exception in its place."""
        return _is_raised.is_set()

    def report(self, detail: str = "") -> None:
        """Print one line to standard error that says that the command was interrupted; only once.

        Args:
            detail: What the interruption means for the user, or an empty string.
        """
        with self._lock:
            if not self._is_reported:
                _write(f"interrupted: {detail}" if detail else "interrupted")
            self._is_reported = True

    def _receive_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Raise `KeyboardInterrupt` again after Python has discarded it, as `sys.unraisablehook`.

        Python discards exceptions in finalizers and in callbacks of the garbage collector, of which JAX has one. Those
        of objects that the interrupt left unfinished, such as an open directory, are not reported.
        """
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            _raise_later(str(unraisable.exc_value))
        elif not _is_raised.is_set():
            self._previous_hook(unraisable)

    def _exit(self) -> None:
        if os.isatty(1):
            # A live progress bar hides the cursor.
            os.write(1, b"\x1b[?25h")
        self.report()
        os._exit(EXIT_STATUS)

    def _watch(self) -> None:
        """Receive the number of each signal, until `_STOP` or the end of the process."""
        while True:
            try:
                numbers = self._receiver.recv(64)
            except TimeoutError:
                # Without a signal for `GRACE` seconds after the first one.
                if not _is_saving.is_set():
                    self._exit()
                self._receiver.settimeout(None)
                continue
            if _STOP in numbers:
                return
            for _ in range(numbers.count(bytes([signal.SIGINT]))):
                self._count += 1
                if self._count > 1:
                    self._exit()
                if _is_saving.is_set():
                    _write("interrupted: saving a checkpoint; press Ctrl-C again to stop at once")
                self._receiver.settimeout(GRACE)


def exit_now(status: int) -> None:
    """End the process without the cleanup of the interpreter.

    The cleanup waits for threads, and crashes if compiled code is still running in one.

    Args:
        status: The exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing. Unlike `SIG_IGN`, this lets Python pass the signal to the thread."""


def _write(line: str) -> None:
    # Not `sys.stderr`, whose lock the interrupted code may hold. The terminal may be closed.
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
