//! The account: registering, proving to be this device, and keeping the relay stocked (card, key packages,
//! tokens, the two inboxes).

mod inboxes;
pub(super) mod profile;
mod register;
mod remove;
mod stock;

use std::sync::Arc;

use super::{Account, Error, Link, LinkId, Step};
use crate::content::Author;
use crate::group::OwnLeaf;
use crate::identity::{
    Card, CardDevice, ContactLink, Credential, Device, IdentityKey, PersonId, RelayAddress,
};
use crate::inbox::InboxAddress;
use crate::store::StoreError;
use profile::Profile;

pub(super) use inboxes::EXPIRY_SECONDS;

/// The profile, and what is computed from it once: the device as it stands in its leaves.
pub(super) struct Own {
    pub(super) profile: Profile,
    pub(super) key: IdentityKey,
    pub(super) person: PersonId,
    /// Once the relay's identity is known, which the credential names.
    seated: Option<Seated>,
}

struct Seated {
    relay: RelayAddress,
    device: Device,
    credential: Credential,
    inbox: InboxAddress,
}

impl Own {
    fn of(profile: Profile) -> Result<Self, StoreError> {
        let key = profile.identity().key();
        let seated = match profile.relay_identity {
            None => None,
            Some(identity) => {
                let relay = RelayAddress { url: profile.relay_url()?, identity };
                Some(Seated {
                    device: profile.device(),
                    credential: profile.credential(&relay.identity)?,
                    inbox: profile.private_inbox.address(&relay),
                    relay,
                })
            }
        };
        Ok(Self { person: PersonId::from(&key), key, profile, seated })
    }

    fn seated(&self) -> Result<&Seated, Error> {
        self.seated.as_ref().ok_or(Error::NoAccount)
    }

    /// Our own relay.
    pub(super) fn relay(&self) -> Result<&RelayAddress, Error> {
        Ok(&self.seated()?.relay)
    }

    /// This device as it stands in its leaves.
    pub(super) fn leaf(&self) -> Result<OwnLeaf<'_>, Error> {
        let seated = self.seated()?;
        Ok(OwnLeaf { device: &seated.device, credential: &seated.credential, inbox: &seated.inbox })
    }

    /// Who says what is said here.
    pub(super) fn author(&self) -> Result<Author, Error> {
        Ok(Author { person: self.person, device: self.device()?.id() })
    }

    pub(super) fn device(&self) -> Result<&Device, Error> {
        Ok(&self.seated()?.device)
    }

    /// A connection to our own relay.
    pub(super) fn link(&self, link: Link) -> Result<LinkId, StoreError> {
        Ok(LinkId { relay: self.profile.relay_url()?, link })
    }

    /// Our card, as we hand it out.
    pub(super) fn card(&self, version: u64) -> Result<Card, Error> {
        let seated = self.seated()?;
        let device = CardDevice {
            credential: seated.credential.clone(),
            signature_key: seated.device.signature_key(),
            public_inbox: self.profile.public_inbox.address(&seated.relay),
        };
        let (identity, handle) = (self.profile.identity(), self.profile.handle()?);
        Card::issue(&identity, version, handle, seated.relay.clone(), vec![device])
            .map_err(|_| StoreError::Damaged("setting").into())
    }

    /// What the app may know of it.
    fn summary(&self) -> Result<Account, StoreError> {
        let (handle, relay) = (self.profile.handle()?, self.profile.relay_url()?);
        let link = ContactLink::new(handle.clone(), relay.clone(), self.key);
        Ok(Account {
            handle: handle.to_string(),
            relay: relay.to_string(),
            person: self.person,
            device: self.profile.device().id(),
            link: link.map(|link| link.to_string()).unwrap_or_default(),
            registered: self.profile.complete() || self.profile.established,
        })
    }
}

impl Step<'_> {
    /// The account of this profile, if there is one.
    pub(super) fn own_or_none(&mut self) -> Result<Option<Arc<Own>>, Error> {
        if self.live.own.is_none() {
            let profile = Profile::load(self.tx)?;
            self.live.own = profile.map(Own::of).transpose()?.map(Arc::new);
        }
        Ok(self.live.own.clone())
    }

    /// The account of this profile. Errors: [`Error::NoAccount`].
    pub(super) fn own(&mut self) -> Result<Arc<Own>, Error> {
        self.own_or_none()?.ok_or(Error::NoAccount)
    }

    /// Changes and saves the profile.
    pub(super) fn change_profile(&mut self, change: impl FnOnce(&mut Profile)) -> Result<(), Error> {
        if let Some(mut profile) = Profile::load(self.tx)? {
            change(&mut profile);
            profile.save(self.tx)?;
            self.live.own = None;
        }
        Ok(())
    }

    /// Fresh keys for both inboxes, now and then (rule 31): the card tells strangers, leaves tell members.
    fn renew_inbox_keys(&mut self, own: &Own) -> Result<(), Error> {
        let mut profile = own.profile.clone();
        let since = profile.seeds_since;
        profile.renew_seeds(self.now, self.rng);
        if profile.seeds_since != since {
            profile.save(self.tx)?;
            self.live.own = None;
        }
        Ok(())
    }

    pub(super) fn account_summary(&mut self) -> Result<Option<Account>, Error> {
        Ok(self.own_or_none()?.map(|own| own.summary()).transpose()?)
    }

    /// Everything that the account needs of the relay now.
    pub(super) fn progress_account(&mut self) -> Result<(), Error> {
        let done = match self.own_or_none()? {
            None => return Ok(()),
            Some(own) => self.progress_account_of(&own),
        };
        match done {
            Err(error) if error.is_fatal() => Err(error),
            done => self.note_failure(done),
        }
    }

    fn progress_account_of(&mut self, own: &Own) -> Result<(), Error> {
        let account = own.link(Link::Account)?;
        self.introduce(own, &account)?;
        if self.live.ready(&account, self.now).is_none() {
            return Ok(());
        }
        if self.is_removing() {
            return self.progress_removal(own, &account);
        }
        self.renew_inbox_keys(own)?;
        self.draw_tokens(&account)?;
        for link in [Link::Account, Link::Inbox] {
            self.create_inbox(link)?;
        }
        let own = self.own()?;
        if own.profile.public_inbox.created && own.profile.private_inbox.created {
            self.publish_key_packages(&own, &account)?;
            self.publish_card(&own, &account)?;
        }
        Ok(())
    }
}
