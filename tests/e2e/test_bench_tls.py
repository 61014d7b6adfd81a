"""ringfence-bench over TLS, against redis-server and memcached with certificates that the test has made."""

import subprocess

import pytest

from bench import Memcached, Redis, assert_refused, bench, counted


def openssl(folder, *arguments):
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trust(tmp_path_factory):
    """A folder with an authority (ca.pem) and a certificate for this host that it has signed (host.pem, host.key)."""
    folder = tmp_path_factory.mktemp("trust")
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(folder, *new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test authority")
    openssl(folder, *new, "-keyout", "host.key", "-out", "host.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    sign = ["x509", "-req", "-in", "host.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
    openssl(folder, *sign, "-out", "host.pem", "-extfile", "names")
    return folder


class TlsRedis(Redis):
    """redis-server that speaks TLS alone, and asks clients for a certificate."""

    def command(self, trust):
        plain = super().command()
        plain[plain.index("--port") : plain.index("--port") + 2] = ["--port", "0", "--tls-port", str(self.port)]
        files = ["--tls-cert-file", "host.pem", "--tls-key-file", "host.key", "--tls-ca-cert-file", "ca.pem"]
        return plain + [str(trust / word) if word.endswith((".pem", ".key")) else word for word in files]


@pytest.fixture(scope="module")
def server(trust, tmp_path_factory):
    with TlsRedis(tmp_path_factory.mktemp("redis"), trust) as server:
        yield server


def known(trust):
    return ["--tls", "--tls-ca", trust / "ca.pem", "--tls-cert", trust / "host.pem", "--tls-key", trust / "host.key"]


@pytest.mark.parametrize("protocol", ["resp2", "resp3"])
def test_requests_and_replies_of_every_size_pass(server, trust, protocol):
    """From less than a record of TLS to several of them."""
    done = counted(
        "--target", f"127.0.0.1:{server.port}", "--protocol", protocol, *known(trust), "--closed", "--pipeline", "8",
        "--requests", "5000", "--keys", "200", "--mix", "get=4,set=3,delete=1,mget=1", "--value-size", "1-60000",
    )
    assert (done.counts["answered"], done.counts["violations"], done.counts["errors"]) == (5000, 0, 0)
    assert done.counts["hits"] > 1000


def test_connections_are_replaced(server, trust):
    done = counted(
        "--target", f"localhost:{server.port}", *known(trust), "--closed", "--connections", "5", "--reconnect", "10",
        "--requests", "500", "--keys", "50",
    )
    assert done.counts["answered"] == done.counts["sent"] == 500
    assert done.counts["connects"] >= 40


def test_memcached(trust, tmp_path):
    options = ["-Z", "-o", f"ssl_chain_cert={trust / 'host.pem'},ssl_key={trust / 'host.key'}"]
    with Memcached(tmp_path, *options) as server:
        done = counted(
            "--target", f"127.0.0.1:{server.port}", "--protocol", "memcache-meta", "--tls", "--tls-insecure",
            "--closed", "--requests", "2000", "--keys", "100",
        )
    assert (done.counts["answered"], done.counts["violations"], done.counts["errors"]) == (2000, 0, 0)


def test_what_cannot_be_trusted_is_refused(server, trust, tmp_path):
    target = ["--target", f"127.0.0.1:{server.port}", "--timeout", "1s"]
    other = tmp_path / "other.pem"
    make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl(tmp_path, *make, "-keyout", "other.key", "-out", "other.pem", "-subj", "/CN=somebody else")
    identity = ["--tls-cert", trust / "host.pem", "--tls-key", trust / "host.key"]
    assert_refused(bench(*target, "--tls", *identity), "--tls-ca FILE", "--tls-insecure")
    assert_refused(bench(*target, "--tls", "--tls-ca", other, *identity), "cannot be trusted", "UnknownIssuer")
    assert_refused(bench(*target, "--tls", "--tls-ca", trust / "ca.pem"), "CertificateRequired")
    assert_refused(bench(*target, "--tls", "--tls-ca", trust / "host.key"), "--tls-ca", "no certificate")
    assert_refused(bench(*target, "--tls", "--tls-ca", trust / "missing.pem"), "--tls-ca", "No such file")
    assert_refused(bench(*target), "does it want --tls")


def test_tls_to_a_server_without_it_is_refused(tmp_path):
    with Redis(tmp_path) as plain:
        done = bench("--target", f"127.0.0.1:{plain.port}", "--tls", "--tls-insecure", "--timeout", "500ms")
        assert_refused(done, f"127.0.0.1:{plain.port}", "--protocol")
