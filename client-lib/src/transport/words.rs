//! Why a relay cannot be reached, in words that help: what the libraries below say of it is for those who
//! know them. Whoever tells it names the relay beside it.

use crate::identity::RelayUrl;

/// What is wrong with a connection to this relay, of which a library said this.
pub(super) fn why(relay: &RelayUrl, said: &str) -> String {
    let said = said.trim_start_matches("IO error: ");
    if let Some(fault) = said.strip_prefix("invalid peer certificate: ") {
        return of_certificate(fault);
    }
    match relay.as_str().split_once("://") {
        // What rustls says of an answer that is no TLS.
        // Whoever is on the way may answer so, too: beyond this machine, doing without TLS is no suggestion.
        Some(("wss", rest)) if said.contains("InvalidContentType") => {
            match RelayUrl::parse(&format!("ws://{rest}")) {
                Ok(plain) if !plain.is_exposed() => {
                    format!("it answers without TLS there; if that is meant, its address is {plain}")
                }
                _ => "it answers without TLS there: ask whoever runs it for its address".to_owned(),
            }
        }
        // What the HTTP parser says of an answer that is TLS.
        Some(("ws", rest)) if said.contains("httparse") => {
            format!("it does not speak HTTP there; with TLS its address is wss://{rest}")
        }
        // The operating system's number for it tells people nothing.
        _ => said.split(" (os error").next().unwrap_or(said).to_owned(),
    }
}

/// What rustls finds wrong with a certificate, and what that needs.
fn of_certificate(fault: &str) -> String {
    if let Some((_, names)) = fault.split_once("is only valid for ") {
        let mut names = names.to_owned();
        for frame in ["DnsName(\"", "IpAddress(", "\")", ")"] {
            names = names.replace(frame, "");
        }
        return format!("its certificate is for {names}, and not for the name in this address");
    }
    let words = match fault {
        _ if fault.contains("CaUsedAsEndEntity") => {
            "its certificate is that of an authority, which is none for a relay: whoever runs it makes one with \
             basicConstraints=CA:FALSE"
        }
        // A self-signed one whose name is also that of an authority is taken for a forgery of it.
        "UnknownIssuer" | "BadSignature" => {
            "nobody whom this machine trusts has signed its certificate; if it is your own, name its file in \
             SSL_CERT_FILE"
        }
        _ if fault.starts_with("certificate expired") => {
            "its certificate has expired, or the clock of this machine is ahead"
        }
        _ if fault.starts_with("certificate not valid yet") => {
            "its certificate is not valid yet, or the clock of this machine is behind"
        }
        _ => return format!("its certificate is refused: {fault}"),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_in_words() {
        let at = |relay: &str, said: &str| why(&RelayUrl::parse(relay).expect("a URL"), said);
        assert_eq!(at("ws://h:1", "IO error: Connection refused (os error 111)"), "Connection refused");
        let unknown = at("wss://h:1", "IO error: invalid peer certificate: UnknownIssuer");
        assert!(unknown.contains("SSL_CERT_FILE"), "{unknown}");
        let name = "invalid peer certificate: certificate not valid for name \"h\"; certificate is only valid \
                    for DnsName(\"relay.example\")";
        assert_eq!(
            at("wss://h:1", name),
            "its certificate is for relay.example, and not for the name in this address"
        );
        let plain = at("wss://h:1", "received corrupt message of type InvalidContentType");
        assert!(plain.contains("without TLS") && !plain.contains("ws://"), "{plain}");
        let here = at("wss://127.0.0.1:1", "received corrupt message of type InvalidContentType");
        assert!(here.contains("ws://127.0.0.1:1"), "{here}");
        assert!(at("ws://h:1", "HTTP format error: httparse error: invalid token").contains("wss://h:1"));
    }
}
