//! Invite codes: 80 random bits in base32, in groups of four. The store keeps a hash.

use data_encoding::BASE32_NOPAD;
use posthorn_proto::KeyHash;
use rand::CryptoRng;
use sha2::{Digest as _, Sha256};

/// Separates [`hash`] from every other hash.
const LABEL: &[u8] = b"posthorn v1 invite";
/// Length of a code before base32, in bytes. That is 16 characters: too many to guess, and few enough to read
/// out.
const RANDOM_BYTES: usize = 10;

/// An invite as it is given to a person.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Invite {
    /// The code, such as `abcd-efgh-ijkl-mnop`.
    pub code: String,
    /// How many accounts it may make.
    pub uses: u32,
    /// Unix seconds after which it is void.
    pub expires: u64,
}

/// A fresh code.
pub(crate) fn random(rng: &mut (impl CryptoRng + ?Sized)) -> String {
    let mut bytes = [0; RANDOM_BYTES];
    rng.fill_bytes(&mut bytes);
    let text = BASE32_NOPAD.encode(&bytes).to_lowercase();
    let groups: Vec<&str> = (0..text.len()).step_by(4).map(|at| &text[at..at + 4]).collect();
    groups.join("-")
}

/// What the store keeps of a code. Case, spaces and hyphens do not matter.
pub(crate) fn hash(code: &str) -> KeyHash {
    let mut hash = Sha256::new();
    hash.update(LABEL);
    for byte in code.bytes().filter(u8::is_ascii_alphanumeric) {
        hash.update([byte.to_ascii_lowercase()]);
    }
    KeyHash(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn codes_are_readable_and_forgiving() {
        let code = random(&mut rand::rngs::StdRng::from_seed([1; 32]));
        assert_eq!(code.len(), 19);
        assert!(code.split('-').all(|group| group.len() == 4));
        assert_eq!(hash(&code), hash(&code.to_uppercase().replace('-', " ")));
        assert_ne!(hash(&code), hash(&code[1..]));
    }
}
