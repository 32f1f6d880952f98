//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args as ClapArgs, Parser, Subcommand};
use posthorn_client::conversation::{ConversationId, MessageId};
use posthorn_client::identity::RelayUrl;

/// Posthorn: messages through a relay that cannot read them.
#[derive(Debug, Parser)]
#[command(name = "posthorn", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) what: What,
}

const AFTER_HELP: &str = "Begin with `posthorn register --relay ws://127.0.0.1:4100 --handle alice --invite CODE`, \
then `posthorn chat`.\nTo see everything work on this machine: `posthorn demo`.";

/// What every command takes.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Global {
    /// The profile's folder [default: `posthorn` in the system's folder for application data]
    #[arg(long, global = true, env = "POSTHORN_HOME", value_name = "FOLDER")]
    pub(crate) home: Option<PathBuf>,
    /// Read the passphrase from this file (its first line) instead of asking; POSTHORN_PASSPHRASE works too
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Print JSON, one object a line; errors as {"error":{"code","message"}} on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Nobody waits longer than a year, in seconds.
const LONGEST: u64 = 366 * 24 * 60 * 60;
/// Rows are counted by SQLite, in 63 bits.
const LAST_ROW: u64 = i64::MAX as u64;
/// Entries that are printed at once, at most.
const MOST_ENTRIES: u64 = 1_000_000;

fn seconds() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(0..=LONGEST)
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// Make an account on a relay, and this profile with it
    Register(Register),
    /// Change the passphrase of this profile, or keep it in the keyring, or not any more
    Passphrase(NewPassphrase),
    /// Write this profile into one file, which its passphrase opens
    Backup(Backup),
    /// Make a profile of a backup
    Restore(Backup),
    /// Show my contact link, as text and as a QR code
    Card,
    /// Start a conversation
    Start(Start),
    /// Send a message and wait until the relay has it
    Send(Send),
    /// Print what happens, as it happens, until ctrl-c
    Listen(Listen),
    /// List conversations, and invitations that wait
    Conversations(Conversations),
    /// Put a conversation away: it is not listed until something new comes
    Archive(Named),
    /// Take a conversation out again
    Unarchive(Named),
    /// Accept an invitation: join the conversation, and from then on others that this person begins
    Accept(Accept),
    /// Forget an invitation, or a conversation that has ended with its history
    Forget(Named),
    /// Print a conversation's messages, oldest first, and mark them as read
    History(History),
    /// Put a sign beside a message, in place of an earlier one of yours
    React(React),
    /// List a conversation's members
    Members(Named),
    /// Add people to a conversation
    Add(Add),
    /// Remove somebody from a conversation
    Remove(Remove),
    /// Let a conversation go on in a fresh mailbox of your relay
    Move(Move),
    /// Leave a conversation
    Leave(Leave),
    /// Show the safety number with somebody (equal: nobody stands between you), or mark it as compared
    Verify(Verify),
    /// List everybody whom you have met
    People,
    /// Take no invitations of somebody any more
    Block(Whom),
    /// Take somebody's invitations again
    Unblock(Whom),
    /// The relays that this profile uses
    #[command(subcommand)]
    Relay(Relay),
    /// Show the account, the connection, and what is still to be sent
    Status,
    /// Remove the account at its relay, for good: conversations are left, and the name is free
    DeleteAccount(DeleteAccount),
    /// Full-screen chat
    Chat(Chat),
    /// Do what other programs ask, as JSON-RPC on standard input and by a socket in the profile's folder
    Daemon(Daemon),
    /// A tour on this machine: two relays, six people, crashes; ends with a table of checks
    Demo,
    /// Print what a shell needs to complete the words of this program
    Completions(Completions),
    /// Write the manual pages of this program into a folder
    Man(Man),
}

/// `register`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Register {
    /// Where the relay listens: ws://host:port, wss://host or wss://host:port; a link of an invite says it
    #[arg(long, value_name = "URL", required_unless_present = "invite")]
    pub(crate) relay: Option<String>,
    /// Your name there: 2 to 32 characters of a-z 0-9 _ . - beginning with a letter
    #[arg(long)]
    pub(crate) handle: String,
    /// The invite, where the relay wants one: a code, or a link that has the relay in it
    #[arg(long, default_value = "", value_name = "CODE", hide_default_value = true)]
    pub(crate) invite: String,
    /// Reach it through a SOCKS5 proxy, such as Tor's: socks5://127.0.0.1:9050
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
    /// Keep the passphrase in the system's keyring, so that it is not asked for again
    #[arg(long)]
    pub(crate) keyring: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// `passphrase`.
