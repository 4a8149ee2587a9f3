"""The meeting place: Horovod's key-value server over HTTP, in its own launcher or instance 0."""

import time
import urllib.error
import urllib.request
from http.client import HTTPException
from http.server import HTTPServer
from threading import Thread
from typing import Optional, Tuple

from app.distributed.errors import InstanceError

SCOPE = "ipu-app"
"""Of the keys that the application publishes, among those of Horovod."""
_RETRY_S = 0.2
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def serve(address: Tuple[str, int]) -> None:
    """Run the server until this process ends.

    Raises:
        InstanceError: the address cannot be listened at.
    """
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    try:
        server: HTTPServer = RendezvousHTTPServer(address, RendezvousHandler, 0)
    except OSError as error:
        raise InstanceError(
            f"{address[0]}:{address[1]}: instance 0 cannot listen there ({error.strerror}); give "
            "an address of its host, and a free port"
        ) from error
    Thread(target=server.serve_forever, name="rendezvous", daemon=True).start()


def publish(address: Tuple[str, int], key: str, text: str) -> None:
    """Let the others read ``text``."""
    url = _url(address, f"{SCOPE}/{key}")
    request = urllib.request.Request(url, text.encode(), method="PUT")
    _DIRECT.open(request, timeout=10).close()


def read(address: Tuple[str, int], path: str, timeout_s: float) -> Optional[str]:
    """What the server has under ``SCOPE/KEY``, empty where there is nothing; None: no answer."""
    try:
        with _DIRECT.open(_url(address, path), timeout=timeout_s) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        error.close()
        return ""
    except (OSError, HTTPException):
        return None


def await_published(address: Tuple[str, int], key: str, patience_s: float) -> str:
    """Read what another instance has published, once it has.

    Raises:
        InstanceError: it does not within ``patience_s``.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with _DIRECT.open(_url(address, f"{SCOPE}/{key}"), timeout=10) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise InstanceError(
                    f"{address[0]}:{address[1]}: instance 0 did not come there within "
                    f"{patience_s:g} s ({error}); start it, or correct the address"
                ) from error
        time.sleep(_RETRY_S)


def _url(address: Tuple[str, int], path: str) -> str:
    return f"http://{address[0]}:{address[1]}/{path}"
