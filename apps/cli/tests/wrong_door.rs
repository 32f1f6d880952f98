//! TLS spoken to a relay that does not, and the other way round: both are told in words that help.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use common::{TestRelay, errors, run};

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
