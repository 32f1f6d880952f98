//! What can change in the directory, and the bytes that say so. The ledger's records carry these changes and
//! the mailboxes'.
//!
//! It owns the format of its own fields only: what comes before them in a record is the ledger's.

use bytes::Bytes;
use posthorn_proto::{BlobId, DeviceId, Handle, KeyHash, MailboxId};

use crate::store::codec::{BadRecord, Parser, Writer};

/// What a record says about accounts, cards, key packages, tokens and invites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DirectoryChange {
    /// An account with its first device exists, and this many uses of the invite are left.
    Registered {
        handle: Handle,
        identity_key: [u8; 32],
        device: DeviceId,
        device_key: [u8; 32],
        invite: Option<(KeyHash, u32)>,
    },
    /// The account of this name is gone, and its devices for good. Kept for ever: whatever is left of it
    /// anywhere must not come back.
    AccountRemoved { handle: Handle, devices: Vec<DeviceId> },
    /// This is the account's card.
    CardPublished { handle: Handle, card_version: u64, card: Bytes },
    /// The device has this one-time key package. They are numbered from 1 and handed out in order.
    KeyPackageAdded { device: DeviceId, number: u64, key_package: Bytes },
    /// The key package of this number, which is gone, had this digest; kept so that a repeated publication is
    /// recognised.
    KeyPackageMark { device: DeviceId, number: u64, digest: u64 },
    /// This has been the device's last-resort key package since the record's time.
    LastResort { device: DeviceId, key_package: Bytes },
    /// One-time key packages below this number are gone.
    KeyPackagesTaken { device: DeviceId, first: u64 },
    /// These creation tokens may be spent. The day is unix seconds / 86,400. (Of one that was spent it says
    /// that it was given back.)
    TokensDrawn { day: u32, hashes: Vec<KeyHash> },
    /// A tombstone: copied forward from `Created` while a draw of this token may still stand in an older
    /// segment.
    TokenSpent { token: KeyHash },
    /// This creation token, which was drawn on that day, is spent on this mailbox, which is not created yet.
    TokenSpentOn { day: u32, token: KeyHash, mailbox: MailboxId },
    /// Tokens of either purpose that were drawn before this day are void.
    TokensExpired { before: u32 },
    /// These upload tokens may be spent.
    UploadTokensDrawn { day: u32, hashes: Vec<KeyHash> },
    /// The same tombstone for an upload token.
    UploadTokenSpent { token: KeyHash },
    /// Likewise an upload token, which is spent on this blob.
    UploadTokenSpentOn { day: u32, token: KeyHash, blob: BlobId },
    /// An invite exists with this many uses.
    InviteMinted { hash: KeyHash, uses: u32, expires: u64 },
    /// The invite is gone.
    InviteGone { hash: KeyHash },
}

