"""Tokens of an identity provider: whom they speak for, and every way in which they do not.

Keys and certificates are made here with cryptography; the https server is a real one.
"""

import base64
import datetime
import hashlib
import hmac
import http.server
import json
import ssl
import threading
import time

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from gigafactory.blueprint import schema
from gigafactory.faults import Refused
from gigafactory.works import oidc

ISSUER, AUDIENCE = "https://id.mill.example", "gigafactory"
SECRET = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
ALGORITHM = {
    "RS256": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}


def public(name, **more):
    jwk = ALGORITHM[name].to_jwk(SECRET[name].public_key(), as_dict=True)
    return {**jwk, "kid": name, "use": "sig", **more}


def key_set(*names):
    return json.dumps({"keys": [public(name) for name in names or SECRET]})


def said(**changed):
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": time.time() + 600}
    claims |= {"firm": "lab", "role": ["member", "admin"], **changed}
    return {name: value for name, value in claims.items() if value is not None}


def token(claims=None, signs="RS256", **header):
    headers = {"kid": signs, **header}
    return jwt.encode(
        claims or said(), SECRET[signs], signs, {k: v for k, v in headers.items() if v}
    )


def raw(header, claims, signature=b""):
    """A token as an attacker writes it, by hand."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def door(tmp_path, text=None, clock=time.monotonic, **more):
    file = tmp_path / "jwks.json"
    file.write_text(key_set() if text is None else text)
    asked = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": str(file)}
    asked |= {"tenant_claim": "firm", "role_claim": "role", **more}
    return oidc.Oidc(schema.Oidc(**asked), clock)


def claims_of(one, at):
    return at.claims(one, hashlib.sha256(one.encode()).hexdigest())


def until(true, within_s=60.0):
    ends_s = time.monotonic() + within_s
    while not true() and time.monotonic() < ends_s:
        time.sleep(0.01)
    return true()


@pytest.mark.parametrize("signs", SECRET)
def test_a_token_that_a_key_of_the_set_signed_says_who_what_and_until_when(tmp_path, signs):
    exp = int(time.time()) + 600
    found = claims_of(token(said(exp=exp), signs), door(tmp_path))
    assert (found.user, found.tenant, found.roles) == ("ada", "lab", ("member", "admin"))
    assert found.expires_unix_s == exp + oidc.LEEWAY_S
    assert found.key.startswith("oidc-")
    assert "ada" not in found.key


def test_one_role_may_be_said_without_a_list_and_an_audience_among_others(tmp_path):
    found = claims_of(token(said(role="viewer", aud=["other", AUDIENCE])), door(tmp_path))
    assert found.roles == ("viewer",)


def test_claims_that_nobody_asked_for_say_nothing(tmp_path):
    found = claims_of(token(), door(tmp_path, tenant_claim=None, role_claim=None))
    assert (found.tenant, found.roles) == (None, ())


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://id.other.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": 9_999_999_999},
        {"iat": 9_999_999_999},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a b"},
        {"sub": "a" * 256},
        {"sub": "á"},
    ],
    ids=str,
)
def test_a_token_with_one_claim_wrong_is_nobodys(tmp_path, wrong):
    at = door(tmp_path)
    assert claims_of(token(said(**wrong)), at) is None
    assert claims_of(token(said()), at) is not None


def test_two_clocks_may_differ_by_the_leeway_and_no_more(tmp_path):
    at, now = door(tmp_path), time.time()
    assert oidc.LEEWAY_S == 30
    assert claims_of(token(said(exp=now - oidc.LEEWAY_S + 10)), at)
    assert claims_of(token(said(exp=now - oidc.LEEWAY_S - 10)), at) is None
    assert claims_of(token(said(nbf=now + oidc.LEEWAY_S - 10)), at)
    assert claims_of(token(said(nbf=now + oidc.LEEWAY_S + 10)), at) is None


def test_a_token_that_says_it_needs_no_signature_is_nobodys(tmp_path):
    at = door(tmp_path)
    for none in ("none", "None", "NONE", "nOnE"):
        assert claims_of(raw({"alg": none, "kid": "RS256"}, said()), at) is None
    signed = token()
    assert claims_of(signed.rsplit(".", 1)[0] + ".", at) is None


def test_a_public_key_is_no_hmac_secret(tmp_path):
    at = door(tmp_path)
    public_key = SECRET["RS256"].public_key()
    for encoding, form in (
        (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
        (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    ):
        secret = public_key.public_bytes(encoding, form)
        head = raw({"alg": "HS256", "kid": "RS256"}, said()).rsplit(".", 1)[0]
        mac = hmac.new(secret, head.encode(), hashlib.sha256).digest()
        forged = f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
        assert jwt.get_unverified_header(forged)["alg"] == "HS256"
        assert claims_of(forged, at) is None


def test_the_key_says_the_algorithm_and_not_the_token(tmp_path):
    at = door(tmp_path)
    assert claims_of(token(signs="ES256", kid="RS256"), at) is None
    assert claims_of(token(signs="EdDSA", kid="ES256"), at) is None
    for stronger in ("RS384", "RS512", "PS256"):
        made = jwt.encode(said(), SECRET["RS256"], stronger, {"kid": "RS256"})
        assert claims_of(made, at) is None


def test_a_key_in_the_header_is_not_asked(tmp_path):
    at = door(tmp_path)
    thiefs = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(thiefs.public_key(), as_dict=True)
    for lure in ({"jwk": jwk}, {"jku": "https://thief.example/jwks"}, {"x5u": "https://t.example"}):
        for kid in ("RS256", "thief"):
            forged = jwt.encode(said(), thiefs, "RS256", {"kid": kid, **lure})
            assert claims_of(forged, at) is None


def test_a_token_without_a_key_id_or_with_a_condition_is_nobodys(tmp_path):
    at = door(tmp_path)
    assert claims_of(jwt.encode(said(), SECRET["RS256"], "RS256"), at) is None
    assert claims_of(token(crit=["b64"], b64=False), at) is None
    assert claims_of(token(crit=["exp"]), at) is None


def test_a_token_changed_by_one_character_is_nobodys(tmp_path):
    at, good = door(tmp_path), token()
    for place in range(0, len(good) - 4, 7):
        other = "A" if good[place] != "A" else "B"
        assert claims_of(good[:place] + other + good[place + 1 :], at) is None
    assert claims_of(good, at) is not None


def test_what_is_huge_deep_or_nonsense_is_nobodys_and_breaks_nothing(tmp_path):
    at = door(tmp_path)
    assert claims_of(token(said(more="x" * oidc.TOKEN_CHARS_MAX)), at) is None
    deep = base64.urlsafe_b64encode(b"[" * 6000).rstrip(b"=").decode()
    assert len(deep) + 4 < oidc.TOKEN_CHARS_MAX
    for nonsense in (f"{deep}.e30.", "..", "a.b.c", "e30.e30.e30", f"{deep}.{deep}.", "\0.\0.\0"):
        assert claims_of(nonsense, at) is None
    for header in ({}, [], 7, {"alg": "RS256", "kid": 7}, {"alg": "RS256", "kid": ["RS256"]}):
        assert claims_of(raw(header, said()), at) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4).map(".".join))
def test_no_text_breaks_the_door(text):
    at = object.__new__(oidc.Oidc)
    at._settings = schema.Oidc(issuer=ISSUER, audience=AUDIENCE, jwks="unused")
    at._clock, at._tried_s, at._reading = time.monotonic, time.monotonic(), threading.Lock()
    at._set = oidc._KeySet(oidc.keys_of(key_set("EdDSA").encode()), time.monotonic())
    assert at.claims(text, "digest") is None


def test_only_public_signing_keys_that_are_strong_enough_are_taken():
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
    secret = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(SECRET["ES256"]))
    wide = ec.generate_private_key(ec.SECP384R1()).public_key()
    unfit = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256"},
        {**jwt.algorithms.RSAAlgorithm.to_jwk(weak, as_dict=True), "kid": "weak"},
        {**jwt.algorithms.ECAlgorithm.to_jwk(wide, as_dict=True), "kid": "wide"},
        {**secret, "kid": "published secret"},
        public("ES256", use="enc", kid="to encrypt"),
        public("RS256", alg="RS512", kid="other"),
        public("RS256", alg="none", kid="none"),
        {"kty": ["RSA"], "crv": {}, "kid": "odd"},
        {"kty": "RSA", "kid": "empty"},
        {key: value for key, value in public("RS256").items() if key != "kid"},
        "no key",
    ]
    kept = oidc.keys_of(json.dumps({"keys": [*unfit, public("ES256")]}).encode())
    assert {kid: algorithm for kid, (algorithm, _) in kept.items()} == {"ES256": "ES256"}
    large = key_set() + " " * oidc.KEY_SET_BYTES_MAX
    for nothing in (json.dumps({"keys": unfit}), "{}", "[]", '{"keys": 7}', "no json", large):
        with pytest.raises(ValueError):
            oidc.keys_of(nothing.encode())


def test_a_file_that_is_no_key_set_is_refused_at_the_start(tmp_path):
    with pytest.raises(Refused, match="key set cannot be read"):
        door(tmp_path, text="{}")


def test_an_unknown_key_has_the_set_read_again_and_at_most_once_a_minute(tmp_path, monkeypatch):
    now_s = [1000.0]
    at = door(tmp_path, key_set("RS256"), clock=lambda: now_s[0])
    reads = []
    inner = at._read_file

    def counted():
        read = inner()
        reads.append(now_s[0])
        return read

    monkeypatch.setattr(at, "_read_file", counted)
    assert claims_of(token(signs="ES256"), at) is None  # rotated, and not told yet
    assert until(lambda: len(reads) == 1)
    (tmp_path / "jwks.json").write_text(key_set("ES256"))
    for n in range(50):
        assert claims_of(token(signs="ES256", kid=f"made-up-{n}"), at) is None
    time.sleep(0.05)
    assert len(reads) == 1
    now_s[0] += oidc.REFRESH_S_MIN
    assert until(lambda: claims_of(token(signs="ES256"), at) is not None)
    assert len(reads) == 2


def test_a_token_is_believed_no_longer_than_its_key(tmp_path):
    now_s = [1000.0]
    at = door(tmp_path, key_set("RS256"), clock=lambda: now_s[0])
    one = token()
    assert claims_of(one, at) is claims_of(one, at)  # read once
    (tmp_path / "jwks.json").write_text(key_set("ES256"))
    now_s[0] += oidc.FRESH_S + 1
    assert until(lambda: claims_of(one, at) is None)
    (tmp_path / "jwks.json").unlink()  # unreadable: what is known holds for a day, then nothing
    now_s[0] += oidc.FRESH_S + 1
    assert claims_of(token(signs="ES256"), at)
    now_s[0] += oidc.STALE_S
    assert claims_of(token(signs="ES256"), at) is None


@pytest.mark.parametrize(
    ("address", "public", "internal"),
    [
        ("1.1.1.1", True, True),
        ("2606:4700::1111", True, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("10.1.2.3", False, True),
        ("192.168.1.1", False, True),
        ("100.64.0.1", False, True),
        ("fd12::1", False, True),
        ("::ffff:10.0.0.1", False, True),
        ("64:ff9b::a00:1", False, True),  # 10.0.0.1 behind NAT64
        ("64:ff9b::101:101", True, True),
        ("2002:a00:1::1", False, True),  # 10.0.0.1 behind 6to4
        ("169.254.169.254", False, False),  # where clouds give out credentials
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("fe80::1%eth0", False, False),
        ("224.0.0.1", False, False),
        ("0.0.0.0", False, False),
        ("::", False, False),
    ],
)
def test_which_machines_may_be_asked_for_keys(address, public, internal):
    assert oidc.may_ask(address, internal=False) is public
    assert oidc.may_ask(address, internal=True) is internal


class Provider:
    """An https server on the loopback, with a certificate of its own authority."""

    def __init__(self, folder, name="localhost"):
        secret = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(secret.public_key())
            .serial_number(1)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(secret, hashes.SHA256())
        )
        self.pem = folder / f"{name}.pem"
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        self.pem.write_bytes(
            secret.private_bytes(pem, pkcs8, serialization.NoEncryption())
            + certificate.public_bytes(pem)
        )
        self.asked, self.answers = [], {}
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                provider.asked.append((self.path, self.headers["Host"]))
                provider.answers[self.path](self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]

    def url(self, path, host="localhost"):
        return f"https://{host}:{self.port}{path}"


def answer(body, status=200, **headers):
    def write(handler):
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return write


@pytest.fixture
def provider(tmp_path, monkeypatch):
    made = Provider(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.pem))
    for proxy in ("HTTPS_PROXY", "ALL_PROXY"):  # which would be sent what we ask, and is not
        monkeypatch.setenv(proxy, "http://127.0.0.1:1")
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_keys_come_from_an_https_address_inside_only_where_the_blueprint_says_so(
    tmp_path, provider
):
    provider.answers["/jwks"] = answer(key_set("EdDSA").encode())
    at = door(tmp_path, jwks=provider.url("/jwks"), internal=True)
    assert until(lambda: claims_of(token(signs="EdDSA"), at) is not None)
    assert provider.asked == [("/jwks", f"localhost:{provider.port}")]
    with pytest.raises(OSError, match="not public"):
        oidc.fetch(provider.url("/jwks"), internal=False)
    assert len(provider.asked) == 1  # not even asked


def test_the_machine_that_was_looked_up_is_the_one_that_is_asked(provider, monkeypatch):
    """DNS that answers otherwise the second time (rebinding) is never asked a second time."""
    import socket

    looked_up = []
    inner = socket.getaddrinfo

    def lookup(host, *rest, **more):
        looked_up.append(host)
        return inner("127.0.0.1" if looked_up.count(host) == 1 else "127.0.0.99", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    provider.answers["/jwks"] = answer(b"keys")
    assert oidc.fetch(provider.url("/jwks"), internal=True) == b"keys"
    assert [host for host in looked_up if host in ("localhost", b"localhost")] == looked_up[:1]


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch):
    import socket

    def lookup(*_, **__):
        return [(socket.AF_INET, 1, 6, "", (ip, 443)) for ip in ("1.1.1.1", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(OSError, match=r"10\.0\.0\.1, which is not public"):
        oidc.fetch("https://id.mill.example/jwks", internal=False)


def test_a_redirect_is_not_followed_and_an_answer_has_a_size_and_a_time(provider, monkeypatch):
    provider.answers["/to"] = answer(b"", 302, Location=provider.url("/jwks"))
    provider.answers["/large"] = answer(b"x" * (oidc.KEY_SET_BYTES_MAX + 1))

    def drip(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b" ")
            time.sleep(0.05)

    provider.answers["/slow"] = drip
    with pytest.raises(OSError, match="302"):
        oidc.fetch(provider.url("/to"), internal=True)
    with pytest.raises(OSError, match="larger"):
        oidc.fetch(provider.url("/large"), internal=True)
    monkeypatch.setattr(oidc, "FETCH_S_MAX", 0.5)
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        oidc.fetch(provider.url("/slow"), internal=True)
    assert time.monotonic() - began_s < 30  # and the whole answer takes 50
    assert "/jwks" not in [path for path, _ in provider.asked]


def test_a_certificate_must_be_the_hosts_and_of_a_known_authority(tmp_path, provider, monkeypatch):
    other = Provider(tmp_path, "other.example")
    other.answers["/jwks"] = answer(b"keys")
    with pytest.raises(Exception, match="certificate"):
        oidc.fetch(other.url("/jwks"), internal=True)  # an authority that nobody knows
    monkeypatch.setenv("SSL_CERT_FILE", str(other.pem))
    with pytest.raises(Exception, match=r"[Hh]ostname mismatch|not valid for"):
        oidc.fetch(other.url("/jwks"), internal=True)
    assert other.asked == []
    other.server.shutdown()
    other.server.server_close()


def test_a_provider_that_cannot_be_reached_shuts_nobody_in_or_out_but_its_own(tmp_path):
    at = door(tmp_path, jwks="https://127.0.0.1:1/jwks", internal=True)
    began_s = time.monotonic()
    assert claims_of(token(), at) is None
    assert time.monotonic() - began_s < oidc.FETCH_S_MAX  # nobody waits for it


@pytest.mark.parametrize("address", ["http://id.example/jwks", "file:///etc/keys", "ftp://x/y"])
def test_keys_come_from_a_file_or_over_https_and_from_nowhere_else(address):
    with pytest.raises(ValueError, match="jwks"):
        schema.Oidc(issuer=ISSUER, audience=AUDIENCE, jwks=address)
    with pytest.raises(OSError, match="https"):
        oidc.fetch(address, internal=True)
