//! A device that cannot go on in a conversation asks every member for a way back, and says what it did
//! itself (rule 7). Signed by its identity, because HPKE authenticates nobody.

use posthorn_proto::DeviceId;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{InvitationError, array, wire};
use crate::conversation::GroupId;
use crate::identity::{Identity, IdentityKey};

const LABEL: &str = "posthorn v1 help";
/// The highest number in one: epochs and milliseconds.
const MOST_NUMBER: u64 = 1 << 53;
/// The longest commit in one, bytes: what fits an inbox with the rest.
pub(crate) const MOST_REPAIR: usize = 200 * 1024;
/// The longest key package in one, bytes: those of our rules have a quarter of it.
const MOST_PACKAGE: usize = 16 * 1024;

/// A repair. Of rivals the greatest wins: the highest epoch, then the lowest leaf, then the lowest hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// The epoch that its commit ended.
    pub epoch: u64,
    /// Whose.
    pub leaf: u32,
    /// SHA-256 of the commit.
    pub hash: [u8; 32],
}

/// A request whose signature has not been checked.
#[derive(Debug)]
pub struct UnverifiedHelp(pub(super) wire::SignedHelp);

/// "I cannot go on there: take me out and in again, with this key package", and perhaps: "or follow me to
/// where I have moved the conversation".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Help {
    /// The MLS group.
    pub group: GroupId,
    /// Who asks.
    pub identity: IdentityKey,
    /// Which device.
    pub device: DeviceId,
    /// Unix milliseconds; of one device the latest counts.
    pub at: u64,
    /// The epoch that it was in when it could not go on, or was led away.
    pub epoch: u64,
    /// A fresh one.
    pub key_package: Vec<u8>,
    /// Its commit out of that epoch, which moves the conversation to a mailbox that it made. Its last good
    /// (seq, chain) are signed with it, as with every commit (rule 30).
    pub repair: Option<Vec<u8>>,
    /// The leaf whose commit that is: whoever follows a repair may second it.
    pub committer: u32,
    /// The repair that has led it to where it is.
    pub led_by: Option<Repaired>,
    /// It goes on there, and says so to those who may be elsewhere. Else it cannot stay: another repair won,
    /// nobody followed, or it is suspended.
    pub stays: bool,
}

impl Repaired {
    /// By this commit, of that leaf, out of that epoch.
    pub(crate) fn by(epoch: u64, leaf: u32, commit: &[u8]) -> Self {
        Self { epoch, leaf, hash: Sha256::digest(commit).into() }
    }

    /// Whether this one wins against a rival.
    pub fn beats(&self, rival: &Self) -> bool {
        let rank = |one: &Self| (std::cmp::Reverse(one.epoch), one.leaf, one.hash);
        rank(self) < rank(rival)
    }

    pub(super) fn to_wire(self) -> wire::Repaired {
        wire::Repaired { epoch: self.epoch, leaf: self.leaf, hash: self.hash.to_vec() }
    }

    pub(super) fn from_wire(raw: &wire::Repaired) -> Result<Self, InvitationError> {
        if raw.epoch > MOST_NUMBER {
            return Err(InvitationError::Malformed);
        }
        Ok(Self { epoch: raw.epoch, leaf: raw.leaf, hash: array("hash", &raw.hash)? })
    }
}

impl Help {
    /// The repair by which it says to be where it is.
    pub(crate) fn is_at(&self) -> Option<Repaired> {
        let of = |commit: &Vec<u8>| Repaired::by(self.epoch, self.committer, commit);
        self.repair.as_ref().map(of).or(self.led_by)
    }

    /// Signs and encodes, ready to be sealed.
    pub fn encode(&self, identity: &Identity) -> Vec<u8> {
        let help = wire::Help {
            group: self.group.0.to_vec(),
            identity: self.identity.as_bytes().to_vec(),
            device: self.device.0.to_vec(),
            at: self.at,
            epoch: self.epoch,
            key_package: self.key_package.clone(),
            repair: self.repair.clone().unwrap_or_default(),
            committer: self.committer,
            led_by: self.led_by.map(Repaired::to_wire),
            stays: self.stays,
        }
        .encode_to_vec();
        let signature = identity.sign(LABEL, &[&help]).to_vec();
        let signed = wire::SignedHelp { help, signature };
        wire::InboxMessage { body: Some(wire::inbox_message::Body::Help(signed)) }.encode_to_vec()
    }
}