#[derive(Debug, ClapArgs)]
pub(crate) struct NewPassphrase {
    /// Read the new one from this file (its first line) instead of asking
    #[arg(long, value_name = "FILE")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// Keep it in the system's keyring, so that it is not asked for again
    #[arg(long)]
    pub(crate) keyring: bool,
    /// Change nothing, but keep the one that there is in the keyring
    #[arg(long, conflicts_with_all = ["new_passphrase_file", "keyring"])]
    pub(crate) remember: bool,
    /// Change nothing, but take it out of the keyring: from now on it is asked for
    #[arg(long, conflicts_with_all = ["new_passphrase_file", "keyring", "remember"])]
    pub(crate) forget: bool,
}

/// `backup`, `restore`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Backup {
    /// The file
    pub(crate) file: PathBuf,
}

/// `start`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Start {
    /// Contact links, handles at your own relay, or handle@host of another one
    #[arg(required = true, value_name = "MEMBER")]
    pub(crate) members: Vec<String>,
    /// What the conversation is called
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// Begin another one although there is one with this one person
    #[arg(long)]
    pub(crate) again: bool,
    /// An id of your own choice, 26 random characters of a-z 2-7: the same command again starts nothing new
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<ConversationId>,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// `relay`.
#[derive(Debug, Subcommand)]
pub(crate) enum Relay {
    /// List them, with how many conversations live there
    List,
    /// Use another relay from now on: invitations that lead there need no --foreign-relay any more
    Use(RelayNamed),
    /// Reach a relay through a SOCKS5 proxy, such as Tor's
    Proxy(RelayProxy),
}

/// `relay proxy`.
#[derive(Debug, ClapArgs)]
pub(crate) struct RelayProxy {
    /// Which; your own relay's proxy serves all that have none of their own
    pub(crate) relay: String,
    /// socks5://host:port; `direct` for none; `default` to do as for your own relay
    pub(crate) proxy: String,
}

/// A relay.
#[derive(Debug, ClapArgs)]
pub(crate) struct RelayNamed {
    /// wss://host or wss://host:port; ws:// is without TLS: whoever is on the way sees what a relay sees
    pub(crate) relay: String,
}

/// How long a command that needs the relay waits for it.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct Patience {
    /// Give up waiting after so many seconds [default: 30]; what was asked is kept and goes on the next time
    #[arg(long, value_name = "SECONDS", value_parser = seconds())]
    wait: Option<u64>,
}

impl Patience {
    /// In seconds.
    pub(crate) fn seconds(self) -> u64 {
        self.wait.unwrap_or(30)
    }

    pub(crate) fn duration(self) -> Duration {
        Duration::from_secs(self.seconds())
    }
}

impl What {
    /// How long the person who typed it wants to wait, if they said so.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let patience = match self {
            Self::Register(Register { patience, .. })
            | Self::Start(Start { patience, .. })
            | Self::Send(Send { patience, .. })
            | Self::Accept(Accept { patience, .. })
            | Self::React(React { patience, .. })
            | Self::Add(Add { patience, .. })
            | Self::Remove(Remove { patience, .. })
            | Self::Move(Move { patience, .. })
            | Self::DeleteAccount(DeleteAccount { patience, .. })
            | Self::Leave(Leave { patience, .. }) => patience,
            _ => return None,
        };
        patience.wait.map(Duration::from_secs)
    }
}

impl What {
    /// Whether it goes on until somebody ends it: other commands cannot wait for that.
    pub(crate) fn has_no_end(&self) -> bool {
        match self {
            Self::Listen(listen) => !listen.until_settled,
            Self::Daemon(_) => true,
            Self::Send(send) => send.lines,
            _ => false,
        }
    }
}

