//! People who were met, and the names that they are shown by (rule 26).
//!
//! A name is what a person says of themselves. It stands as it is where the relay's directory or a contact
//! link gave their key for it (`people::pin`), and where nobody else is known by it; a name that belongs to
//! somebody else is shown with the beginning of the key behind it. A name for which another relay gave the
//! key is shown with that relay's host behind it.

use posthorn_proto::{DeviceId, Handle, RelayIdentity};
use serde::{Deserialize, Serialize};

use super::account::Own;
use super::link::known::address_of;
use super::{Error, Known, Person};
use crate::content::Named;
use crate::identity::{Card, Credential, IdentityKey, PersonId, RelayAddress, UnverifiedCard};
use crate::inbox::InboxAddress;
use crate::people::{block as blocked, pin};
use crate::store::table::Table;
use crate::store::{StoreError, Transaction};

/// Devices of one person whose private inboxes are kept, the latest: whoever makes more for themselves is
/// still reached by their card.
const DEVICES: usize = 16;
const CONTACTS: Table<[u8; 32], Contact> = Table::new("contact");

fn key(tx: &Transaction<'_>, person: &PersonId) -> [u8; 32] {
    CONTACTS.hidden(tx, &person.0)
}

/// Somebody we met: their newest card, and the private inboxes of their devices that stood in leaves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Contact {
    pub(super) person: PersonId,
    /// What they call themselves, and where.
    pub(super) handle: String,
    pub(super) relay: Option<RelayIdentity>,
    card: Option<Vec<u8>>,
    private: Vec<(DeviceId, Vec<u8>)>,
    /// Their invitations are followed (rule 25).
    pub(super) accepted: bool,
    /// Our user compared their safety number. It is this key's: another key has no part in it.
    #[serde(default)]
    verified: bool,
}

impl Contact {
    fn new(person: PersonId) -> Self {
        Self {
            person,
            handle: String::new(),
            relay: None,
            card: None,
            private: Vec::new(),
            accepted: false,
            verified: false,
        }
    }

    /// The relay that their card names.
    pub(super) fn address(&self) -> Option<RelayAddress> {
        self.card().map(|card| card.relay().clone())
    }

    /// The card that we hold; it was verified before it was stored.
    fn card(&self) -> Option<Card> {
        self.card.as_ref().and_then(|card| UnverifiedCard::new(card).ok()?.verify(None, u64::MAX).ok())
    }
}

pub(super) fn load(tx: &Transaction<'_>, person: &PersonId) -> Result<Option<Contact>, StoreError> {
    CONTACTS.get(tx, &key(tx, person))
}

fn load_or_new(tx: &Transaction<'_>, person: &PersonId) -> Result<Contact, StoreError> {
    Ok(load(tx, person)?.unwrap_or_else(|| Contact::new(*person)))
}

/// Everybody who was met, by id.
pub(super) fn all(tx: &Transaction<'_>, own: &Own) -> Result<Vec<Person>, Error> {
    let contacts = CONTACTS.all(tx)?;
    let others = contacts.iter().map(|(_, contact)| contact).filter(|contact| contact.person != own.person);
    others.map(|contact| of_contact(tx, own, contact)).collect()
}

/// Keeps a verified card unless a newer one is known.
pub(super) fn meet(tx: &Transaction<'_>, card: &Card) -> Result<(), StoreError> {
    let person = PersonId::from(&card.identity());
    let mut contact = load_or_new(tx, &person)?;
    if contact.card().is_some_and(|known| known.version() > card.version()) {
        return Ok(());
    }
    contact.handle = card.handle().to_string();
    contact.relay = Some(card.relay().identity);
    contact.card = Some(card.encoded().to_vec());
    CONTACTS.put(tx, &key(tx, &person), &contact)
}

/// Keeps what a member's leaf says.
pub(super) fn meet_member(
    tx: &Transaction<'_>,
    credential: &Credential,
    inbox: Option<&InboxAddress>,
) -> Result<(), StoreError> {
    let person = PersonId::from(&credential.identity());
    let known = load(tx, &person)?;
    let is_known = known.is_some();
    let mut contact = known.unwrap_or_else(|| Contact::new(person));
    let encoded = inbox.map(InboxAddress::encode);
    let device = credential.device();
    let held = contact.private.iter().find(|(id, _)| *id == device).map(|(_, inbox)| inbox);
    if is_known && (encoded.is_none() || held == encoded.as_ref()) {
        return Ok(());
    }
    if contact.card.is_none() {
        contact.handle = credential.handle().to_string();
        contact.relay = Some(credential.relay());
    }
    if let Some(encoded) = encoded {
        contact.private.retain(|(id, _)| *id != device);
        contact.private.push((device, encoded));
        let more = contact.private.len().saturating_sub(DEVICES);
        contact.private.drain(..more);
    }
    CONTACTS.put(tx, &key(tx, &person), &contact)
}

