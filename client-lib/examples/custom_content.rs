//! Content of an app's own: two players put stones on a board. Who has no such app reads a line instead.
//!
//! In two terminals, with a relay (`cargo run --bin posthorn-server -- --print-invite 10`) in a third:
//!
//! ```sh
//! cargo run -p posthorn-client --example custom_content -- ws://127.0.0.1:4100 CODE olga
//! cargo run -p posthorn-client --example custom_content -- ws://127.0.0.1:4100 CODE xaver olga
//! ```

use std::time::Duration;

use posthorn_client::{Class, Client, Conversation, Custom, Error, Event, Handle, Kind, RelayUrl, Said, Who};

/// Whose it is and what it is, as domains are written from behind. Other apps' content has other names.
const NAME: &str = "org.example.board";

/// Nine fields: ' ', 'x' or 'o'.
struct Board([u8; 9]);

impl Board {
    /// The app's own bytes: anything up to `CUSTOM_BYTES`, here the fields as they are.
    fn to_said(&self) -> Result<Said, Error> {
        // An entry stands in the history. `Class::Change` would alter another entry, `Class::Quiet` is only
        // for the programs.
        let custom = Custom { name: NAME.to_owned(), class: Class::Entry, bytes: self.0.to_vec() };
        let line = format!("put a stone on the board ({} are free)", self.free().count());
        Ok(Said::new(custom)?.with_fallback(&line)?)
    }

    /// Members may send anything: what came is checked like any input.
    fn read(kind: &Kind) -> Option<Self> {
        let Kind::Custom(Custom { name, bytes, .. }) = kind else { return None };
        let fields: [u8; 9] = bytes.as_slice().try_into().ok()?;
        (name == NAME && fields.iter().all(|field| b" xo".contains(field))).then_some(Self(fields))
    }

    fn free(&self) -> impl Iterator<Item = usize> {
        (0..9).filter(|field| self.0[*field] == b' ')
    }

    /// Puts a stone where the next free field is; says whether there was one.
    fn put(&mut self, stone: u8) -> bool {
        let free = self.free().next();
        free.map(|field| self.0[field] = stone).is_some()
    }
}

async fn play(talk: &Conversation, mut board: Board, stone: u8) -> Result<bool, Error> {
    let is_move = board.put(stone);
    if is_move {
        talk.send(board.to_said()?).await?;
    }
    board.0.chunks(3).for_each(|row| println!("|{}|", String::from_utf8_lossy(row)));
    println!();
    Ok(is_move && board.free().next().is_some())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [relay, invite, me, others @ ..] = &arguments[..] else {
        anyhow::bail!("usage: custom_content RELAY INVITE MY_NAME [THEIR_NAME]");
    };
    let client = Client::builder(format!("profiles/{me}")).accept_everybody().open_or_create().await?;
    if !client.account().await?.is_some_and(|account| account.registered) {
        client.register(RelayUrl::parse(relay)?, Handle::parse(me)?, invite).await?;
    }
    let mut events = client.events();
    // Who begins plays x; who is invited plays o.
    let stone = if others.is_empty() { b'o' } else { b'x' };
    if let Some(other) = others.first() {
        let talk = client.start("", vec![Who::Handle(Handle::parse(other)?)]).await?;
        play(&talk, Board([b' '; 9]), stone).await?;
    }
    while let Some(event) = events.next().await {
        let Event::Entry(entry) = event else { continue };
        let Some(board) = entry.said().filter(|_| !entry.mine).and_then(Board::read) else { continue };
        if !play(&client.conversation(entry.conversation), board, stone).await? {
            break;
        }
    }
    client.settled(Duration::from_secs(10)).await?;
    Ok(client.close().await?)
}
