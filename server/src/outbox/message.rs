//! One message to a client, on its way to the socket.

use std::sync::Arc;

use bytes::Bytes;

/// The bytes of a message. A clone shares them.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// All of it in one piece.
    Whole(Bytes),
    /// A delivery with its envelope where it lies, since it came from the poster: nobody copies it but into a
    /// socket, however many get it.
    Delivery(Arc<Split>),
}

/// A message in two pieces.
#[derive(Debug)]
pub(crate) struct Split {
    /// What comes before the envelope.
    head: Vec<u8>,
    envelope: Bytes,
}

impl Message {
    /// A message that ends with this envelope.
    pub(crate) fn split(head: Vec<u8>, envelope: Bytes) -> Self {
        Self::Delivery(Arc::new(Split { head, envelope }))
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Delivery(split) => split.head.len() + split.envelope.len(),
        }
    }

    /// Its two pieces, of which either may be empty.
    pub(crate) fn pieces(&self) -> (&[u8], &Bytes) {
        match self {
            Self::Whole(bytes) => (&[], bytes),
            Self::Delivery(split) => (&split.head, &split.envelope),
        }
    }

    /// All of it in one piece, copied if it is not.
    pub(crate) fn whole(self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Delivery(split) => [&split.head[..], &split.envelope].concat().into(),
        }
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}