impl UnverifiedHelp {
    /// Checks the signature. Whether who signed is a member is the caller's to know.
    pub fn verify(self) -> Result<Help, InvitationError> {
        let raw = wire::Help::decode(&self.0.help[..]).map_err(|_| InvitationError::Malformed)?;
        let identity = IdentityKey::try_from(&raw.identity[..]).map_err(|_| InvitationError::Signature)?;
        if !identity.has_signed(LABEL, &[&self.0.help], &self.0.signature) {
            return Err(InvitationError::Signature);
        }
        let is_too_long = raw.repair.len() > MOST_REPAIR || raw.key_package.len() > MOST_PACKAGE;
        if raw.at > MOST_NUMBER || raw.epoch > MOST_NUMBER || is_too_long {
            return Err(InvitationError::Malformed);
        }
        Ok(Help {
            group: GroupId::try_from(&raw.group[..])?,
            identity,
            device: DeviceId::try_from(&raw.device[..])?,
            at: raw.at,
            epoch: raw.epoch,
            key_package: raw.key_package,
            repair: Some(raw.repair).filter(|commit| !commit.is_empty()),
            committer: raw.committer,
            led_by: raw.led_by.as_ref().map(Repaired::from_wire).transpose()?,
            stays: raw.stays,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::InboxMessage;

    fn help(repair: Option<Vec<u8>>) -> (Identity, Help) {
        let identity = Identity::from_seed(&[1; 32]);
        let help = Help {
            group: GroupId([2; 16]),
            identity: identity.key(),
            device: DeviceId([3; 16]),
            at: 1_800_000_000_000,
            epoch: 7,
            key_package: vec![4; 50],
            committer: u32::from(repair.is_some()),
            led_by: repair.as_ref().map(|_| Repaired { epoch: 6, leaf: 2, hash: [6; 32] }),
            stays: false,
            repair,
        };
        (identity, help)
    }

    fn read(bytes: &[u8]) -> Result<Help, InvitationError> {
        match InboxMessage::decode(bytes)? {
            InboxMessage::Help(unverified) => unverified.verify(),
            other => panic!("not a request for help: {other:?}"),
        }
    }

    /// What lies in an inbox may be read by a later version.
    #[test]
    fn its_bytes_stay_as_they_are() {
        let hashes = [(None, false), (Some(vec![5; 60]), false), (None, true)].map(|(repair, stays)| {
            let (identity, mut help) = help(repair);
            help.stays = stays;
            let bytes = help.encode(&identity);
            assert_eq!(read(&bytes).expect("good"), help);
            Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>()
        });
        assert_eq!(hashes, ["406bd45d074e8c62", "3053f7768e3fcc09", "64804cf6daad8c0f"]);
    }

    #[test]
    fn of_rivals_all_choose_the_same() {
        let of = |epoch, leaf, hash| Repaired { epoch, leaf, hash: [hash; 32] };
        let in_order = [of(9, 5, 5), of(8, 0, 9), of(8, 1, 0), of(8, 1, 1)];
        for (place, one) in in_order.iter().enumerate() {
            for (other_place, other) in in_order.iter().enumerate() {
                assert_eq!(one.beats(other), place < other_place);
            }
        }
    }

    #[test]
    fn what_is_kept_of_one_is_bounded() {
        for (repair, package, is_good) in [
            (MOST_REPAIR, MOST_PACKAGE, true),
            (MOST_REPAIR + 1, MOST_PACKAGE, false),
            (MOST_REPAIR, MOST_PACKAGE + 1, false),
        ] {
            let (identity, mut help) = help(Some(vec![5; repair]));
            help.key_package = vec![4; package];
            let read = read(&help.encode(&identity));
            assert_eq!(read, if is_good { Ok(help) } else { Err(InvitationError::Malformed) });
        }
    }

    #[test]
    fn nobody_asks_in_the_name_of_another() {
        let (_, help) = help(None);
        let other = Identity::from_seed(&[9; 32]);
        assert_eq!(read(&help.encode(&other)), Err(InvitationError::Signature));
    }
}
