"""A mail over STARTTLS from smtplib to aiosmtpd, both sides ours: python smtp_starttls.py CERT KEY CA [PORT [serve]]"""

import smtplib
import sys
import time
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

from sslconnector import stdlib


class Inbox:
    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
        print(f"from {envelope.mail_from} over {session.ssl and session.ssl['cipher'][1]}: {envelope.content.decode().strip()}", flush=True)
        return "250 OK"


certificate, key, ca = sys.argv[1:4]
port = int(sys.argv[4]) if len(sys.argv) > 4 else 8025
theirs = stdlib.create_default_context(stdlib.Purpose.CLIENT_AUTH)
theirs.load_cert_chain(certificate, key)
controller = Controller(Inbox(), hostname="127.0.0.1", port=port, tls_context=theirs, require_starttls=True)
controller.start()
try:
    with smtplib.SMTP("localhost", port, timeout=10) as client:
        client.starttls(context=stdlib.create_default_context(cafile=ca))
        client.sendmail("a@example.org", ["b@example.org"], "hello")
    if sys.argv[5:] == ["serve"]:
        print("serving", flush=True)
        time.sleep(3600)
finally:
    controller.stop()
