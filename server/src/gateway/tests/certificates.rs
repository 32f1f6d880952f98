//! Certificates that are renewed under a running relay.

use std::fs;
use std::path::Path;

use posthorn_proto::frame::{Request, ServerBody};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::TcpStream;

use super::sockets::{Wire, encrypted, relay, tls_file};
use crate::config::Tls;
use crate::gateway::Certificates;
use crate::relay::Relay;

/// Puts a certificate and a key where the relay looks for them.
fn put(folder: &Path, certificate: &str, key: &str) {
    for (from, to) in [(certificate, "certificate.pem"), (key, "key.pem")] {
        fs::copy(tls_file(from), folder.join(to)).expect("copied");
    }
}

fn tls(folder: &Path) -> Tls {
    Tls { certificate: Some(folder.join("certificate.pem")), key: Some(folder.join("key.pem")) }
}

/// Whether a new connection gets this certificate.
async fn presents(relay: &Relay, name: &str) -> bool {
    let stream = encrypted(TcpStream::connect(relay.address()).await.expect("connected")).await;
    let (_, session) = stream.get_ref();
    let expected = CertificateDer::from_pem_file(tls_file(name)).expect("PEM");
    session.peer_certificates().expect("it has one").first() == Some(&expected)
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_and_a_bad_one_is_not() {
    let folder = tempfile::tempdir().expect("temporary folder");
    put(folder.path(), "certificate.pem", "key.pem");
    let relay = relay(|config| config.tls = tls(folder.path())).await;
    assert!(presents(&relay, "certificate.pem").await);
    let stream = encrypted(TcpStream::connect(relay.address()).await.expect("connected")).await;
    let (mut early, _) = Wire::over(stream, &[]).await.expect("upgraded");

    // Half renewed: the key does not fit yet.
    put(folder.path(), "renewed.pem", "key.pem");
    relay.reload().await;
    assert!(presents(&relay, "certificate.pem").await, "the former stays");
    fs::write(folder.path().join("certificate.pem"), "no PEM").expect("written");
    relay.reload().await;
    assert!(presents(&relay, "certificate.pem").await);
    fs::remove_file(folder.path().join("key.pem")).expect("removed");
    relay.reload().await;
    assert!(presents(&relay, "certificate.pem").await);

    put(folder.path(), "renewed.pem", "renewed-key.pem");
    relay.reload().await;
    assert!(presents(&relay, "renewed.pem").await);
    assert_eq!(early.ask(Request::Ping).await, ServerBody::Done, "who was connected stays so");
}

#[test]
fn files_are_read_again_when_they_change() {
    let folder = tempfile::tempdir().expect("temporary folder");
    put(folder.path(), "certificate.pem", "key.pem");
    let certificates = Certificates::load(&tls(folder.path())).expect("good").expect("configured");
    let first = certificates.config();
    certificates.refresh();
    assert!(std::sync::Arc::ptr_eq(&first, &certificates.config()), "nothing has changed");
    put(folder.path(), "renewed.pem", "key.pem");
    certificates.refresh();
    assert!(std::sync::Arc::ptr_eq(&first, &certificates.config()), "the key does not fit");
    // As Let's Encrypt's client does it: the name leads to another file.
    fs::rename(folder.path().join("key.pem"), folder.path().join("old.pem")).expect("renamed");
    fs::copy(tls_file("renewed-key.pem"), folder.path().join("new.pem")).expect("copied");
    std::os::unix::fs::symlink(folder.path().join("new.pem"), folder.path().join("key.pem")).expect("linked");
    certificates.refresh();
    assert!(!std::sync::Arc::ptr_eq(&first, &certificates.config()), "both are there");
}
