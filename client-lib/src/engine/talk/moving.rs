//! A conversation moves to another mailbox (rule 34): a commit changes its place, and everybody who reads it
//! follows, be it weeks later.
//!
//! The mover makes the mailbox first, with everybody admitted. The commit is posted where the conversation
//! is, and the relay orders it like any other; if it loses its race, the mailbox is destroyed again. Nobody
//! is told a key: each member claims its reader by the one that the new epoch gives it. What was not yet read
//! back is sealed anew for the new place, under its message id. `repair` moves
//! without the old mailbox.

use posthorn_proto::chain::Chain;
use posthorn_proto::frame::{Ack, ClientFrame, Request};
use posthorn_proto::{MailboxId, ReadKey, ReaderId, RelayIdentity};

use super::Talk;
use super::commit::Wanted;
use crate::content::Receipt;
use crate::conversation::{Cause, ConversationId, ConversationState, Intent, Suspension, intents};
use crate::engine::account::EXPIRY_SECONDS;
use crate::engine::link::request::Pending;
use crate::engine::mailbox::reading::{Pause, Purpose, Reading};
use crate::engine::{Effect, Error, Reply, Step};
use crate::group::{Change, Place, ReaderSecret, Staged};
use crate::identity::{RelayAddress, RelayUrl};
use crate::outbox::{self, NewMailbox, Parcel};
use crate::store::record::Secret;

/// A person moves a conversation at most this often in a day. Each move costs everybody a mailbox and a
/// connection, and whoever has not read the one before has more to follow.
const MOVES: u32 = 4;
/// This many moves in a day are followed at once; whoever makes more of them, past the limit above, makes
/// the others wait for [`MOVED_TOO_OFTEN`]: they follow all the same, so that nobody is left behind.
const FOLLOWED: u32 = 8;
/// Milliseconds.
const MOVED_TOO_OFTEN: u64 = 3600 * 1000;
const DAY: u64 = 24 * 3600 * 1000;

impl Step<'_> {
    /// Moves a conversation to a fresh mailbox of our own relay, where its creation can be paid for. Errors:
    /// [`Error::NotActive`]; `OTHER_RELAY` for a relay where we have no account; `TOO_MANY`.
    pub(in crate::engine) fn move_to(
        &mut self,
        conversation: &ConversationId,
        relay: Option<&RelayUrl>,
        reply: Reply<()>,
    ) -> Result<(), Error> {
        let wanted = self.attempt(|step| {
            let own = step.own()?.relay()?.clone();
            if let Some(other) = relay.filter(|url| **url != own.url) {
                let reason =
                    format!("you have no account at {other}: let a member who has one move the conversation");
                return Err(Error::Failed { cause: "OTHER_RELAY", reason });
            }
            step.talk_known(conversation, |talk| {
                talk.takes_changes()?;
                talk.may_move()
            })?;
            Ok(Intent::Move { relay_url: own.url.to_string(), relay_identity: own.identity })
        })?;
        self.wish(conversation, wanted, reply)
    }
}

impl Talk<'_, '_> {
    fn may_move(&self) -> Result<(), Error> {
        let record = self.record();
        if record.epoch == 0 {
            return Err(Error::NotActive("nobody else is in yet".to_owned()));
        }
        if record.moves.0 == self.step.now / DAY && record.moves.1 >= MOVES {
            let reason = format!("it was moved {MOVES} times today: try again tomorrow");
            return Err(Error::Failed { cause: Cause::TooMany.name(), reason });
        }
        Ok(())
    }

    /// The change that moves it.
    pub(super) fn moving(&mut self, url: &str, identity: RelayIdentity) -> Result<Wanted, Error> {
        let Ok(url) = RelayUrl::parse(url) else {
            return Ok(Wanted::Never("that is no relay's address".to_owned()));
        };
        let (mailbox, secret) = (MailboxId::random(self.step.rng), ReaderSecret::generate(self.step.rng));
        let info =
            self.group(|group, _| Ok(group.info().moved(RelayAddress { url, identity }, mailbox, secret)))?;
        Ok(Wanted::Change(Box::new(Change { info: Some(info), ..Change::default() })))
    }

    /// The mailbox that a staged commit needs, if it moves the conversation. It is read from now on as one
    /// that is not made yet, so that its connection is there.
    pub(super) fn place_of(&mut self, staged: &Staged) -> Result<Option<Box<NewMailbox>>, Error> {
        let Some(keys) = staged.outcome.keys.as_ref().filter(|_| !staged.readers.is_empty()) else {
            return Ok(None);
        };
        let place = &staged.outcome.info.place;
        let mut reading = self.reading_at(place, staged.outcome.committer.reader);
        reading.pause = Some(Pause::NotMade);
        reading.save(self.step.tx, &place.mailbox)?;
        self.step.live.places.insert(place.mailbox, self.id);
        self.step.live.links_dirty = true;
        Ok(Some(Box::new(NewMailbox::new(place.mailbox, &keys.post, &keys.turn, &staged.readers))))
    }

