//! TLS spoken to a relay that does not, the other way round, and certificates that are not to be trusted: all
//! are told in words that help.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{TestRelay, errors, posthorn, run};
use posthorn_server::Config;

/// The relay's own tests have a certificate that signs itself, as people make them, and another. The key is
/// that of all those here, too.
fn tls(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.join("tests/tls"), root.join("../../server/src/gateway/tests/tls")];
    folders.map(|folder| folder.join(name)).into_iter().find(|file| file.exists()).expect("a file for TLS")
}

/// Somebody registers at a relay with this certificate, under this name, and trusts another.
fn registered(certificate: &str, host: &str, trusted: &str) -> Output {
    let mut config = Config::for_tests();
    (config.tls.certificate, config.tls.key) = (Some(tls(certificate)), Some(tls("key.pem")));
    let (relay, home) = (TestRelay::with(config), tempfile::tempdir().expect("a folder"));
    let url = relay.url.replace("127.0.0.1", host);
    common::prepare(home.path());
    let register = ["register", "--relay", &url, "--handle", "alice", "--invite", &relay.invite];
    let mut command = posthorn(home.path(), &register);
    command.env_remove("SSL_CERT_DIR").env("SSL_CERT_FILE", tls(trusted));
    command.output().expect("posthorn starts")
}

#[test]
fn a_relay_without_tls_is_told() {
    let (relay, home) = (TestRelay::start(), tempfile::tempdir().expect("a folder"));
    let secure = relay.url.replace("ws://", "wss://");
    common::prepare(home.path());
    let told = errors(&run(home.path(), &["register", "--relay", &secure, "--handle", "alice"]));
    assert!(told.contains("without TLS") && told.contains(&relay.url), "{told}");
}

#[test]
fn a_relay_with_tls_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    // What a TLS server says to somebody who does not speak it: an alert.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("a connection");
            let _ = connection.read(&mut [0; 1024]);
            let _ = connection.write_all(&[0x15, 3, 3, 0, 2, 2, 0x32]);
        }
    });
    let home = tempfile::tempdir().expect("a folder");
    common::prepare(home.path());
    let told = errors(&run(home.path(), &["register", "--relay", &address.to_string(), "--handle", "alice"]));
    assert!(told.contains(&format!("wss://{address}")), "{told}");
}

/// As `docs/configuration.md` says under "A certificate of your own".
#[test]
fn a_relay_with_a_certificate_of_its_own_is_trusted_by_whoever_names_it() {
    let done = registered("certificate.pem", "localhost", "certificate.pem");
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn what_is_wrong_with_a_certificate_is_told() {
    for (certificate, host, trusted, words) in [
        ("certificate.pem", "localhost", "renewed.pem", "name its file in SSL_CERT_FILE"),
        ("certificate.pem", "127.0.0.1", "certificate.pem", "is for localhost, and not for the name"),
        ("authority.pem", "localhost", "authority.pem", "basicConstraints=CA:FALSE"),
        ("past.pem", "localhost", "past.pem", "has expired"),
        ("future.pem", "localhost", "future.pem", "is not valid yet"),
    ] {
        let refused = registered(certificate, host, trusted);
        let told = errors(&refused);
        assert!(!refused.status.success() && told.contains(words), "{certificate}, {host}: {told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    }
}
