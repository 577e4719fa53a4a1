"""The Hugging Face Hub where there is no network: its client would ask six times, for half a
minute, before it says so.
"""

import os
import socket
import sys
import urllib.request
from urllib.parse import urlsplit


def use_local_copies_offline() -> None:
    """Where the Hub's name has no address, put its client into offline mode: what was downloaded
    before is found at once, and so is what was not. To be called before anything is asked for.
    """
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if constants.HF_HUB_OFFLINE or host is None or urllib.request.getproxies():
        return  # a proxy may know the name
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        print(
            f"note: no network ({host} has no address); only local copies are used", file=sys.stderr
        )
        os.environ["HF_HUB_OFFLINE"] = "1"  # for child processes, and for datasets
        constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