    fn reading_at(&mut self, place: &Place, reader: ReaderId) -> Reading {
        let read_key = ReadKey::random(self.step.rng);
        let purpose = Purpose::Conversation(self.id);
        let mut reading = Reading::new(purpose, place.relay.url.as_str(), reader, &read_key);
        reading.apart = self.reading().is_some_and(|here| here.apart);
        reading
    }

    /// Asks the relay for the mailbox of the commit that waits for it.
    pub(super) fn make_place(&mut self, row: i64) -> Result<(), Error> {
        let mut parcel = outbox::get(self.step.tx, row)?;
        let Some(mut place) = parcel.as_mut().and_then(Parcel::place_mut).cloned() else { return Ok(()) };
        let reading = Reading::load(self.step.tx, &place.mailbox)?;
        let Some(link) = reading.and_then(|reading| reading.link()) else { return Ok(()) };
        let id = self.id;
        let asked = |pending: &Pending| matches!(pending, Pending::CreateMailbox(c) if *c == id);
        if self.step.live.asked(&link, asked) || self.step.live.ready(&link, self.step.now).is_none() {
            return Ok(());
        }
        if place.token.is_none() {
            let Some(token) = self.step.take_token()? else { return Ok(()) };
            place.token = Some(Secret(*token.expose()));
            let token = place.token.clone();
            self.change_place(|place| place.token = token)?;
        }
        let expiry = EXPIRY_SECONDS.min(self.step.limits(&link).expiry_seconds);
        if let Some(create) = place.creation(expiry) {
            self.step.request(&link, Request::Create(create), Pending::CreateMailbox(id));
        }
        Ok(())
    }

    /// Changes what is known of the mailbox that our commit waits for, if it waits for one.
    pub(super) fn change_place(&mut self, change: impl FnOnce(&mut NewMailbox)) -> Result<(), Error> {
        let Some(row) = self.record().commit_row else { return Ok(()) };
        let Some(mut parcel) = outbox::get(self.step.tx, row)? else { return Ok(()) };
        if let Some(place) = parcel.place_mut() {
            change(place);
            outbox::update(self.step.tx, row, &parcel)?;
        }
        Ok(())
    }

    /// The relay has it: the commit can be posted, or is true by that.
    pub(super) fn place_made(&mut self) -> Result<(), Error> {
        if let Some(row) = self.record().commit_row
            && let Some(Parcel::Repair { commit, .. }) = outbox::get(self.step.tx, row)?
        {
            return self.finish_repair(row, commit);
        }
        self.change_place(|place| place.is_made = true)?;
        self.look_again();
        Ok(())
    }

    /// The relay makes no mailbox for us: the conversation stays where it is.
    pub(super) fn place_refused(&mut self, why: &str) -> Result<(), Error> {
        let Some(row) = self.record().commit_row else { return Ok(()) };
        match outbox::get(self.step.tx, row)? {
            Some(Parcel::Commit { intent, .. }) => self.drop_commit(intent, why),
            Some(Parcel::Repair { .. }) => {
                self.alarm(Cause::Refused, None, format!("the relay makes no mailbox to go on in: {why}"));
                self.give_up_repair()
            }
            _ => Ok(()),
        }
    }

    pub(super) fn give_up_repair(&mut self) -> Result<(), Error> {
        self.group(|group, _| group.clear_pending())?;
        self.give_up_commit()
    }

    /// Our commit will not be, and neither will the place that it was to move to.
    pub(in crate::engine) fn give_up_commit(&mut self) -> Result<(), Error> {
        let Some(row) = self.change().commit_row.take() else { return Ok(()) };
        let mut parcel = outbox::get(self.step.tx, row)?;
        outbox::remove(self.step.tx, row)?;
        let Some(place) = parcel.as_mut().and_then(Parcel::place_mut) else { return Ok(()) };
        let reading = Reading::load(self.step.tx, &place.mailbox)?;
        if let Some(link) = reading.and_then(|reading| reading.link()).filter(|_| place.token.is_some()) {
            // Whoever does not hear of it forgets it after half a year (rule 16).
            let destroy = Request::Destroy { mailbox: place.mailbox, turn_key: place.turn_key() };
            self.step.request(&link, destroy, Pending::Ping);
        }
        let mailbox = place.mailbox;
        self.stop_reading(&mailbox)
    }

    fn stop_reading(&mut self, mailbox: &MailboxId) -> Result<(), Error> {
        Reading::delete(self.step.tx, mailbox)?;
        self.step.live.places.remove(mailbox);
        (self.step.live.links_dirty, self.step.live.held_dirty) = (true, true);
        Ok(())
    }

    /// Whether a commit would move us to a mailbox that this device reads for another reason: ids are random,
    /// so that only who means harm says so.
    pub(super) fn leads_astray(&mut self, place: &Place) -> Result<bool, Error> {
        let ours = Purpose::Conversation(self.id);
        Ok(Reading::load(self.step.tx, &place.mailbox)?.is_some_and(|reading| reading.purpose != ours))
    }

    /// Goes on where the group is now. What this device read before is closed for it; what is still to be
    /// said is said there.
    pub(in crate::engine) fn follow(&mut self) -> Result<(), Error> {
        self.follow_with(Vec::new())
    }

