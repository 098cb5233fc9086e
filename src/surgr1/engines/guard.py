"""The privacy guard: where does an endpoint really lie, and may this data go there? The only door for images
and text, without a switch.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from surgr1.ontology.errors import SurgR1Error


class PolicyError(SurgR1Error):
    """Data that must not leave the machine or its private network was about to."""


def is_local(base_url: str) -> bool:
    """Whether every address the host resolves to now is loopback or private (RFC 1918, fc00::/7). A name that
    looks local is not enough.
    """
    host = urlsplit(base_url).hostname
    if not host:
        raise PolicyError(f"endpoint {base_url!r} has no host")
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise PolicyError(
            f"endpoint {base_url!r}: {host} does not resolve ({error}); nothing was sent"
        ) from error
    private = [ipaddress.ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]

    def near(text: str) -> bool:
        address = ipaddress.ip_address(text.split("%")[0])
        return address.is_loopback or any(address in n for n in private if n.version == address.version)

    return all(near(str(a)) for a in found)


def check_policy(policy: str, base_url: str) -> None:
    """Raise PolicyError before a byte is built when `local_only` data would go to an address outside the
    machine or its private network.
    """
    if policy == "local_only" and not is_local(base_url):
        raise PolicyError(
            f"local_only data may not be sent to {base_url}: it is not on this machine or a private network;"
            " use a local model"
        )
