//! What is sealed to inboxes: invitations, the answer to one that does not open (rules 11 and 14), and the
//! requests of those who cannot go on ([`Help`](super::Help)).
//!
//! HPKE base mode authenticates nobody, so an invitation is signed by the inviter's identity, and names its
//! recipient, so that nobody can pass it on.

use posthorn_proto::chain::Chain;
use posthorn_proto::{DeviceId, MailboxId, ReadKey, ReaderId, RelayIdentity, WrongLength};
use prost::Message as _;

use super::{Repaired, UnverifiedHelp, array, wire};
use crate::conversation::GroupId;
use crate::identity::{Card, CardError, Identity, IdentityKey, RelayAddress, RelayUrl, UnverifiedCard};

/// Domain separation of an invitation's signature.
const INVITATION_LABEL: &str = "posthorn v1 invitation";
/// The highest seq that an invitation may name. No mailbox gets there, and every place behind it can still be
/// counted.
const MOST_SEQ: u64 = 1 << 53;

/// One message to an inbox, as it came.
#[derive(Debug)]
pub enum InboxMessage {
    /// Join a conversation.
    Invitation(UnverifiedInvitation),
    /// Your invitation did not open.
    WelcomeRefused(WelcomeRefused),
    /// I cannot go on there.
    Help(UnverifiedHelp),
    /// Of a kind that a later version knows.
    Unknown,
}

/// Why a message to an inbox is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    /// Not protobuf of the schema.
    #[error("the inbox message is malformed")]
    Malformed,
    /// A field of a wrong length.
    #[error(transparent)]
    Length(#[from] WrongLength),
    /// The inviter's card is not one.
    #[error("the inviter's card: {0}")]
    Card(#[from] CardError),
    /// Not signed by the card's identity.
    #[error("the invitation is not signed by the inviter")]
    Signature,
    /// Meant for somebody else.
    #[error("the invitation is for another device")]
    WrongRecipient,
    /// A seq that no mailbox has.
    #[error("the invitation names a place that no mailbox has")]
    Place,
    /// Not a relay's URL.
    #[error("the invitation names no relay")]
    Relay,
}

/// An invitation whose signature has not been checked.
#[derive(Debug)]
pub struct UnverifiedInvitation(wire::SignedInvitation);

/// An invitation signed by its inviter and meant for us.
#[derive(Debug)]
pub struct Invitation {
    /// The device that this is for, and its identity.
    pub recipient: (DeviceId, IdentityKey),
    /// Who invites.
    pub inviter: Card,
    /// The MLS group.
    pub group: GroupId,
    /// Where its mailbox is.
    pub relay: RelayAddress,
    /// Its mailbox.
    pub mailbox: MailboxId,
    /// The reader that the commit admitted.
    pub reader: ReaderId,
    /// Its one-time key.
    pub read_key: ReadKey,
    /// The seq of the commit that admitted it.
    pub seq: u64,
    /// The chain there.
    pub chain: Chain,
    /// MLS Welcome.
    pub welcome: Vec<u8>,
    /// The repair by which the inviter came to this mailbox, if it was one.
    pub repaired: Option<Repaired>,
}

/// "Your Welcome does not open; here is a fresh key package."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WelcomeRefused {
    /// Of which group.
    pub group: GroupId,
    /// Whose.
    pub device: DeviceId,
    /// To try again with.
    pub key_package: Vec<u8>,
    /// Why, as a stable name.
    pub cause: String,
}

impl Invitation {
    /// Signs and encodes, ready to be sealed.
    pub fn encode(&self, identity: &Identity) -> Vec<u8> {
        let invitation = self.to_bytes();
        let signature = identity.sign(INVITATION_LABEL, &[&invitation]).to_vec();
        let signed = wire::SignedInvitation { invitation, signature };
        wire::InboxMessage { body: Some(wire::inbox_message::Body::Invitation(signed)) }.encode_to_vec()
    }

    /// The repair that it names, if that can be: one that ended an earlier epoch than it leads to.
    pub(crate) fn repaired_before(&self, epoch: u64) -> Option<Repaired> {
        self.repaired.filter(|repaired| repaired.epoch < epoch)
    }

