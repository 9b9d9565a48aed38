"""The compiled twin: the loops of ``direct.py`` in one small C file, each one call with the GIL released.

Optional: without a compiler at installation there is none, and importing this module fails. ``SSLCONNECTOR_ENGINE=direct`` switches it off.
"""

from __future__ import annotations

from typing import Any, NoReturn

from . import _pump
from .binding import ffi, lib
from .direct import DirectFlows
from .engine import SLOTS, Outcome

__all__ = ["CompiledEngine"]

_NAMES = ("SSL_read", "SSL_write", "SSL_pending", "BIO_read", "BIO_write", "ERR_peek_error", "ERR_clear_error")

# cryptography wraps cffi's library object; addresses are known to the original only.
_library = getattr(lib, "_original_lib", lib)
try:
    _addresses = {name: int(ffi.cast("uintptr_t", ffi.addressof(_library, name))) for name in _NAMES}
except (AttributeError, TypeError) as error:  # pragma: no cover - a future cryptography
    raise ImportError(f"the binding does not tell the addresses of OpenSSL's functions: {error}") from error
_pump.setup(_addresses, Outcome.DATA)


class CompiledEngine(_pump.Pump, DirectFlows):
    """The data flows in C; ``records`` and ``outcome`` are its members."""

    __slots__ = tuple(name for name in SLOTS if name not in ("records", "outcome"))

    name = "compiled"
    # Not on Windows.
    lane_type = getattr(_pump, "Lane", None)
    epoll_set = getattr(_pump, "EpollSet", None)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._attach()

    def _attach(self) -> None:
        self.attach(*(int(ffi.cast("uintptr_t", pointer)) for pointer in (self._ssl, self._rbio, self._wbio)))

    def _replace_bios(self, *, keep_output: bool = False) -> None:
        super()._replace_bios(keep_output=keep_output)
        self._attach()

    def _write_failed(self) -> NoReturn:
        raise self.write_failed()

    def encrypt_large(self, data: bytes | memoryview, size: int) -> memoryview:
        return memoryview(self.encrypt_slices(data, self._room_for(size)))
