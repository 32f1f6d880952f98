//! What can change of a blob, and the bytes that say so. The ledger's records carry these changes.
//!
//! It owns the format of its own fields only: what comes before them in a record is the ledger's.

use posthorn_proto::{BlobId, KeyHash};

use crate::store::BlobView;
use crate::store::codec::{BadRecord, Parser, Writer};

/// How a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// Its length, as declared, bytes.
    pub(crate) length: u64,
    /// Hash of its holder's key.
    pub(crate) holder: KeyHash,
    /// When its lease ends, unix seconds.
    pub(crate) until: u32,
}

/// What a record says about a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BlobChange {
    /// It exists; its life is the record's version. The upload token is spent.
    Created { blob: BlobId, token: KeyHash, held: Held },
    /// This is how it is: its lease was extended.
    Extended { blob: BlobId, life: u64, held: Held },
    /// It is gone.
    Removed { blob: BlobId, life: u64 },
}

impl Held {
    /// What can be told of a blob of this life that is like this.
    pub(crate) fn view(self, life: u64) -> BlobView {
        BlobView { life, length: self.length, holder: self.holder, until: u64::from(self.until) }
    }

    /// Appends its bytes.
    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.number(self.length).fixed(self.holder).number(u64::from(self.until));
    }

    /// Reads what [`Held::encode`] wrote.
    pub(crate) fn decode(p: &mut Parser) -> Result<Self, BadRecord> {
        Ok(Self { length: p.number()?, holder: p.key()?, until: p.small()? })
    }
}

impl BlobChange {
    /// The stable number of its kind: 20 to 22. A number is never reused.
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Created { .. } => 20,
            Self::Extended { .. } => 21,
            Self::Removed { .. } => 22,
        }
    }

    /// Whether it is usually needed for a long time.
    pub(crate) fn is_lasting(&self) -> bool {
        !matches!(self, Self::Removed { .. })
    }

    /// Appends its bytes.
    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        match self {
            Self::Created { blob, token, held } => {
                w.fixed(blob).fixed(token);
                held.encode(w);
            }
            Self::Extended { blob, life, held } => {
                w.fixed(blob).number(*life);
                held.encode(w);
            }
            Self::Removed { blob, life } => {
                w.fixed(blob).number(*life);
            }
        }
    }

    /// Reads what [`BlobChange::encode`] wrote.
    pub(crate) fn decode(kind: u8, p: &mut Parser) -> Result<Self, BadRecord> {
        let blob = BlobId(p.array()?);
        Ok(match kind {
            20 => Self::Created { blob, token: p.key()?, held: Held::decode(p)? },
            21 => Self::Extended { blob, life: p.number()?, held: Held::decode(p)? },
            22 => Self::Removed { blob, life: p.number()? },
            _ => return Err(BadRecord("an unknown kind")),
        })
    }
}
