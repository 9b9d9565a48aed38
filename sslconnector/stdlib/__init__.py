"""The ``ssl`` module's context, served by our connector: a program that takes an ``ssl.SSLContext`` runs on us when the line that makes
the context is changed.

::

    from sslconnector import stdlib

    context = stdlib.create_default_context()

What ``wrap_socket`` and ``wrap_bio`` give are the ``ssl`` module's own classes; the object inside them, which there is OpenSSL, is ours.
What cannot be offered is listed in docs/stdlib and raises.
"""

from ssl import Purpose

from .context import SSLContext, create_default_context
from .socket import SSLSocket

__all__ = ["Purpose", "SSLContext", "SSLSocket", "create_default_context"]
