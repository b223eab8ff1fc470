"""OpenID Connect: for whom a token of the firm's own identity provider speaks.

Believed is a JWT that a key of the blueprint's key set has signed, with the algorithm that the
*key* is for: what the token says of its algorithm or key (`none`, HMAC with a public key, `jwk`,
`jku`) counts for nothing. Issuer, audience, time and subject must be right. Whatever is wrong,
the answer is None, and nobody is told what.

The key set comes from a file or an https address, read in a thread: at the start, hourly, and
when a token names an unknown key. Sources: RFC 7519, RFC 7517, RFC 8725 (best practices).
"""

import asyncio
import hashlib
import ipaddress
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigafactory.blueprint import schema
from gigafactory.faults import Fault, Refused

log = logging.getLogger(__name__)

TOKEN_CHARS_MAX = 8192
LEEWAY_S = 30.0  # two clocks differ
REFRESH_S_MIN = 60.0  # strangers may name unknown keys as often as they like
FRESH_S, STALE_S = 3600.0, 86_400.0  # a key set is read again; is believed no more
FETCH_S_MAX = 5.0
KEY_SET_BYTES_MAX = 256 * 1024
KEYS_MAX, BELIEVED_MAX = 100, 10_000
RSA_BITS_MIN = 2048  # NIST SP 800-131A
ALGORITHMS: dict[tuple[Any, Any], str] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
USER = re.compile(r"[!-~]{1,255}")
"""A name without blanks; OpenID Connect Core, section 2, has `sub` at most so long, in ASCII."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


@dataclass(frozen=True)
class Claims:
    """What a token says that we believe. `key` names its issuer and subject in the ledger."""

    user: str
    tenant: str | None
    roles: tuple[str, ...]
    key: str
    expires_unix_s: float


@dataclass(frozen=True)
class _KeySet:
    """Keys by `kid`, each with its algorithm, and the tokens that they signed: both go at once."""

    keys: dict[str, tuple[str, Any]] = field(default_factory=dict)
    read_s: float = -math.inf
    believed: dict[str, Claims] = field(default_factory=dict)


class Oidc:
    """The tokens of one issuer; `clock` is monotonic, in s."""

    def __init__(self, settings: schema.Oidc, clock: Callable[[], float] = time.monotonic):
        self._settings, self._clock = settings, clock
        self._set = _KeySet()
        self._reading = threading.Lock()
        self._tried_s = -math.inf
        if settings.jwks.startswith("https://"):
            self._refresh()
        else:
            self._set = self._read_file()

    def claims(self, token: str, digest: str) -> Claims | None:
        """What `token` says, or None; never waits. `digest` is its hash, under which it is known.

        The caller looks at `expires_unix_s`, since a token that was believed is not read again.
        """
        known, age_s = self._set, self._clock() - self._set.read_s
        if age_s > FRESH_S:
            self._refresh()
        if age_s > STALE_S:
            return None
        return known.believed.get(digest) or self._believed(known, token, digest)

    def _believed(self, known: _KeySet, token: str, digest: str) -> Claims | None:
        import jwt

        if len(token) > TOKEN_CHARS_MAX:
            return None
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS.values() or "crit" in header:
                return None
            if header.get("kid") not in known.keys:
                self._refresh()
                return None
            algorithm, key = known.keys[header["kid"]]
            said = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            claims = self._of(said)
        # A stranger wrote it: what cannot be read, for depth or size, is not believed either.
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
            return None
        if claims is not None:
            if len(known.believed) >= BELIEVED_MAX:
                known.believed.clear()
            known.believed[digest] = claims
        return claims

    def _of(self, said: dict[str, Any]) -> Claims | None:
        if not USER.fullmatch(said["sub"]):
            return None
        tenant = said.get(self._settings.tenant_claim or "")
        roles = said.get(self._settings.role_claim or "")
        subject = hashlib.sha256(f"{said['iss']} {said['sub']}".encode()).hexdigest()
        return Claims(
            said["sub"],
            tenant if isinstance(tenant, str) else None,
            tuple(one for one in (roles if isinstance(roles, list) else [roles]) if one),
            f"oidc-{subject[:8]}",
            float(said["exp"]) + LEEWAY_S,
        )

    def _refresh(self) -> None:
        """Begin to read the key set, unless that was begun within a minute."""
        with self._reading:
            if self._clock() - self._tried_s < REFRESH_S_MIN:
                return
            self._tried_s = self._clock()
        threading.Thread(target=self._read, name="oidc", daemon=True).start()

    def _read(self) -> None:
        """Read the key set; where that fails, the one before holds until it is a day old."""
        try:
            if self._settings.jwks.startswith("https://"):
                text = fetch(self._settings.jwks, self._settings.internal)
                self._set = _KeySet(keys_of(text), self._clock())
            else:
                self._set = self._read_file()
        except Exception as error:  # network, TLS, JSON, a key: none may end the thread unsaid
            log.warning("%s: no key set: %s", self._settings.jwks, error or repr(error))

    def _read_file(self) -> _KeySet:
        path = Path(self._settings.jwks)
        try:
            return _KeySet(keys_of(path.read_bytes()), self._clock())
        except (OSError, ValueError) as error:
            raise Refused(
                Fault(
                    "the identity provider's key set cannot be read",
                    f"access.oidc.jwks, {path}",
                    str(error),
                    "save what its `jwks_uri` answers there, or give that https address",
                )
            ) from None


def keys_of(text: bytes) -> dict[str, tuple[str, Any]]:
    """Public signing keys by `kid`, each with the one algorithm it is for; others are left out.

    Raises ValueError where there is none.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from jwt import PyJWK, PyJWTError

    if len(text) > KEY_SET_BYTES_MAX:
        raise ValueError(f"it is larger than {KEY_SET_BYTES_MAX} bytes")
    tree = json.loads(text)
    listed = tree.get("keys") if isinstance(tree, dict) else None
    keys: dict[str, tuple[str, Any]] = {}
    for one in (listed if isinstance(listed, list) else [])[:KEYS_MAX]:
        if not isinstance(one, dict) or not isinstance(one.get("kid"), str) or "d" in one:
            continue  # what has a `d` is no longer a secret
        try:
            algorithm = ALGORITHMS[one.get("kty"), one.get("crv")]
            key = PyJWK(one, algorithm).key
        except (PyJWTError, UnsupportedAlgorithm, KeyError, ValueError, TypeError):
            continue
        if one.get("use", "sig") != "sig" or one.get("alg", algorithm) != algorithm:
            continue
        if algorithm != "RS256" or key.key_size >= RSA_BITS_MIN:
            keys[one["kid"]] = algorithm, key
    if not keys:
        raise ValueError(f"it holds no public key with a `kid` for {set(ALGORITHMS.values())}")
    return keys


