//! An invitation that waits, in words: who invites, where the conversation lives, and what an answer does.

use posthorn_client::engine::{ConversationSummary, Known, Person};

use crate::plain::plain_line;

/// Who invites, as they are called here.
pub(crate) fn inviter(invitation: &ConversationSummary) -> String {
    invitation.inviter.as_ref().map_or_else(|| "somebody".to_owned(), |who| plain_line(&who.handle))
}

/// A relay without what stands before its name.
pub(crate) fn relay_name(relay: &str) -> String {
    plain_line(relay.trim_start_matches("wss://").trim_start_matches("ws://"))
}

/// Where it lives.
pub(crate) fn place(invitation: &ConversationSummary, own_relay: &str) -> String {
    let relay = relay_name(&invitation.relay);
    match (invitation.foreign_relay, invitation.relay == own_relay) {
        (true, _) => format!(
            "It lives at {relay}, a relay that you do not use yet: whoever runs it would see your address, \
             and when you are online."
        ),
        (false, true) => format!("It lives at your relay, {relay}."),
        (false, false) => format!("It lives at {relay}, which you use already."),
    }
}

/// Whether the name can be trusted.
pub(crate) fn trust(person: &Person) -> String {
    let handle = plain_line(&person.handle);
    match person.known {
        Known::Pinned => format!("You know {handle}: the relay or a contact link told you who that is."),
        Known::Contradicted => {
            format!("Careful: somebody else is known to you by the name that {handle} goes by.")
        }
        _ => {
            format!("So far only their own word says that this is {handle}: /verify compares safety numbers.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::tests::invitation;

    #[test]
    fn it_is_told_where_a_conversation_lives() {
        const OWN: &str = "ws://127.0.0.1:4100";
        let mut far = invitation(2, "bob", "wss://far.example");
        assert!(place(&far, OWN).contains("far.example, a relay that you do not use yet"));
        far.foreign_relay = false;
        assert!(place(&far, OWN).contains("already"));
        assert_eq!(place(&invitation(1, "bob", OWN), OWN), "It lives at your relay, 127.0.0.1:4100.");
    }
}
