//! An invitation that waits, in words: who invites, where the conversation lives, and what an answer does.

use posthorn_client::engine::{ConversationSummary, Known, Person};

use crate::name;
use crate::plain::plain_line;

/// Who invites, as they are called here.
pub(crate) fn inviter(invitation: &ConversationSummary) -> String {
    invitation.inviter.as_ref().map_or_else(|| "somebody".to_owned(), |who| plain_line(&who.handle))
}

/// Whether it leads to a relay with which this device has nothing to do yet. The engine looks at the relay's
/// key and has the last word; this is for telling people beforehand.
pub(crate) fn is_foreign(
    list: &[ConversationSummary],
    own_relay: &str,
    invitation: &ConversationSummary,
) -> bool {
    let is_read = |known: &ConversationSummary| !name::is_invitation(known) && !name::has_ended(known);
    let is_used = list.iter().any(|known| is_read(known) && known.relay == invitation.relay);
    invitation.relay != own_relay && !is_used
}

/// A relay without what stands before its name.
pub(crate) fn relay_name(relay: &str) -> String {
    plain_line(relay.trim_start_matches("wss://").trim_start_matches("ws://"))
}

/// Where it lives.
pub(crate) fn place(invitation: &ConversationSummary, own_relay: &str, foreign: bool) -> String {
    let relay = relay_name(&invitation.relay);
    match (foreign, invitation.relay == own_relay) {
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
        _ => format!("That it is {handle} is their own word so far: /verify compares safety numbers."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::tests::{conversation, invitation};

    #[test]
    fn a_relay_is_foreign_until_something_is_read_there() {
        const OWN: &str = "ws://127.0.0.1:4100";
        const FAR: &str = "wss://far.example";
        let (near, far) = (invitation(1, "bob", OWN), invitation(2, "bob", FAR));
        let mut list = vec![near.clone(), far.clone(), invitation(3, "cleo", FAR)];
        assert!(!is_foreign(&list, OWN, &near) && is_foreign(&list, OWN, &far));
        assert!(place(&far, OWN, true).contains("far.example, a relay that you do not use yet"));
        assert_eq!(place(&near, OWN, false), "It lives at your relay, 127.0.0.1:4100.");
        let mut used = conversation(4, "", &["ann", "dan"]);
        used.relay = FAR.to_owned();
        list.push(used);
        assert!(!is_foreign(&list, OWN, &far));
        assert!(place(&far, OWN, false).contains("already"));
    }
}