def fetch(url: str, internal: bool) -> bytes:
    """What an https address answers, unless a machine inside is behind it. Blocks at most 5 s.

    The name is looked up once, every address of it must be public (or `internal` be set), and
    the connection goes to what was looked up: another answer of DNS a moment later changes
    nothing. The certificate must be the name's. No redirect is followed, no proxy asked.
    """
    return asyncio.run(asyncio.wait_for(_fetch(url, internal), FETCH_S_MAX))


async def _fetch(url: str, internal: bool) -> bytes:
    import socket
    import ssl

    import httpx

    at = httpx.URL(url)
    if at.scheme != "https":
        raise OSError("only https addresses are read")
    found = await asyncio.get_running_loop().getaddrinfo(
        at.host, at.port or 443, type=socket.SOCK_STREAM
    )
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    for address in addresses:
        if not may_ask(address, internal):
            raise OSError(f"{at.host} is at {address}, which is not public")
    limits: dict[str, Any] = {"trust_env": False, "follow_redirects": False}
    async with httpx.AsyncClient(verify=ssl.create_default_context(), **limits) as client:
        for address in addresses:
            try:
                return await _body(client, at, address)
            except httpx.ConnectError as error:
                failure = error
        raise failure


async def _body(client: Any, at: Any, address: str) -> bytes:
    """The body of one answer of the machine at `address`, as the host that `at` names."""
    headers = {"Host": at.netloc.decode(), "Accept-Encoding": "identity"}
    body = b""
    async with client.stream(
        "GET", at.copy_with(host=address), headers=headers, extensions={"sni_hostname": at.host}
    ) as reply:
        if reply.status_code != 200:
            raise OSError(f"it answers {reply.status_code}")
        async for piece in reply.aiter_raw():
            body += piece
            if len(body) > KEY_SET_BYTES_MAX:
                raise OSError(f"it is larger than {KEY_SET_BYTES_MAX} bytes")
    return body


def may_ask(address: str, internal: bool) -> bool:
    """Whether a machine at `address` may be asked: public, or private where that is wanted.

    An IPv4 address within an IPv6 one is judged as itself. Link-local is never asked: clouds
    give their machines' credentials out there.
    """
    ip: Any = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        inside = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None
        ip = inside or ip.ipv4_mapped or ip.sixtofour or ip
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return False
    return bool(ip.is_global or internal)