impl DirectoryChange {
    /// The stable number of its kind, from 30 on. A number is never reused.
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Registered { .. } => 30,
            Self::CardPublished { .. } => 31,
            Self::KeyPackageAdded { .. } => 32,
            Self::KeyPackageMark { .. } => 33,
            Self::LastResort { .. } => 34,
            Self::KeyPackagesTaken { .. } => 35,
            Self::AccountRemoved { .. } => 36,
            Self::TokensDrawn { .. } => 40,
            Self::TokenSpent { .. } => 41,
            Self::TokensExpired { .. } => 42,
            Self::InviteMinted { .. } => 43,
            Self::InviteGone { .. } => 44,
            Self::UploadTokensDrawn { .. } => 45,
            Self::UploadTokenSpent { .. } => 46,
            Self::TokenSpentOn { .. } => 47,
            Self::UploadTokenSpentOn { .. } => 48,
        }
    }

    /// The opaque bytes that it carries.
    pub(crate) fn body(&self) -> Option<&Bytes> {
        match self {
            Self::CardPublished { card, .. } => Some(card),
            Self::KeyPackageAdded { key_package, .. } | Self::LastResort { key_package, .. } => {
                Some(key_package)
            }
            _ => None,
        }
    }

    /// Whether it is usually needed for a long time. The others are soon superseded by the next of their
    /// kind.
    pub(crate) fn is_lasting(&self) -> bool {
        !matches!(
            self,
            Self::KeyPackagesTaken { .. }
                | Self::TokenSpent { .. }
                | Self::TokenSpentOn { .. }
                | Self::UploadTokenSpent { .. }
                | Self::UploadTokenSpentOn { .. }
                | Self::TokensExpired { .. }
                | Self::InviteGone { .. }
        )
    }

    /// Appends its bytes up to the body, which comes last.
    pub(crate) fn encode_head(&self, w: &mut Writer<'_>) {
        match self {
            Self::Registered { handle, identity_key, device, device_key, invite } => {
                w.counted(handle.as_str().as_bytes()).fixed(identity_key).fixed(device).fixed(device_key);
                w.number(u64::from(invite.is_some()));
                if let Some((hash, left)) = invite {
                    w.fixed(hash).number(u64::from(*left));
                }
            }
            Self::AccountRemoved { handle, devices } => {
                w.counted(handle.as_str().as_bytes()).number(devices.len() as u64);
                for device in devices {
                    w.fixed(device);
                }
            }
            Self::CardPublished { handle, card_version, .. } => {
                w.counted(handle.as_str().as_bytes()).number(*card_version);
            }
            Self::KeyPackageAdded { device, number, .. } => {
                w.fixed(device).number(*number);
            }
            Self::LastResort { device, .. } => {
                w.fixed(device);
            }
            Self::KeyPackageMark { device, number, digest } => {
                w.fixed(device).number(*number).fixed(digest.to_le_bytes());
            }
            Self::KeyPackagesTaken { device, first } => {
                w.fixed(device).number(*first);
            }
            Self::TokensDrawn { day, hashes } | Self::UploadTokensDrawn { day, hashes } => {
                w.number(u64::from(*day)).number(hashes.len() as u64);
                for hash in hashes {
                    w.fixed(hash);
                }
            }
            Self::TokenSpent { token } | Self::UploadTokenSpent { token } => {
                w.fixed(token);
            }
            Self::TokenSpentOn { day, token, mailbox } => {
                w.number(u64::from(*day)).fixed(token).fixed(mailbox);
            }
            Self::UploadTokenSpentOn { day, token, blob } => {
                w.number(u64::from(*day)).fixed(token).fixed(blob);
            }
            Self::TokensExpired { before } => {
                w.number(u64::from(*before));
            }
            Self::InviteMinted { hash, uses, expires } => {
                w.fixed(hash).number(u64::from(*uses)).number(*expires);
            }
            Self::InviteGone { hash } => {
                w.fixed(hash);
            }
        }
    }

    /// Reads what [`DirectoryChange::encode_head`] wrote, and the body.
    pub(crate) fn decode(kind: u8, p: &mut Parser) -> Result<Self, BadRecord> {
        Ok(match kind {
            30 => Self::Registered {
                handle: p.handle()?,
                identity_key: p.array()?,
                device: DeviceId(p.array()?),
                device_key: p.array()?,
                invite: if p.flag()? { Some((p.key()?, p.small()?)) } else { None },
            },
            31 => Self::CardPublished { handle: p.handle()?, card_version: p.number()?, card: p.rest() },
            32 => Self::KeyPackageAdded {
                device: DeviceId(p.array()?),
                number: p.number()?,
                key_package: p.rest(),
            },
            33 => Self::KeyPackageMark {
                device: DeviceId(p.array()?),
                number: p.number()?,
                digest: u64::from_le_bytes(p.array()?),
            },
            34 => Self::LastResort { device: DeviceId(p.array()?), key_package: p.rest() },
            35 => Self::KeyPackagesTaken { device: DeviceId(p.array()?), first: p.number()? },
            36 => {
                let handle = p.handle()?;
                let count = p.count(DeviceId::LEN)?;
                let devices = (0..count).map(|_| Ok(DeviceId(p.array()?))).collect::<Result<_, _>>()?;
                Self::AccountRemoved { handle, devices }
            }
            40 => Self::TokensDrawn { day: p.small()?, hashes: p.keys()? },
            41 => Self::TokenSpent { token: p.key()? },
            42 => Self::TokensExpired { before: p.small()? },
            43 => Self::InviteMinted { hash: p.key()?, uses: p.small()?, expires: p.number()? },
            44 => Self::InviteGone { hash: p.key()? },
            45 => Self::UploadTokensDrawn { day: p.small()?, hashes: p.keys()? },
            46 => Self::UploadTokenSpent { token: p.key()? },
            47 => Self::TokenSpentOn { day: p.small()?, token: p.key()?, mailbox: MailboxId(p.array()?) },
            48 => Self::UploadTokenSpentOn { day: p.small()?, token: p.key()?, blob: BlobId(p.array()?) },
            _ => return Err(BadRecord("an unknown kind")),
        })
    }
}
