//! What is left in the inboxes of others: on a connection that says nothing else, made for it a little later,
//! so that the relay cannot tell from whose account connection the thought came.

use std::collections::{BTreeMap, BTreeSet};

use posthorn_proto::frame::Refusal;
use posthorn_proto::{DeviceId, ErrorCode, MailboxId};
use rand::Rng as _;

use crate::content::{Help, InboxMessage};
use crate::conversation::{Cause, Conversation};
use crate::engine::link::request::{Pending, is_passing};
use crate::engine::link::{LONGEST_ADVICE, LinkState};
use crate::engine::talk::ASKED_WITHIN;
use crate::engine::{Effect, Error, Link, LinkId, Step, people};
use crate::identity::{IdentityKey, RelayUrl};
use crate::inbox::InboxAddress;
use crate::outbox::{self, Errand, Parcel, SealedPost};

/// How long after its reason something is left in an inbox, milliseconds.
const LATER: std::ops::Range<u64> = 100..1_000;
/// How long a full inbox is left alone, milliseconds: its owner reads it when they are online.
const FULL_PAUSE: u64 = 10 * 60 * 1000;
/// An invitation that could not be left for this long is given up, milliseconds: 7 days.
const GIVE_UP_AFTER: u64 = 7 * 24 * 3600 * 1000;

/// The request for a way back that an errand carries, if it is one.
fn request_in(errand: &Errand) -> Option<Help> {
    match InboxMessage::decode(&errand.data).ok()? {
        InboxMessage::Help(help) => help.verify().ok(),
        _ => None,
    }
}