    /// Its bytes without the signature, for keeping one that was verified.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        wire::Invitation {
            recipient: self.recipient.0.0.to_vec(),
            recipient_identity: self.recipient.1.as_bytes().to_vec(),
            inviter_card: self.inviter.encoded().to_vec(),
            group: self.group.0.to_vec(),
            relay_url: self.relay.url.as_str().to_owned(),
            relay_identity: self.relay.identity.0.to_vec(),
            mailbox: self.mailbox.0.to_vec(),
            reader: self.reader.0.to_vec(),
            read_key: self.read_key.expose().to_vec(),
            seq: self.seq,
            chain: self.chain.0.to_vec(),
            welcome: self.welcome.clone(),
            repaired: self.repaired.map(Repaired::to_wire),
        }
        .encode_to_vec()
    }

    /// What such bytes say. The signature, and whom it is for, are the caller's to know.
    pub(crate) fn from_bytes(bytes: &[u8], now: u64) -> Result<Self, InvitationError> {
        let raw = wire::Invitation::decode(bytes).map_err(|_| InvitationError::Malformed)?;
        if raw.seq > MOST_SEQ {
            return Err(InvitationError::Place);
        }
        let recipient = IdentityKey::try_from(&raw.recipient_identity[..])
            .map_err(|_| InvitationError::WrongRecipient)?;
        Ok(Self {
            recipient: (DeviceId::try_from(&raw.recipient[..])?, recipient),
            inviter: UnverifiedCard::new(&raw.inviter_card)?.verify(None, now)?,
            group: GroupId::try_from(&raw.group[..])?,
            relay: RelayAddress {
                url: RelayUrl::parse(&raw.relay_url).map_err(|_| InvitationError::Relay)?,
                identity: RelayIdentity::try_from(&raw.relay_identity[..])?,
            },
            mailbox: MailboxId::try_from(&raw.mailbox[..])?,
            reader: ReaderId::try_from(&raw.reader[..])?,
            read_key: ReadKey::try_from(&raw.read_key[..])?,
            seq: raw.seq,
            chain: Chain(array("chain", &raw.chain)?),
            welcome: raw.welcome,
            repaired: raw.repaired.as_ref().map(Repaired::from_wire).transpose()?,
        })
    }
}

impl UnverifiedInvitation {
    /// Checks the card, the signature and the recipient; `now` in unix milliseconds.
    pub fn verify(
        self,
        device: DeviceId,
        identity: &IdentityKey,
        now: u64,
    ) -> Result<Invitation, InvitationError> {
        let invitation = Invitation::from_bytes(&self.0.invitation, now)?;
        let inviter = invitation.inviter.identity();
        if !inviter.has_signed(INVITATION_LABEL, &[&self.0.invitation], &self.0.signature) {
            return Err(InvitationError::Signature);
        }
        if invitation.recipient != (device, *identity) {
            return Err(InvitationError::WrongRecipient);
        }
        Ok(invitation)
    }
}

impl InboxMessage {
    /// Parses what an inbox opened.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvitationError> {
        use wire::inbox_message::Body;
        let raw = wire::InboxMessage::decode(bytes).map_err(|_| InvitationError::Malformed)?;
        let Some(body) = raw.body else { return Ok(Self::Unknown) };
        match body {
            Body::Invitation(signed) => Ok(Self::Invitation(UnverifiedInvitation(signed))),
            Body::WelcomeRefused(refused) => Ok(Self::WelcomeRefused(WelcomeRefused {
                group: GroupId::try_from(&refused.group[..])?,
                device: DeviceId::try_from(&refused.device[..])?,
                key_package: refused.key_package,
                cause: refused.cause.chars().filter(|c| c.is_ascii_graphic()).take(64).collect(),
            })),
            Body::Help(signed) => Ok(Self::Help(UnverifiedHelp(signed))),
        }
    }
}

impl WelcomeRefused {
    /// Encodes, ready to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        let refused = wire::WelcomeRefused {
            group: self.group.0.to_vec(),
            device: self.device.0.to_vec(),
            key_package: self.key_package.clone(),
            cause: self.cause.clone(),
        };
        wire::InboxMessage { body: Some(wire::inbox_message::Body::WelcomeRefused(refused)) }.encode_to_vec()
    }
}
