"""HTTPS by urllib3 and by requests: python requests_client.py CA URL"""

import sys
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from sslconnector import stdlib

context = stdlib.create_default_context(cafile=sys.argv[1])


class OurAdapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=context, **options)


with urllib3.PoolManager(ssl_context=context) as pool:
    answer = pool.request("GET", sys.argv[2])
    print("urllib3", answer.status, len(answer.data))
with requests.Session() as session:
    session.verify = sys.argv[1]
    session.mount("https://", OurAdapter())
    response = session.get(sys.argv[2])
    print("requests", response.status_code, len(response.content))