impl Step<'_> {
    /// Seals something to an inbox and puts it into the outbox.
    pub(in crate::engine) fn post_to_inbox(
        &mut self,
        inbox: &InboxAddress,
        errand: Errand,
    ) -> Result<(), Error> {
        let link = LinkId { relay: inbox.relay.url.clone(), link: Link::Post };
        let post = self.new_post_id(&link);
        match inbox.key.seal(&inbox.mailbox, &post, &errand.data, self.rng) {
            Ok(sealed) => {
                let sealed = SealedPost::new(post, &inbox.post_key, sealed, 0);
                let parcel = Parcel::Inbox { relay: inbox.relay.url.to_string(), sealed, errand };
                outbox::put(self.tx, &inbox.mailbox, &parcel)?;
                let at = self.now + self.rng.random_range(LATER);
                self.live.inbox_posts_at = Some(self.live.inbox_posts_at.map_or(at, |known| known.min(at)));
            }
            Err(error) => self.alarm(errand.conversation, Cause::CannotAdd, None, error.to_string()),
        }
        Ok(())
    }

    /// Where a device can be reached, the best first. A leaf and a card name what they want: an inbox at a
    /// relay that is not in use is none, or a member would make this device connect to a host of its choice.
    pub(in crate::engine) fn inboxes_of(
        &mut self,
        identity: &IdentityKey,
        device: &DeviceId,
    ) -> Result<Vec<InboxAddress>, Error> {
        let mut inboxes = Vec::new();
        for inbox in people::inboxes_of(self.tx, identity, device)? {
            if self.uses_relay(&inbox.relay.identity)? {
                let relay = self.known_address(&inbox.relay)?;
                inboxes.push(InboxAddress { relay, ..inbox });
            }
        }
        Ok(inboxes)
    }

    /// Posts what waits for inboxes, one parcel of each at a time, and ends connections that have nothing
    /// more to say.
    pub(in crate::engine) fn progress_inbox_posts(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.live.inbox_posts_dirty) {
            return Ok(());
        }
        let mut first: BTreeMap<LinkId, Vec<(i64, MailboxId, SealedPost)>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (row, mailbox, parcel) in outbox::inbox_parcels(self.tx)? {
            let Parcel::Inbox { relay, sealed, .. } = parcel else { continue };
            let Ok(relay) = RelayUrl::parse(&relay) else { continue };
            let waiting = first.entry(LinkId { relay, link: Link::Post }).or_default();
            if seen.insert(mailbox) && !self.live.paused.contains_key(&mailbox) {
                waiting.push((row, mailbox, sealed));
            }
        }
        for (link, parcels) in &first {
            self.live.want(link.clone(), self.now);
            for (row, mailbox, sealed) in parcels {
                let busy = |pending: &Pending| matches!(pending, Pending::PostToInbox { mailbox: m, .. } if m == mailbox);
                if !self.live.asked(link, busy) && self.live.ready(link, self.now).is_some() {
                    let request = crate::engine::talk::post_request(*mailbox, sealed, None);
                    self.request(link, request, Pending::PostToInbox { row: *row, mailbox: *mailbox });
                }
            }
        }
        let over: Vec<LinkId> = self
            .live
            .links
            .keys()
            .filter(|id| id.link == Link::Post && !first.contains_key(*id))
            .cloned()
            .collect();
        for id in over {
            if !matches!(self.live.links.remove(&id), Some(LinkState::Down { .. }) | None) {
                self.effects.push(Effect::Disconnect(id));
            }
        }
        Ok(())
    }

    pub(in crate::engine) fn left_in_inbox(&mut self, row: i64) -> Result<(), Error> {
        outbox::remove(self.tx, row)?;
        self.live.inbox_posts_dirty = true;
        Ok(())
    }

    pub(in crate::engine) fn inbox_post_refused(
        &mut self,
        link: &LinkId,
        row: i64,
        mailbox: MailboxId,
        refusal: &Refusal,
    ) -> Result<(), Error> {
        self.live.inbox_posts_dirty = true;
        if is_passing(refusal) {
            self.back_off(link, refusal);
            return Ok(());
        }
        let Some(Parcel::Inbox { errand, .. }) = outbox::get(self.tx, row)? else { return Ok(()) };
        let full = matches!(refusal.code, Some(ErrorCode::MailboxFull | ErrorCode::Quota));
        if full && self.now.saturating_sub(errand.since) < GIVE_UP_AFTER {
            let pause = FULL_PAUSE.max(u64::from(refusal.retry_after_ms).min(LONGEST_ADVICE));
            self.live.paused.insert(mailbox, self.now + pause);
            return Ok(());
        }
        outbox::remove(self.tx, row)?;
        let waited = self.now.saturating_sub(errand.since);
        if refusal.code == Some(ErrorCode::PostIdTime) {
            // A request that waited for longer than one counts would be heard by nobody.
            let anew = if waited >= ASKED_WITHIN { self.asked_anew(&errand)? } else { None };
            if waited < GIVE_UP_AFTER || anew.is_some() {
                // Whoever finds the same invitation twice follows it once.
                self.correct_time(link, refusal);
                let errand = anew.unwrap_or_else(|| errand.clone());
                if let Some(inbox) = self.others_inbox(&errand, |inbox| inbox.mailbox == mailbox)? {
                    return self.post_to_inbox(&inbox, errand);
                }
            }
        }
        self.try_other_inbox(mailbox, errand, &refusal.message)
    }

    /// Removes what a new request takes the place of in what waits for an inbox, and returns whether it is to
    /// be left there: of a device only the latest counts, but an earlier one that brings the repair by which
    /// the device is where it is says more.
    pub(in crate::engine) fn replace_waiting(
        &mut self,
        inbox: &MailboxId,
        new: &Help,
    ) -> Result<bool, Error> {
        for (row, parcel) in outbox::all(self.tx, inbox)? {
            let Parcel::Inbox { errand, .. } = parcel else { continue };
            let same = |old: &Help| (old.group, old.device) == (new.group, new.device);
            let Some(old) = request_in(&errand).filter(same) else { continue };
            if old.repair.is_some() && new.repair.is_none() && old.is_at() == new.is_at() {
                return Ok(false);
            }
            outbox::remove(self.tx, row)?;
        }
        Ok(true)
    }

    /// A request of ours, dated anew, once, if it is still of use: it brings the repair by which this device
    /// is where it is, or may still be answered.
    fn asked_anew(&mut self, errand: &Errand) -> Result<Option<Errand>, Error> {
        let Some(mut help) = request_in(errand).filter(|_| errand.tries == 0) else { return Ok(None) };
        self.flush()?;
        let is_of_use = |record: &Conversation| {
            let leads_here = help.repair.is_some() && help.is_at() == record.healing.led_by();
            record.group == help.group
                && record.is_read()
                && !record.is_leaving()
                && (leads_here || !record.healing.asked.is_empty())
        };
        if !Conversation::all(self.tx)?.iter().any(|(_, record)| is_of_use(record)) {
            return Ok(None);
        }
        help.at = self.relay_now();
        let data = help.encode(&self.own()?.profile.identity());
        Ok(Some(Errand { since: self.now, tries: 1, data, ..errand.clone() }))
    }

    /// An inbox of the device that an errand is for.
    fn others_inbox(
        &mut self,
        errand: &Errand,
        like: impl Fn(&InboxAddress) -> bool,
    ) -> Result<Option<InboxAddress>, Error> {
        let Ok(identity) = IdentityKey::try_from(&errand.person.0[..]) else { return Ok(None) };
        Ok(self.inboxes_of(&identity, &errand.device)?.into_iter().find(like))
    }

    /// One inbox does not take it: the other may. If neither does, who is not reached is not a member.
    fn try_other_inbox(&mut self, failed: MailboxId, mut errand: Errand, why: &str) -> Result<(), Error> {
        let other = self.others_inbox(&errand, |inbox| inbox.mailbox != failed)?;
        errand.tries += 1;
        if errand.tries < 2
            && let Some(other) = other
        {
            return self.post_to_inbox(&other, errand);
        }
        if let Some(conversation) = errand.conversation {
            let text = format!("an invitation could not be left ({why}): who it was for is taken out again");
            self.alarm(Some(conversation), Cause::CannotAdd, None, text);
            self.take_out_uninvited(&conversation, &errand)?;
        }
        Ok(())
    }
}