/// From now on their invitations are followed.
pub(super) fn accept(tx: &Transaction<'_>, person: &PersonId) -> Result<(), StoreError> {
    let mut contact = load_or_new(tx, person)?;
    if !contact.accepted && !is_blocked(tx, person)? {
        contact.accepted = true;
        CONTACTS.put(tx, &key(tx, person), &contact)?;
    }
    Ok(())
}

/// Nothing of them is shown any more, or is again. Who is blocked is not accepted either.
pub(super) fn block(tx: &Transaction<'_>, person: &PersonId, is_blocked: bool) -> Result<(), StoreError> {
    if is_blocked {
        blocked::block(tx, person)?;
    } else {
        blocked::unblock(tx, person)?;
    }
    if let Some(mut contact) = load(tx, person)?.filter(|contact| is_blocked && contact.accepted) {
        contact.accepted = false;
        CONTACTS.put(tx, &key(tx, person), &contact)?;
    }
    Ok(())
}

/// Our user compared their safety number, or takes that back. Whose number it is has the name from now on;
/// whoever was known by it before has neither the name nor a mark any more.
pub(super) fn verify(tx: &Transaction<'_>, person: &PersonId, verified: bool) -> Result<(), StoreError> {
    let Some(mut contact) = load(tx, person)? else { return Ok(()) };
    contact.verified = verified;
    CONTACTS.put(tx, &key(tx, person), &contact)?;
    let (true, Some(relay), Ok(handle)) = (verified, contact.relay, Handle::parse(&contact.handle)) else {
        return Ok(());
    };
    if let Some(before) = pin::repin(tx, &relay, &handle, person)?
        && let Some(mut before) = load(tx, &before)?.filter(|before| before.verified)
    {
        before.verified = false;
        CONTACTS.put(tx, &key(tx, &before.person), &before)?;
    }
    Ok(())
}

/// How somebody's key is named where another stands in its place.
pub(super) fn known_key(tx: &Transaction<'_>, person: &PersonId) -> Result<String, StoreError> {
    let verified = load(tx, person)?.is_some_and(|contact| contact.verified);
    Ok(format!("{}{}", person.short(), if verified { ", which you have verified" } else { "" }))
}

pub(super) fn is_blocked(tx: &Transaction<'_>, person: &PersonId) -> Result<bool, StoreError> {
    blocked::is_blocked(tx, person)
}

/// The devices on somebody's card.
pub(super) fn devices(tx: &Transaction<'_>, identity: &IdentityKey) -> Result<Vec<DeviceId>, StoreError> {
    let card = load(tx, &PersonId::from(identity))?.and_then(|contact| contact.card());
    Ok(card
        .map(|card| card.devices().iter().map(|device| device.credential.device()).collect())
        .unwrap_or_default())
}

/// Where a device can be reached: its private inbox if a leaf told us, then the public one of its card.
pub(super) fn inboxes_of(
    tx: &Transaction<'_>,
    identity: &IdentityKey,
    device: &DeviceId,
) -> Result<Vec<InboxAddress>, StoreError> {
    let Some(contact) = load(tx, &PersonId::from(identity))? else { return Ok(Vec::new()) };
    let private = contact.private.iter().filter(|(id, _)| id == device);
    let mut inboxes: Vec<InboxAddress> =
        private.filter_map(|(_, bytes)| InboxAddress::decode(bytes).ok()).collect();
    if let Some(card) = contact.card() {
        let on_card = card.devices().iter().filter(|found| found.credential.device() == *device);
        inboxes.extend(on_card.map(|found| found.public_inbox.clone()));
    }
    Ok(inboxes)
}