    /// Likewise; what others may lack of what we said before is said again first.
    pub(super) fn follow_with(&mut self, again: Vec<Parcel>) -> Result<(), Error> {
        let (place, (reader, claim)) =
            self.group(|group, _| Ok((group.info().place.clone(), group.claim_key()?)))?;
        let mut reading = self.reading_at(&place, reader);
        let relay = self.step.known_address(&place.relay)?;
        relay.url.as_str().clone_into(&mut reading.relay);
        self.leave_for(&place.mailbox, again)?;
        let record = self.change();
        record.leads_to(&relay, place.mailbox);
        record.place = place.number;
        (record.everyone, record.receipt_sent) = (Receipt::default(), Receipt::default());
        (record.read, record.receipt_due, record.leaf_seq) = (0, 0, 0);
        self.set_reading(reading.invited(&claim, 0, &Chain::START));
        self.settle_in(&relay)?;
        self.end_moves(&relay)?;
        self.look_again();
        self.tell();
        Ok(())
    }

    /// Takes what is still to be said from here to another mailbox, behind what is said again.
    pub(in crate::engine) fn leave_for(
        &mut self,
        there: &MailboxId,
        again: Vec<Parcel>,
    ) -> Result<(), Error> {
        self.leave_place()?;
        self.change().keep_marks();
        let here = self.record().mailbox;
        for parcel in again {
            outbox::put(self.step.tx, there, &parcel)?;
        }
        // Where it stays the same mailbox, what waits goes behind that, too.
        outbox::readdress(self.step.tx, &here, there).map_err(Error::from)
    }

    /// It has moved: whoever else wanted that has it, or was overtaken.
    fn end_moves(&mut self, relay: &RelayAddress) -> Result<(), Error> {
        for (row, intent) in intents(self.step.tx, &self.id)? {
            let Intent::Move { relay_identity, .. } = intent else { continue };
            if relay_identity == relay.identity {
                self.intent_done(row)?;
            } else {
                let why = "another member moved the conversation meanwhile, to another relay";
                self.intent_failed(row, Cause::Overtaken, why)?;
            }
        }
        Ok(())
    }

    /// Acknowledges what was read in the old place, and stops reading there.
    fn leave_place(&mut self) -> Result<(), Error> {
        let mailbox = self.record().mailbox;
        let seq = self.reading().map_or(0, |reading| reading.seq);
        if let Some(link) = self.link()
            && self.step.is_open(&link, &mailbox)
        {
            let body = Request::Ack(Ack { mailbox, seq, credit: 0 });
            self.step.effects.push(Effect::Send(link.clone(), ClientFrame { request: 0, body }));
            self.step.close(&link, &mailbox);
        }
        self.open.reading = None;
        self.step.live.turned.remove(&self.id);
        self.stop_reading(&mailbox)
    }

    /// Opens the new place at once, unless the person has to agree to its relay, or it is moved to and fro.
    fn settle_in(&mut self, relay: &RelayAddress) -> Result<(), Error> {
        let (now, today) = (self.step.now, self.step.now / DAY);
        let record = self.change();
        let count = if record.moves.0 == today { record.moves.1 + 1 } else { 1 };
        record.moves = (today, count);
        if !self.step.is_its_key(relay)? {
            let text =
                "the conversation moved to a relay that is known here by another key: it is not followed";
            return self.stay_away(Cause::RelayChanged, text);
        }
        // The row of the conversation at hand still says where it was.
        if !self.step.uses_relay(&relay.identity)? {
            return self.wait_for_consent(relay);
        }
        if count > FOLLOWED {
            let at = now + MOVED_TOO_OFTEN;
            if let Some(reading) = self.change_reading() {
                reading.pause = Some(Pause::LookAgain { at, wait: MOVED_TOO_OFTEN });
            }
            self.step.live.look_again(at);
            self.alarm(
                Cause::TooMany,
                None,
                "the conversation is moved again and again: it is followed within the hour",
            );
        }
        Ok(())
    }

    /// It goes on at a relay that the person has not agreed to yet.
    pub(in crate::engine) fn wait_for_consent(&mut self, relay: &RelayAddress) -> Result<(), Error> {
        let text = format!(
            "the conversation moved to {}, which this device has never connected to: accept that relay to go on",
            relay.url
        );
        self.stay_away(Cause::ForeignRelay, &text)
    }

    /// It is not connected to where it is now.
    fn stay_away(&mut self, cause: Cause, text: &str) -> Result<(), Error> {
        let (since, leaving) = (self.step.now, self.record().is_leaving());
        let Some(reading) = self.change_reading() else { return Ok(()) };
        reading.pause = Some(Pause::Consent);
        let (seq, chain) = (reading.seq, reading.chain().0);
        let suspension = Suspension { cause, since, seq, chain, leaving };
        self.change().state = ConversationState::Suspended(suspension);
        self.alarm(cause, None, text);
        Ok(())
    }

    /// The person agrees to the relay that the conversation moved to.
    pub(in crate::engine) fn agree(&mut self) {
        self.resume();
        (self.step.live.openings_dirty, self.step.live.links_dirty) = (true, true);
        self.look_again();
    }
}
