//! The relay's own keys: the identity that names it, and the ephemeral keys of its connections.
//!
//! Owns the identity file. Proofs are made of these keys in `posthorn_proto::{auth, proof}`; nothing else
//! uses them.

use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use posthorn_proto::RelayIdentity;
use rand::rngs::StdRng;
use rand::{CryptoRng, RngCore as _, SeedableRng as _};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// The identity's file in the data folder: 64 hexadecimal digits, a space, their crc32c as 8 more, and a
/// newline; mode 0600. (Without the checksum, one changed digit would be another identity. Files from before
/// it are read as well.)
const FILE: &str = "relay-identity.key";
/// Hexadecimal digits of a key.
const DIGITS: usize = 64;
/// How long new connections are given the same ephemeral key, in milliseconds. A connection keeps the one
/// that it was given.
const EPHEMERAL_MILLIS: u64 = 3_600_000;

/// The secret of the relay's long-term X25519 key.
#[derive(Clone)]
pub struct RelaySecret(StaticSecret);

/// The identity's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Reading or writing failed.
    #[error("the relay's identity {0} cannot be used: {1}")]
    File(PathBuf, io::Error),
    /// Not such a file.
    #[error("{0} is not a relay's identity: restore it from a backup, or remove it to begin with a new one")]
    Malformed(PathBuf),
    /// Others may read it.
    #[error("{0} can be read by others: chmod 600 it, if you know that nobody has")]
    Open(PathBuf),
}

impl std::fmt::Debug for RelaySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RelaySecret(secret)")
    }
}

impl RelaySecret {
    /// A key of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// A fresh key.
    pub fn random(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *bytes);
        Self::from_bytes(*bytes)
    }

    /// The key of a data folder; made at the first start, durably.
    pub fn load_or_create(data: &Path, rng: &mut impl CryptoRng) -> Result<Self, SecretError> {
        let path = data.join(FILE);
        let failed = |error| SecretError::File(path.clone(), error);
        match std::fs::read(&path) {
            Ok(text) => {
                let text = Zeroizing::new(text);
                let mode = std::fs::metadata(&path).map_err(failed)?.permissions().mode();
                if mode & 0o077 != 0 {
                    return Err(SecretError::Open(path));
                }
                Self::parse(text.trim_ascii_end()).ok_or(SecretError::Malformed(path))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = Self::random(rng);
                secret.write(data, &path).map_err(failed)?;
                Ok(secret)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (digits, checksum) = match text.split_at_checked(DIGITS)? {
            (digits, []) => (digits, None),
            (digits, rest) => (digits, Some(rest.strip_prefix(b" ")?)),
        };
        if checksum.is_some_and(|checksum| checksum != format!("{:08x}", crc32c::crc32c(digits)).as_bytes()) {
            return None;
        }
        let bytes = HEXLOWER.decode(digits).map(Zeroizing::new).ok()?;
        <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Self::from_bytes)
    }

    /// Whether a data folder has an identity.
    pub fn is_in(data: &Path) -> bool {
        data.join(FILE).exists()
    }

    /// Whole or not at all: cards out in the world name this key.
    fn write(&self, data: &Path, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        let text = Zeroizing::new(HEXLOWER.encode(self.0.as_bytes()));
        file.write_all(text.as_bytes())?;
        file.write_all(format!(" {:08x}\n", crc32c::crc32c(text.as_bytes())).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(data)?.sync_all()
    }

    /// The public key, which names the relay.
    pub fn identity(&self) -> RelayIdentity {
        RelayIdentity(PublicKey::from(&self.0).to_bytes())
    }

    pub(crate) fn secret(&self) -> &StaticSecret {
        &self.0
    }
}

/// A short-lived key that many connections share.
pub(crate) struct Ephemeral {
    pub(crate) secret: StaticSecret,
    pub(crate) public: [u8; 32],
}

/// Hands out ephemeral keys and nonces.
pub(crate) struct Ephemerals {
    /// Guards the relay's randomness and the key for new connections; held for a few instructions.
    inner: Mutex<Inner>,
}

struct Inner {
    rng: StdRng,
    /// The key and the steady time at which it was made, milliseconds.
    current: Option<(Arc<Ephemeral>, u64)>,
}

impl Ephemerals {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { inner: Mutex::new(Inner { rng: StdRng::from_seed(seed), current: None }) }
    }

    /// The key and a fresh nonce for a new connection.
    pub(crate) fn draw(&self, now: u64) -> (Arc<Ephemeral>, [u8; 16]) {
        let inner = &mut *self.inner.lock();
        let mut nonce = [0; 16];
        inner.rng.fill_bytes(&mut nonce);
        let fresh = inner.current.as_ref().filter(|(_, made)| now.saturating_sub(*made) < EPHEMERAL_MILLIS);
        if let Some((key, _)) = fresh {
            return (key.clone(), nonce);
        }
        let secret = RelaySecret::random(&mut inner.rng).0;
        let key = Arc::new(Ephemeral { public: PublicKey::from(&secret).to_bytes(), secret });
        inner.current = Some((key.clone(), now));
        (key, nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_stays_and_is_private() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut rng = StdRng::from_seed([1; 32]);
        let first = RelaySecret::load_or_create(dir.path(), &mut rng).expect("created");
        let again = RelaySecret::load_or_create(dir.path(), &mut rng).expect("read");
        assert_eq!(first.identity(), again.identity());
        assert_eq!(format!("{first:?}"), "RelaySecret(secret)");
        let path = dir.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(RelaySecret::load_or_create(dir.path(), &mut rng), Err(SecretError::Open(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        let good = std::fs::read(&path).expect("read");
        for bit in 0..(good.len() - 1) * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bad).expect("written");
            assert!(
                matches!(RelaySecret::load_or_create(dir.path(), &mut rng), Err(SecretError::Malformed(_))),
                "bit {bit}"
            );
        }
        std::fs::write(&path, &good[..DIGITS]).expect("written");
        let old =
            RelaySecret::load_or_create(dir.path(), &mut rng).expect("from before there was a checksum");
        assert_eq!(old.identity(), first.identity());
        std::fs::write(&path, "short").expect("written");
        assert!(matches!(RelaySecret::load_or_create(dir.path(), &mut rng), Err(SecretError::Malformed(_))));
    }

    #[test]
    fn ephemerals_are_shared_for_an_hour_and_nonces_never() {
        let keys = Ephemerals::new([7; 32]);
        let (first, nonce) = keys.draw(0);
        let (second, other) = keys.draw(EPHEMERAL_MILLIS - 1);
        let (third, _) = keys.draw(EPHEMERAL_MILLIS);
        assert_eq!(first.public, second.public);
        assert_ne!(nonce, other);
        assert_ne!(first.public, third.public);
    }
}