/// On what word somebody's name stands, and the name that they are shown by.
fn shown(
    tx: &Transaction<'_>,
    own: &Own,
    person: &PersonId,
    relay: Option<&RelayIdentity>,
    handle: &str,
) -> Result<(Known, String), Error> {
    let elsewhere = relay.filter(|relay| Some(*relay) != own.profile.relay_identity.as_ref());
    // Where a relay vouches for a name, it stands with that relay's host: like that it is nobody else's.
    if let (Some(relay), Ok(name)) = (elsewhere, Handle::parse(handle))
        && *person != own.person
        && pin::pinned(tx, relay, &name)? == Some(*person)
        && let Some(address) = address_of(tx, relay)?
    {
        return Ok((Known::Pinned, format!("{handle}@{}", address.url.host())));
    }
    let known = known(tx, own, person, relay, handle)?;
    // A name at another relay reads like one at ours, where it may be somebody else's one day.
    let is_apart = known == Known::Contradicted || (known == Known::Claimed && elsewhere.is_some());
    Ok((known, if is_apart { apart(handle, person) } else { handle.to_owned() }))
}

fn known(
    tx: &Transaction<'_>,
    own: &Own,
    person: &PersonId,
    relay: Option<&RelayIdentity>,
    handle: &str,
) -> Result<Known, Error> {
    if *person == own.person {
        return Ok(Known::Pinned);
    }
    if handle == own.profile.handle()?.as_str() {
        return Ok(Known::Contradicted);
    }
    let Ok(name) = Handle::parse(handle) else { return Ok(Known::Claimed) };
    let mut word = Known::Claimed;
    for relay in [own.profile.relay_identity.as_ref(), relay].into_iter().flatten() {
        match pin::pinned(tx, relay, &name)? {
            Some(pinned) if pinned == *person => word = Known::Pinned,
            Some(_) => return Ok(Known::Contradicted),
            None => {}
        }
    }
    Ok(word)
}

/// A shown name without what stands behind it.
pub(super) fn bare(shown: &str) -> &str {
    shown.split(['#', '@']).next().unwrap_or_default()
}

/// A name that may be taken for somebody else's, told apart.
pub(super) fn apart(handle: &str, person: &PersonId) -> String {
    format!("{handle}#{}", person.short())
}

/// Who a credential's bearer is, with the name that they are shown by.
pub(super) fn named(tx: &Transaction<'_>, own: &Own, credential: &Credential) -> Result<Named, Error> {
    called(tx, own, &credential.identity(), credential.handle(), &credential.relay())
}

/// Likewise of a card.
pub(super) fn of_card(tx: &Transaction<'_>, own: &Own, card: &Card) -> Result<Named, Error> {
    called(tx, own, &card.identity(), card.handle(), &card.relay().identity)
}

fn called(
    tx: &Transaction<'_>,
    own: &Own,
    identity: &IdentityKey,
    handle: &Handle,
    relay: &RelayIdentity,
) -> Result<Named, Error> {
    let person = PersonId::from(identity);
    let (_, handle) = shown(tx, own, &person, Some(relay), handle.as_str())?;
    Ok(Named { person, handle })
}

pub(super) fn of_contact(tx: &Transaction<'_>, own: &Own, contact: &Contact) -> Result<Person, Error> {
    let (known, handle) = shown(tx, own, &contact.person, contact.relay.as_ref(), &contact.handle)?;
    Ok(Person {
        person: contact.person,
        handle,
        known,
        accepted: contact.accepted,
        blocked: is_blocked(tx, &contact.person)?,
        verified: contact.verified,
    })
}

/// Somebody whom a record names, as they are known now.
pub(super) fn of_named(tx: &Transaction<'_>, own: &Own, who: &Named) -> Result<Person, Error> {
    let contact = load(tx, &who.person)?;
    let relay = if who.person == own.person {
        own.profile.relay_identity
    } else {
        contact.as_ref().and_then(|c| c.relay)
    };
    let handle = bare(&who.handle);
    let (known, shown) = shown(tx, own, &who.person, relay.as_ref(), handle)?;
    let verified = contact.as_ref().is_some_and(|contact| contact.verified);
    // What told them apart once need not any more when it is known whose the name is.
    let is_apart = who.handle.contains('#') && known != Known::Pinned;
    Ok(Person {
        person: who.person,
        handle: if is_apart { who.handle.clone() } else { shown },
        known,
        accepted: who.person == own.person || contact.is_some_and(|contact| contact.accepted),
        blocked: is_blocked(tx, &who.person)?,
        verified,
    })
}
