//! The system's keyring: the kernel's on Linux (kept until the machine restarts, or some days without use),
//! the Keychain on macOS, the Credential Manager on Windows. Without D-Bus: a desktop's secret service is not
//! asked.

use std::path::Path;

use keyring_core::Entry;
use zeroize::Zeroizing;

const SERVICE: &str = "posthorn";

fn entry(home: &Path) -> keyring_core::Result<Entry> {
    #[cfg(target_os = "linux")]
    keyring_core::set_default_store(linux_keyutils_keyring_store::Store::new()?);
    #[cfg(target_os = "macos")]
    keyring_core::set_default_store(apple_native_keyring_store::keychain::Store::new()?);
    #[cfg(windows)]
    keyring_core::set_default_store(windows_native_keyring_store::Store::new()?);
    Entry::new(SERVICE, &home.display().to_string())
}

/// The passphrase of the profile in this folder, if the keyring has it.
pub(crate) fn get(home: &Path) -> Option<Zeroizing<String>> {
    entry(home).and_then(|entry| entry.get_password()).ok().map(Zeroizing::new)
}

/// Forgets the passphrase; whether it had one. Errors are the keyring's words.
pub(crate) fn remove(home: &Path) -> Result<bool, String> {
    match entry(home).and_then(|entry| entry.delete_credential()) {
        Ok(()) => Ok(true),
        Err(keyring_core::Error::NoEntry) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// Keeps the passphrase. Errors are the keyring's words.
pub(crate) fn set(home: &Path, passphrase: &str) -> Result<(), String> {
    entry(home).and_then(|entry| entry.set_password(passphrase)).map_err(|error| error.to_string())
}
