//! Relays beside one's own: `relay list`, `relay use`, `relay proxy`.

use posthorn_client::engine::Relay as Known;
use posthorn_client::identity::{BadRoute, Route};
use serde_json::json;

use super::account::relay_url;
use super::wait;
use crate::args::Relay;
use crate::plain::plain_line;
use crate::print::{line, object, tell};
use crate::problem::Problem;
use crate::profile::Session;

/// `relay`.
pub(super) async fn relay(session: &Session, json: bool, what: &Relay) -> Result<(), Problem> {
    match what {
        Relay::List => {
            wait::catch_up(session, json).await;
            for known in session.client.relays().await? {
                if json {
                    object(&json!(known));
                } else {
                    line(&in_words(&known));
                }
            }
        }
        Relay::Proxy(arguments) => {
            let url = relay_url(&arguments.relay)?;
            let route = match arguments.proxy.trim() {
                "default" => None,
                text => Some(route(text)?),
            };
            session.client.route(url.clone(), route).await?;
            let relays = session.client.relays().await?;
            let own = relays.iter().find(|known| known.own).map(|own| own.route.clone());
            let known = relays.into_iter().find(|known| known.relay == url.as_str());
            let now = known.map(|known| known.route).or(own).unwrap_or_default();
            if json {
                object(&json!({"relay": url.to_string(), "route": now}));
            } else {
                line(&format!("From now on {url} is reached {}.", way(&now)));
            }
        }
        Relay::Use(named) => {
            let url = relay_url(&named.relay)?;
            session.client.use_relay(url.clone()).await?;
            if json {
                object(&json!({"relay": url.to_string(), "used": true}));
            } else {
                if url.is_exposed() {
                    tell("this relay is without TLS: whoever is on the way there sees what a relay sees");
                }
                line(&format!("From now on {url} is used."));
            }
        }
    }
    Ok(())
}

/// A way to a relay, as it is typed.
pub(super) fn route(text: &str) -> Result<Route, Problem> {
    text.parse().map_err(|error: BadRoute| {
        Problem::new("BAD_PROXY", format!("\"{}\" is no proxy: {error}", plain_line(text)))
    })
}

fn way(route: &str) -> String {
    if route == "direct" { "directly".to_owned() } else { format!("through {}", plain_line(route)) }
}

fn in_words(known: &Known) -> String {
    let conversations = match known.conversations {
        0 => "no conversations".to_owned(),
        1 => "1 conversation".to_owned(),
        count => format!("{count} conversations"),
    };
    let own = if known.own { ", your account" } else { "" };
    let away = match &known.unreachable {
        Some(reason) => format!(", cannot be reached: {}", plain_line(reason)),
        None => String::new(),
    };
    let way = if known.route == "direct" { String::new() } else { format!(", {}", way(&known.route)) };
    format!("{:32} {conversations}{own}{way}{away}", plain_line(&known.relay))
}
