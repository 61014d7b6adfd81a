//! TLS to the server: which certificates are trusted, and a session for each
//! connection. Bytes go in and come out; there are no sockets here.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// How to trust, and who to be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Certificates that may have signed the server's.
    pub ca: Option<PathBuf>,
    /// Whether any certificate will do.
    pub insecure: bool,
    /// A certificate of our own and its key, for servers that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What all connections to one server have in common.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// For the server called `host`.
    ///
    /// # Errors
    /// One line: an option, and what is wrong with its file.
    pub fn new(options: &Options, host: &str) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("--tls: {error}"))?;
        let builder = match &options.ca {
            Some(ca) => builder.with_root_certificates(roots(ca)?),
            None if options.insecure => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnybody(provider)))
            }
            None => return Err("--tls: give --tls-ca FILE with the certificate to trust, or --tls-insecure".into()),
        };
        let config = match &options.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates("--tls-cert", certificate)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("--tls-key: {}: {error}: give a private key in PEM", key.display()))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| format!("--tls-cert: {error}"))?
            }
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|error| format!("--target: {error}: TLS needs a host's name"))?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// The client's side of a new connection.
    ///
    /// # Errors
    /// As the library says.
    pub fn connect(&self) -> Result<ClientConnection, rustls::Error> {
        let mut connection = ClientConnection::new(self.config.clone(), self.name.clone())?;
        // Requests may wait for the end of the handshake, however many there are.
        connection.set_buffer_limit(None);
        Ok(connection)
    }
}

fn certificates(option: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: rustls::pki_types::pem::Error| {
        format!("{option}: {}: {error}: give certificates in PEM", file.display())
    };
    let found: Vec<_> = CertificateDer::pem_file_iter(file).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if found.is_empty() {
        return Err(format!("{option}: {} has no certificate in it: give one in PEM", file.display()));
    }
    Ok(found)
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("--tls-ca", file)? {
        store.add(certificate).map_err(|error| format!("--tls-ca: {}: {error}", file.display()))?;
    }
    Ok(store)
}

/// One connection's session.
#[derive(Debug)]
pub struct Session {
    connection: ClientConnection,
}

impl Session {
    /// The session of a connection that begins.
    ///
    /// # Errors
    /// One line.
    pub fn new(tls: &Tls) -> Result<Self, String> {
        tls.connect().map(|connection| Self { connection }).map_err(|error| error.to_string())
    }

    /// Whether both sides have agreed on keys.
    pub fn is_established(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// Whether there is something to send that nobody asked for: a part of the handshake.
    pub fn has_to_say(&self) -> bool {
        self.connection.wants_write()
    }

    /// Seals `plain`, and what the session has to say by itself, into `sealed`.
    ///
    /// # Errors
    /// As the library says.
    pub fn seal(&mut self, plain: &[u8], sealed: &mut Vec<u8>) -> Result<(), String> {
        let written = self.connection.writer().write_all(plain);
        written.map_err(|error| error.to_string())?;
        while self.connection.wants_write() {
            self.connection.write_tls(sealed).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Takes bytes off the front of `sealed`, and appends to `plain` what they unseal to.
    ///
    /// # Errors
    /// They are no TLS, or not from somebody to be trusted.
    pub fn unseal(&mut self, sealed: &mut &[u8], plain: &mut Vec<u8>) -> Result<(), String> {
        self.connection.read_tls(sealed).map_err(|error| error.to_string())?;
        let state = self.connection.process_new_packets().map_err(|error| error.to_string())?;
        let waiting = state.plaintext_bytes_to_read() as u64;
        self.connection.reader().take(waiting).read_to_end(plain).map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// Accepts every certificate: for servers whose certificate nobody signed.
#[derive(Debug)]
struct TrustAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _server: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
