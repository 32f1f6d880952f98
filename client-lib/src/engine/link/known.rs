//! Relays other than our own that the person chose: by naming somebody who is there, by accepting an
//! invitation that leads there, or by naming the relay. They are in use from then on (rule 25), each at the
//! one address that was chosen, and each by the key that it proved there first.

use std::collections::{BTreeMap, BTreeSet};

use posthorn_proto::RelayIdentity;
use serde::{Deserialize, Serialize};

use super::Step;
use crate::conversation::Conversation;
use crate::engine::{Error, Relay};
use crate::identity::{RelayAddress, RelayUrl, Route};
use crate::store::table::Table;
use crate::store::{StoreError, Transaction};

const TABLE: Table<[u8; 32], KnownRelay> = Table::new("relay");

/// A relay that the person chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct KnownRelay {
    url: String,
    /// What it proved first; `None` until then.
    identity: Option<RelayIdentity>,
}

impl KnownRelay {
    fn address(&self) -> Option<RelayAddress> {
        Some(RelayAddress { url: RelayUrl::parse(&self.url).ok()?, identity: self.identity? })
    }
}

fn key(tx: &Transaction<'_>, url: &RelayUrl) -> [u8; 32] {
    TABLE.hidden(tx, url.as_str().as_bytes())
}

/// The address that a relay is known by here, if the person chose it.
pub(in crate::engine) fn address_of(
    tx: &Transaction<'_>,
    identity: &RelayIdentity,
) -> Result<Option<RelayAddress>, StoreError> {
    let known = TABLE.all(tx)?.into_iter().filter_map(|(_, relay)| relay.address());
    Ok(known.into_iter().find(|address| address.identity == *identity))
}

/// The relay at this host and port, if the person chose it.
pub(in crate::engine) fn url_at(tx: &Transaction<'_>, host: &str) -> Result<Option<RelayUrl>, StoreError> {
    let known = TABLE.all(tx)?.into_iter().filter_map(|(_, relay)| RelayUrl::parse(&relay.url).ok());
    Ok(known.into_iter().find(|url| url.host() == host))
}

/// Whether this device takes part in a conversation where it is now.
fn is_in_use(record: &Conversation) -> bool {
    record.is_read() && !record.awaits_consent()
}

impl Step<'_> {
    /// From now on this relay is in use: the person chose it. Errors: [`Error::PlainRelay`], where whoever is
    /// on the way could read along, which takes a word of its own.
    pub(in crate::engine) fn use_relay(
        &mut self,
        url: &RelayUrl,
        identity: Option<RelayIdentity>,
        plainly: bool,
    ) -> Result<(), Error> {
        let (tx, key) = (self.tx, key(self.tx, url));
        let known = TABLE.get(tx, &key)?;
        if known.is_none() && !plainly && url.is_exposed() && !self.is_in_use_at(url)? {
            return Err(Error::PlainRelay(url.to_string()));
        }
        let mut relay = known.unwrap_or_else(|| KnownRelay { url: url.to_string(), identity: None });
        relay.identity = relay.identity.or(identity);
        Ok(TABLE.put(tx, &key, &relay)?)
    }

    /// The relays that this device uses, our own first.
    pub(in crate::engine) fn relays(&mut self) -> Result<Vec<Relay>, Error> {
        self.flush()?;
        let own = self.own()?.profile.relay_url()?;
        let mut conversations: BTreeMap<String, u64> = BTreeMap::new();
        for (_, record) in Conversation::all(self.tx)?.into_iter().filter(|(_, record)| is_in_use(record)) {
            *conversations.entry(record.relay_url).or_default() += 1;
        }
        let chosen = TABLE.all(self.tx)?.into_iter().map(|(_, relay)| relay.url);
        let mut others: BTreeSet<String> = chosen.chain(conversations.keys().cloned()).collect();
        others.remove(own.as_str());
        let all = std::iter::once(own.to_string()).chain(others);
        let one = |relay: String| Relay {
            own: relay == own.as_str(),
            conversations: conversations.get(&relay).copied().unwrap_or_default(),
            unreachable: self.live.why_unreachable(&relay).cloned(),
            route: RelayUrl::parse(&relay).map_or(Route::Direct, |url| self.live.route(&url)).to_string(),
            relay,
        };
        Ok(all.map(one).collect())
    }

    /// Nobody is ever found where no relay is.
    pub(in crate::engine) fn forget_unproven_relay(&mut self, url: &RelayUrl) -> Result<(), Error> {
        let key = key(self.tx, url);
        if TABLE.get(self.tx, &key)?.is_some_and(|known| known.identity.is_none()) {
            TABLE.remove(self.tx, &key)?;
        }
        Ok(())
    }

    fn is_in_use_at(&mut self, url: &RelayUrl) -> Result<bool, Error> {
        Ok(self.identity_at(url)?.is_some())
    }

    /// The key that we know of the relay at a URL.
    pub(in crate::engine) fn identity_at(&mut self, url: &RelayUrl) -> Result<Option<RelayIdentity>, Error> {
        if let Some(own) = self.own_or_none()?
            && own.profile.relay_url()? == *url
            && own.profile.relay_identity.is_some()
        {
            return Ok(own.profile.relay_identity);
        }
        self.flush()?;
        // What an invitation says is a stranger's word until it is accepted.
        let mut all = Conversation::all(self.tx)?.into_iter().map(|(_, record)| record);
        if let Some(known) = all.find(|record| is_in_use(record) && record.relay_url == url.as_str()) {
            return Ok(Some(known.relay_identity));
        }
        Ok(TABLE.get(self.tx, &key(self.tx, url))?.and_then(|relay| relay.identity))
    }

    /// Where a relay that is in use is: our own, one of a conversation that this device takes part in, or one
    /// that the person chose. One identity has one address here: another could be one without TLS, or
    /// anybody's host, which nobody consented to.
    pub(in crate::engine) fn address_in_use(
        &mut self,
        identity: &RelayIdentity,
    ) -> Result<Option<RelayAddress>, Error> {
        let own = self.own()?;
        if own.relay()?.identity == *identity {
            return Ok(Some(own.relay()?.clone()));
        }
        self.flush()?;
        let all = Conversation::all(self.tx)?;
        let mut known = all.iter().filter(|(_, it)| it.relay_identity == *identity && is_in_use(it));
        if let Some(url) = known.find_map(|(_, record)| RelayUrl::parse(&record.relay_url).ok()) {
            return Ok(Some(RelayAddress { url, identity: *identity }));
        }
        Ok(address_of(self.tx, identity)?)
    }

    /// Whether a relay is one that this device uses.
    pub(in crate::engine) fn uses_relay(&mut self, identity: &RelayIdentity) -> Result<bool, Error> {
        Ok(self.address_in_use(identity)?.is_some())
    }

    /// A relay by the address that it is known by, if it is.
    pub(in crate::engine) fn known_address(&mut self, relay: &RelayAddress) -> Result<RelayAddress, Error> {
        Ok(self.address_in_use(&relay.identity)?.unwrap_or_else(|| relay.clone()))
    }

    /// The first key that a relay which the person chose proves is the one that it has from then on.
    pub(super) fn pin_chosen(&mut self, url: &RelayUrl, identity: RelayIdentity) -> Result<(), Error> {
        let key = key(self.tx, url);
        if let Some(mut relay) = TABLE.get(self.tx, &key)?.filter(|relay| relay.identity.is_none()) {
            relay.identity = Some(identity);
            TABLE.put(self.tx, &key, &relay)?;
        }
        Ok(())
    }
}