/// `send`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Send {
    /// Its id, the beginning of its id, its name, or the handle of its only other member
    pub(crate) conversation: String,
    /// The message; - reads it from standard input
    #[arg(required_unless_present = "lines", allow_hyphen_values = true)]
    pub(crate) text: Option<String>,
    /// Send each line of standard input as a message of its own, as it comes
    #[arg(long, conflicts_with_all = ["text", "no_wait"])]
    pub(crate) lines: bool,
    /// With --lines: leave out lines that can be no message, and tell which
    #[arg(long, requires = "lines")]
    pub(crate) skip_bad: bool,
    /// Only queue it: it is sent the next time that this profile is online
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// An id of your own choice, 26 random characters of a-z 2-7: the same command again says nothing twice
    #[arg(long, value_name = "ID", conflicts_with = "lines")]
    pub(crate) id: Option<MessageId>,
    /// It may have been sent before, under this id.
    #[arg(skip)]
    pub(crate) may_be_there: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// `listen`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Listen {
    /// Stop after this many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds())]
    pub(crate) seconds: Option<u64>,
    /// Stop as soon as everything is sent and everything that the relay has is read
    #[arg(long)]
    pub(crate) until_settled: bool,
    /// Do not tell the senders that their messages were read
    #[arg(long)]
    pub(crate) peek: bool,
    /// Follow every invitation to a relay that is used already: for bots, which answer anybody
    #[arg(long)]
    pub(crate) accept: bool,
}

/// `daemon`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Daemon {
    /// Leave standard input and output alone, and end by a signal: for service managers
    #[arg(long)]
    pub(crate) socket_only: bool,
    /// Follow every invitation to a relay that is used already: for bots, which answer anybody
    #[arg(long)]
    pub(crate) accept: bool,
}

/// `history`.
#[derive(Debug, ClapArgs)]
pub(crate) struct History {
    /// Its id, the beginning of its id, its name, or the handle of its only other member
    pub(crate) conversation: String,
    /// The newest so many entries
    #[arg(long, default_value_t = 50, value_parser = RangedU64ValueParser::<usize>::new().range(1..=MOST_ENTRIES))]
    pub(crate) limit: usize,
    /// Only entries before this row (JSON key `row`), for paging back
    #[arg(long, value_name = "ROW", value_parser = RangedU64ValueParser::<u64>::new().range(0..=LAST_ROW))]
    pub(crate) before: Option<u64>,
    /// Do not tell the senders that their messages were read
    #[arg(long)]
    pub(crate) peek: bool,
}

/// `move`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Move {
    /// Its id, the beginning of its id, its name, or the handle of its only other member
    pub(crate) conversation: String,
    /// The relay that it shall be on; no other than your own can be
    #[arg(long, value_name = "URL", value_parser = RelayUrl::parse)]
    pub(crate) relay: Option<RelayUrl>,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// `leave`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Leave {
    /// Its id, the beginning of its id, its name, or the handle of its only other member
    pub(crate) conversation: String,
    /// Do not ask: there is no way back but an invitation
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// `conversations`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Conversations {
    /// Those that were put away
    #[arg(long)]
    pub(crate) archived: bool,
}

/// `archive`, `unarchive`, `forget`, `members`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Named {
    /// Its id, the beginning of its id, its name, or the handle of its only other member
    pub(crate) conversation: String,
}

/// `accept`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Accept {
    /// The handle of who invites, or the invitation's id or its beginning
    pub(crate) conversation: String,
    /// Also if it leads to a relay that you do not use yet, which would see your address
    #[arg(long)]
    pub(crate) foreign_relay: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// `react`.
#[derive(Debug, ClapArgs)]
pub(crate) struct React {
    /// Its id, the beginning of its id, its name, or the handle of its only other member
    pub(crate) conversation: String,
    /// The message: its id (JSON key `id`), the beginning of its id, or `last` for the last one of the others
    pub(crate) message: String,
    /// One sign, such as 👍; "" takes yours back
    #[arg(required_unless_present = "remove", conflicts_with = "remove")]
    pub(crate) emoji: Option<String>,
    /// Take your sign back
    #[arg(long)]
    pub(crate) remove: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// `add`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Add {
    /// Its id, the beginning of its id, its name, or the handle of its only other member
    pub(crate) conversation: String,
    /// Contact links, handles at your own relay, or handle@host of another one
    #[arg(required = true, value_name = "MEMBER")]
    pub(crate) members: Vec<String>,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// `remove`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Remove {
    /// Its id, the beginning of its id, its name, or the handle of its only other member
    pub(crate) conversation: String,
    /// Whom
    pub(crate) handle: String,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// `verify`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Verify {
    /// Somebody whom you have met: a handle, one with # and the beginning of the id, or the id
    pub(crate) handle: String,
    /// You have compared it, and it is equal: keep that, with their key
    #[arg(long)]
    pub(crate) mark: bool,
    /// Take that back
    #[arg(long, conflicts_with = "mark")]
    pub(crate) unmark: bool,
}

/// Somebody.
#[derive(Debug, ClapArgs)]
pub(crate) struct Whom {
    /// A handle, one with # and the beginning of the id, or the id
    pub(crate) person: String,
}

