//! An echo on the relay's own WebSocket decoder and writer, which conformance suites can talk to: they want
//! back what they send, and a relay sends nobody anything back.
//!
//! It takes text, which the relay does not, because most of what a suite tries is text. Beside the relay's
//! own decoder there is only what an echo needs: a handshake without a subprotocol, and a look at whole
//! texts.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::connection::ending_of;
use super::websocket::{Decoder, Event, begin_binary, begin_text, close, pong};

/// Largest message, bytes: a suite's largest has 16 MiB.
const MESSAGE_BYTES: usize = 32 << 20;
/// Largest request head, bytes.
const HEAD_BYTES: usize = 8192;
/// Read at once, bytes.
const GULP: usize = 64 * 1024;

/// Sends back what comes, until the other side closes or breaks the rules.
#[doc(hidden)]
pub async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut input = shake_hands(&mut stream).await?;
    let mut decoder = Decoder::new(MESSAGE_BYTES).with_text();
    let (mut out, mut gulp) = (Vec::new(), vec![0; GULP]);
    loop {
        let goes_on = answer(&mut decoder, &input, &mut out);
        stream.write_all(&out).await?;
        if !goes_on {
            break;
        }
        out.clear();
        let count = stream.read(&mut gulp).await?;
        if count == 0 {
            return Ok(());
        }
        input.clear();
        input.extend_from_slice(&gulp[..count]);
    }
    // The other side shall find the close frame, and not a connection that was reset.
    stream.shutdown().await?;
    while stream.read(&mut gulp).await? > 0 {}
    Ok(())
}

/// Answers everything that is whole. `false`: the connection ends with this.
fn answer(decoder: &mut Decoder, mut input: &[u8], out: &mut Vec<u8>) -> bool {
    loop {
        match decoder.take(&mut input) {
            Ok(None) => return true,
            Ok(Some(Event::Binary(message))) => {
                begin_binary(message.len(), out);
                out.extend_from_slice(&message);
            }
            Ok(Some(Event::Text(message))) if std::str::from_utf8(&message).is_ok() => {
                begin_text(message.len(), out);
                out.extend_from_slice(&message);
            }
            Ok(Some(Event::Text(_))) => {
                close(Some(1007), "NO_UTF_8", out);
                return false;
            }
            Ok(Some(Event::Ping(payload))) => pong(&payload, out),
            Ok(Some(Event::Pong)) => {}
            Ok(Some(Event::Close(code))) => {
                close(code, "", out);
                return false;
            }
            Err(fault) => {
                let ending = ending_of(fault);
                close(Some(ending.code), ending.reason, out);
                return false;
            }
        }
    }
}

/// The least that a client takes for a handshake. Returns what came behind the request.
async fn shake_hands(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if head.len() > HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
            return Err(invalid());
        }
    };
    let rest = head.split_off(end);
    let head = String::from_utf8(head).map_err(|_| invalid())?;
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let (_, key) =
        headers.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).ok_or_else(invalid)?;
    let accept = derive_accept_key(key.trim().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok(rest)
}
