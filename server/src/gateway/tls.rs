//! TLS from certificate files.
//!
//! Owns the certificate that new connections get, and when it is read again: certificates are renewed every
//! few weeks, by a program that knows nothing of the relay.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::config::Tls;

/// The certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not PEM.
    #[error("{0} cannot be read as PEM: {1}")]
    Pem(PathBuf, rustls_pki_types::pem::Error),
    /// A file without a certificate.
    #[error("{0} holds no certificate")]
    Empty(PathBuf),
    /// The key does not fit, or its kind is not known.
    #[error("the TLS certificate cannot be used: {0}")]
    Unusable(rustls::Error),
}

/// The relay's certificate, as its files had it when they were last good.
#[derive(Debug)]
pub(crate) struct Certificates {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// How the files looked when they were last read, with whatever success.
    seen: [Option<Look>; 2],
}

/// By what one notices that a file has changed: device, inode, length, and when it was written.
type Look = (u64, u64, u64, i64, i64);

impl Certificates {
    /// Reads the files that are configured. `None`: no TLS.
    pub(crate) fn load(tls: &Tls) -> Result<Option<Arc<Self>>, TlsError> {
        let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else { return Ok(None) };
        let seen = [look(certificate), look(key)];
        let config = read(certificate, key)?;
        let current = Mutex::new(Current { config, seen });
        Ok(Some(Arc::new(Self { certificate: certificate.clone(), key: key.clone(), current })))
    }

    /// For a new connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config())
    }

    /// What is in use.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.current.lock().config.clone()
    }

    /// Reads the files again if they have changed since they were last read.
    pub(crate) fn refresh(&self) {
        if self.current.lock().seen != [look(&self.certificate), look(&self.key)] {
            self.reload();
        }
    }

    /// Reads the files again. What cannot be used is logged, and changes nothing.
    pub(crate) fn reload(&self) {
        // Looked at first: a change while they are read is one that the next look finds.
        let seen = [look(&self.certificate), look(&self.key)];
        let read = read(&self.certificate, &self.key);
        let mut current = self.current.lock();
        current.seen = seen;
        match read {
            Ok(config) => {
                current.config = config;
                tracing::info!("the TLS certificate was read again");
            }
            Err(error) => tracing::error!(
                "the changed TLS certificate is not taken, and the former stays in use: {error}; put right the files that \
                 tls.certificate and tls.key name (`posthorn-server check-config` looks at them), and they are read again"
            ),
        }
    }
}

/// `None` if the file cannot be looked at.
fn look(path: &Path) -> Option<Look> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

/// This certificate chain and key, for TLS 1.2 and 1.3.
fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |path: &Path, error| TlsError::Pem(path.to_owned(), error);
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| pem(certificate, error))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(certificate.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