/// `delete-account`.
#[derive(Debug, ClapArgs)]
pub(crate) struct DeleteAccount {
    /// Do not ask: there is no way back
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

/// `chat`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Chat {
    /// Open this one: its id, the beginning of its id, its name, or the handle of its only other member
    pub(crate) conversation: Option<String>,
    /// Leave the title of the window as it is, and ring no bell
    #[arg(long, env = "POSTHORN_QUIET", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) quiet: bool,
}

/// `completions`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Completions {
    /// For which shell
    pub(crate) shell: clap_complete::Shell,
}

/// `man`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Man {
    /// Where to: such as man1 in a folder of MANPATH
    pub(crate) folder: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use proptest::prelude::*;

    use super::*;

    /// Words that mean something here, numbers at the edges, and anything else.
    fn word() -> impl Strategy<Value = String> {
        let known: Vec<String> = Args::command()
            .get_subcommands()
            .flat_map(|command| {
                let long = command.get_arguments().filter_map(|argument| argument.get_long());
                std::iter::once(command.get_name().to_owned())
                    .chain(long.map(|name| format!("--{name}")))
                    .collect::<Vec<_>>()
            })
            .chain(["--home", "--json", "-", "--", "--help", "/", "posthorn://"].map(str::to_owned))
            .collect();
        let numbers = [0, 1, u64::from(u32::MAX), i64::MAX as u64, u64::MAX].map(|number| number.to_string());
        prop_oneof![
            3 => proptest::sample::select(known),
            1 => proptest::sample::select(numbers.to_vec()),
            1 => any::<String>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn nothing_that_is_typed_is_a_panic(words in proptest::collection::vec(word(), 0..8)) {
            let typed = std::iter::once("posthorn".to_owned()).chain(words);
            match Args::try_parse_from(typed) {
                Err(error) => prop_assert!(!error.render().to_string().is_empty()),
                Ok(Args { what: What::Listen(Listen { seconds: Some(seconds), .. }), .. }) => {
                    prop_assert!(seconds <= LONGEST);
                }
                Ok(_) => {}
            }
        }
    }

    #[test]
    fn numbers_have_an_end() {
        let parsed = |words: &[&str]| Args::try_parse_from([&["posthorn"], words].concat()).is_ok();
        let most = u64::MAX.to_string();
        assert!(parsed(&["listen", "--for", "31622400"]) && !parsed(&["listen", "--for", "31622401"]));
        for words in [["listen", "--for"], ["card", "--wait"]] {
            assert!(!parsed(&[&words[..], &[&most]].concat()), "{words:?}");
        }
        assert!(!parsed(&["send", "bob", "hi", "--wait", &most]));
        assert!(!parsed(&["history", "bob", "--before", &most]));
        assert!(parsed(&["history", "bob", "--before", "9223372036854775807"]));
        assert!(
            !parsed(&["history", "bob", "--limit", "0"]) && !parsed(&["history", "bob", "--limit", &most])
        );
    }

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_message_may_begin_with_a_hyphen() {
        let args = Args::try_parse_from(["posthorn", "send", "bob", "-", "--json"]).expect("stdin");
        assert!(args.global.json);
        let args = Args::try_parse_from(["posthorn", "send", "bob", "-5 degrees"]).expect("a text");
        assert!(matches!(args.what, What::Send(Send { text: Some(text), .. }) if text == "-5 degrees"));
    }

    #[test]
    fn a_reaction_is_a_sign_or_its_removal() {
        assert!(Args::try_parse_from(["posthorn", "react", "bob", "last", "👍"]).is_ok());
        assert!(Args::try_parse_from(["posthorn", "react", "bob", "last", ""]).is_ok());
        assert!(Args::try_parse_from(["posthorn", "react", "bob", "last", "--remove"]).is_ok());
        assert!(Args::try_parse_from(["posthorn", "react", "bob", "last"]).is_err());
        assert!(Args::try_parse_from(["posthorn", "react", "bob", "last", "👍", "--remove"]).is_err());
    }

    #[test]
    fn lines_and_a_text_exclude_each_other() {
        assert!(Args::try_parse_from(["posthorn", "send", "bob"]).is_err());
        assert!(Args::try_parse_from(["posthorn", "send", "bob", "--lines"]).is_ok());
        assert!(Args::try_parse_from(["posthorn", "send", "bob", "hello", "--lines"]).is_err());
    }
}
