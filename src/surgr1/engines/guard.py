"""The privacy guard: where does an endpoint really lie, and may this data go there? The only door for
pictures and text, without a switch.

An endpoint is near when every address its host resolves to is loopback, private (RFC 1918) or unique local
(fc00::/7). Link-local, carrier-grade (100.64.0.0/10), unspecified (0.0.0.0) and translated (NAT64) addresses
are not. Data is judged before it is serialised (`chat_messages`), and the address again when it is connected
to: a `Door`'s client for data that must stay connects to the very address it judged, so that a name which
changes its address in between leads nowhere. What a near server passes on is not seen from here.
"""

import asyncio
import base64
import io
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from surgr1.ontology.errors import SurgR1Error

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

_MAY_LEAVE = ("public", "licence_restricted")
"""Policies of data that may go anywhere. Every other one stays near: `local_only`, and a misspelt one."""

_NEAR = [
    ipaddress.ip_network(n)
    for n in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
]

_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


class PolicyError(SurgR1Error):
    """Data that must not leave the machine or its private network was about to."""


class PictureError(SurgR1Error):
    """A picture that cannot be sent: missing, or of a kind that endpoints do not read."""


@lru_cache(maxsize=64)
def host_of(url: str) -> str:
    """The host as it is connected to. Raises PolicyError on addresses that are none, that hide their host
    behind a user name, or have an IPv6 zone.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise PolicyError(f"endpoint {url!r} is not an address ({error}); nothing was sent") from error
    host = parsed.raw_host.decode("ascii")
    if parsed.scheme not in ("http", "https") or not host:
        raise PolicyError(f"endpoint {url!r} is no http or https address with a host; nothing was sent")
    if parsed.userinfo:
        raise PolicyError(
            f"endpoint on {host}: its address holds a user name or password; leave it out (a key is given by"
            " its environment variable)"
        )
    if "%" in host:
        raise PolicyError(
            f"endpoint {url!r}: an IPv6 zone is link-local, which is not near; nothing was sent"
        )
    return host


def near_addresses(url: str) -> tuple[str, ...]:
    """The addresses of the endpoint's host now, in the order to try them; none if one of them is not near.
    Raises PolicyError when the host does not resolve.
    """
    host = host_of(url)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PolicyError(f"endpoint {url!r}: {host} does not resolve ({error}); nothing was sent") from error
    addresses = [_address(str(info[4][0])) for info in found]
    if not all(any(a in n for n in _NEAR) for a in addresses):
        return ()
    return tuple(dict.fromkeys(map(str, addresses)))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    # ::ffff:8.8.8.8 is 8.8.8.8.
    return getattr(address, "ipv4_mapped", None) or address


def is_local(base_url: str) -> bool:
    """Whether the endpoint is near by all its addresses. A name that looks local is not enough."""
    return bool(near_addresses(base_url))


def check_policy(policy: str, base_url: str) -> None:
    """Raise PolicyError when data of this policy may not go to this endpoint."""
    if policy not in _MAY_LEAVE and not is_local(base_url):
        raise PolicyError(
            f"{policy} data may not be sent to {base_url}: it is not on this machine or a private network;"
            " use a local model"
        )


def chat_messages(
    policy: str, base_url: str, *, prompt: str, pictures: "Sequence[Path | Image]", system: str = ""
) -> list[dict[str, Any]]:
    """Text and pictures as a chat request's messages: the one place where data becomes a request. Raises
    PolicyError before a byte is read, PictureError.
    """
    check_policy(policy, base_url)
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": _data_url(picture)}} for picture in pictures
    ]
    content.append({"type": "text", "text": prompt})
    turn = {"role": "user", "content": content}
    return [{"role": "system", "content": system}, turn] if system else [turn]


def response_input(
    policy: str, base_url: str, *, prompt: str, pictures: "Sequence[Path | Image]"
) -> list[dict[str, Any]]:
    """The same as the Responses API's `input`, which has its system turn elsewhere (`instructions`). Raises
    PolicyError before a byte is read, PictureError.
    """
    check_policy(policy, base_url)
    content: list[dict[str, Any]] = [
        {"type": "input_image", "image_url": _data_url(picture)} for picture in pictures
    ]
    content.append({"type": "input_text", "text": prompt})
    return [{"role": "user", "content": content}]


def _data_url(picture: "Path | Image") -> str:
    kind, data = _encoded(picture)
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _encoded(picture: "Path | Image") -> tuple[str, bytes]:
    """MIME type (by content, whatever the name says) and bytes."""
    if not isinstance(picture, Path):
        png = io.BytesIO()
        picture.save(png, "PNG")
        return "image/png", png.getvalue()
    try:
        data = picture.read_bytes()
    except OSError as error:
        raise PictureError(
            f"picture {picture} cannot be read ({error}); prepare the pictures again"
        ) from error
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp", data
    for start, kind in _KINDS.items():
        if data.startswith(start):
            return kind, data
    raise PictureError(f"picture {picture} is no PNG, JPEG, WebP or GIF, which endpoints read; convert it")


def _stays_near(policy: str, base_url: str) -> bool:
    """Whether a request takes the pinned client: always when its data must stay, and when the endpoint is
    near anyway (a proxy in the environment is meant for what is outside).
    """
    if policy not in _MAY_LEAVE:
        return True
    try:
        return is_local(base_url)
    except PolicyError:
        # Behind a company's proxy, names outside may resolve at the proxy alone.
        return False


class Door:
    """The connections to one endpoint. Data that must stay near goes to near addresses only, pinned, past
    every proxy; what may leave for a remote endpoint uses the proxies of the environment. Nobody follows
    redirects.
    """

    def __init__(self, base_url: str, *, timeout_s: float) -> None:
        host_of(base_url)
        self._base_url, self._timeout = base_url, timeout_s
        self._clients: dict[bool, httpx.Client] = {}
        self._lock = threading.Lock()

    def client(self, policy: str) -> httpx.Client:
        """The client for data of this policy."""
        near = _stays_near(policy, self._base_url)
        with self._lock:
            if near not in self._clients:
                # The other one only when it is needed: a proxy of the environment may be of no use to httpx.
                self._clients[near] = (
                    httpx.Client(transport=_Pinned(), trust_env=False, timeout=self._timeout)
                    if near
                    else httpx.Client(verify=_certificates(), timeout=self._timeout)
                )
        return self._clients[near]

    def close(self) -> None:
        """End the connections."""
        for client in self._clients.values():
            client.close()


class AsyncDoor:
    """The same for asyncio, with at most `connections` of either kind and no time limits of its own."""

    def __init__(self, base_url: str, *, connections: int) -> None:
        host_of(base_url)
        self._base_url = base_url
        self._limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._clients: dict[bool, httpx.AsyncClient] = {}

    async def prepared(self, policy: str, prepare: Callable[[], T]) -> tuple[httpx.AsyncClient, T]:
        """The client for data of this policy, and what `prepare` makes of the data. In a thread where the
        host's name must be resolved for it, which may take long; a change of threads takes longer than the
        rest.
        """

        def judged() -> tuple[bool, T]:
            return _stays_near(policy, self._base_url), prepare()

        near, content = judged() if _is_number(host_of(self._base_url)) else await asyncio.to_thread(judged)
        if near not in self._clients:
            self._clients[near] = (
                httpx.AsyncClient(transport=_AsyncPinned(self._limits), trust_env=False, timeout=None)
                if near
                else httpx.AsyncClient(verify=_certificates(), limits=self._limits, timeout=None)
            )
        return self._clients[near], content

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        for client in self._clients.values():
            await client.aclose()


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """Whom to trust, SSL_CERT_FILE and SSL_CERT_DIR included. Reading them takes longer than a request."""
    return httpx.create_ssl_context()


def _aimed(request: httpx.Request) -> list[httpx.Request]:
    """The request once for each address judged near just now, to be tried in this order. The `Host` header
    and the name that a certificate must prove stay those of the endpoint.
    """
    url = f"{request.url.scheme}://{request.url.netloc.decode('ascii')}"
    host = host_of(url)
    addresses = near_addresses(url)
    if not addresses:
        raise PolicyError(
            f"{url}: its address is not on this machine or a private network (any more); nothing was sent"
        )
    return [
        httpx.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host.rstrip(".")},
        )
        for address in addresses
    ]


def _is_number(host: str) -> bool:
    """Whether the host is an address as it stands, which no name server is asked about."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _Pinned(httpx.BaseTransport):
    """Connects to an address that was judged near, never to a name."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport(
            verify=_certificates(), limits=httpx.Limits(max_connections=None), trust_env=False
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        *others, last = _aimed(request)
        for aimed in others:
            try:
                return self._inner.handle_request(aimed)
            except httpx.ConnectError:
                continue
        return self._inner.handle_request(last)

    def close(self) -> None:
        self._inner.close()


class _AsyncPinned(httpx.AsyncBaseTransport):
    """The same for asyncio."""

    def __init__(self, limits: httpx.Limits) -> None:
        self._inner = httpx.AsyncHTTPTransport(verify=_certificates(), limits=limits, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if _is_number(request.url.host):
            # Nothing to resolve, so nothing to wait for.
            *others, last = _aimed(request)
        else:
            *others, last = await asyncio.to_thread(_aimed, request)
        for aimed in others:
            try:
                return await self._inner.handle_async_request(aimed)
            except httpx.ConnectError:
                continue
        return await self._inner.handle_async_request(last)

    async def aclose(self) -> None:
        await self._inner.aclose()
