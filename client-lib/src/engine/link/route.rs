//! How relays are reached, as the person says: a relay without a word of its own is reached like our own
//! relay, so that whoever hides their address from that does not show it to another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Step;
use crate::engine::link::LinkState;
use crate::engine::live::Live;
use crate::engine::{Effect, Error};
use crate::identity::{RelayUrl, Route};
use crate::store::table::Table;
use crate::store::{StoreError, Transaction};

const TABLE: Table<[u8; 32], Written> = Table::new("route");

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    relay: String,
    route: String,
}

/// What the person said of each relay.
pub(in crate::engine) fn all(tx: &Transaction<'_>) -> Result<BTreeMap<RelayUrl, Route>, StoreError> {
    let read = |written: Written| {
        let relay = RelayUrl::parse(&written.relay).ok().zip(written.route.parse().ok());
        relay.ok_or(StoreError::Damaged("route"))
    };
    TABLE.all(tx)?.into_iter().map(|(_, written)| read(written)).collect()
}

impl Step<'_> {
    /// From now on a relay is reached like this; `None`: like our own. Connections are made anew.
    pub(in crate::engine) fn set_route(
        &mut self,
        relay: &RelayUrl,
        route: Option<Route>,
    ) -> Result<(), Error> {
        let key = TABLE.hidden(self.tx, relay.as_str().as_bytes());
        match &route {
            Some(route) => {
                let written = Written { relay: relay.to_string(), route: route.to_string() };
                TABLE.put(self.tx, &key, &written)?;
            }
            None => drop(TABLE.remove(self.tx, &key)?),
        }
        self.live.routes = all(self.tx)?;
        self.reached_otherwise(relay)?;
        self.live.own_url = self.own_or_none()?.map(|own| own.profile.relay_url()).transpose()?;
        let is_ours = self.live.own_url.as_ref() == Some(relay);
        for (id, state) in &self.live.links {
            if (is_ours || id.relay == *relay) && !matches!(state, LinkState::Down { .. }) {
                self.effects.push(Effect::Disconnect(id.clone()));
            }
        }
        Ok(())
    }
}

impl Live {
    /// The way to a relay.
    pub(in crate::engine) fn route(&self, relay: &RelayUrl) -> Route {
        let own = self.own_url.as_ref().and_then(|own| self.routes.get(own));
        self.routes.get(relay).or(own).cloned().unwrap_or(Route::Direct)
    }
}
