//! Commits of others, and what follows from any commit.

use super::Talk;
use super::deliver::After;
use crate::content::Named;
use crate::conversation::{
    Away, BACK_WITHIN, Cause, ConversationState, Intent, Notice, intents, is_out_for_good, remove_intent,
};
use crate::engine::mailbox::Arrival;
use crate::engine::people;
use crate::engine::{Error, Known};
use crate::group::{Member, Outcome, StagedChange};
use crate::identity::{Credential, PersonId};
use posthorn_proto::Turn;

impl Talk<'_, '_> {
    /// Another member's commit: its turn must say what it says (rule 1), then it is applied, and ours has
    /// lost its race.
    pub(in crate::engine) fn foreign_commit(
        &mut self,
        change: StagedChange,
        turn: &Turn,
        arrival: &Arrival<'_>,
    ) -> Result<After, Error> {
        let seq = arrival.delivery.seq;
        if !change.outcome().fits(turn) {
            let text = "the lock was turned in another way than its commit says";
            return Ok(After::Suspend(Cause::BadTurn, text));
        }
        if change.outcome().keys.is_none() && self.has_open_requests()? {
            // Whoever takes us out does what we asked for: the invitation leads back.
            return Ok(After::Suspend(
                Cause::Evicted,
                "a member takes this device out and in again, as it asked",
            ));
        }
        if self.leads_astray(&change.outcome().info.place)? {
            let text = "a commit moves the conversation to where this device reads something else";
            return Ok(After::Suspend(Cause::BadCommit, text));
        }
        let Some(slot) = self.author_slot(change.aad(), arrival) else {
            return self.unreadable(arrival, Cause::Misplaced);
        };
        self.check_history(&slot, seq)?;
        let outcome = self.group(|group, _| group.apply(change))?;
        self.give_up_commit()?;
        for member in &outcome.added {
            self.newcomer(member, seq)?;
        }
        let (added, removed) = (self.named_all(&outcome.added)?, self.named_all(&outcome.removed)?);
        self.epoch_began(&outcome, added, removed, seq, false)?;
        self.end_exchanges(&outcome.removed)?;
        self.answered_by_another(&outcome.removed)?;
        Ok(match &outcome.keys {
            None => After::End(ConversationState::Removed),
            Some(_) if outcome.info.place.number != self.record().place => After::Moved,
            Some(_) => After::Go,
        })
    }

    /// What follows from any commit, whoever made it, and whether to repair the conversation.
    pub(in crate::engine) fn epoch_began(
        &mut self,
        outcome: &Outcome,
        mut added: Vec<Named>,
        mut removed: Vec<Named>,
        seq: u64,
        is_repair: bool,
    ) -> Result<(), Error> {
        self.step.live.turned.remove(&self.id);
        let by = self.named(&outcome.committer.credential)?;
        // Who left was not removed, whoever committed it: the history says already that they left.
        let left: Vec<PersonId> = self.record().leaving.iter().map(|leaver| leaver.person).collect();
        removed.retain(|who| !left.contains(&who.person));
        let record = self.change();
        record.epoch = outcome.epoch;
        record.doubtful = None;
        if outcome.keys.is_some() {
            self.note_members()?;
            let everyone = self.everyone()?;
            self.change().everyone = everyone;
            // Somebody whose device is exchanged neither comes nor goes.
            let members = &self.record().members;
            removed.retain(|who| !members.iter().any(|member| member.person == who.person));
            self.end_wishes()?;
        }
        added.dedup();
        removed.dedup();
        self.note_out(&outcome.removed, seq);
        self.note_away(&outcome.removed, &mut removed, &by, seq)?;
        self.note_back(&mut added, seq)?;
        if !removed.is_empty() {
            self.notice(Some(seq), Notice::Removed { by: by.clone(), who: removed })?;
        }
        if !added.is_empty() {
            self.notice(Some(seq), Notice::Added { by: by.clone(), who: added })?;
        }
        if outcome.info.place.number != self.record().place {
            let relay = outcome.info.place.relay.url.to_string();
            let notice = if is_repair { Notice::Repaired { by, relay } } else { Notice::Moved { by, relay } };
            self.notice(Some(seq), notice)?;
        }
        self.were_added(&outcome.added)?;
        self.look_again();
        self.tell();
        Ok(())
    }

    /// Whoever asked to be taken back in is out for a moment: of that nothing is said, unless it lasts.
    fn note_away(
        &mut self,
        devices: &[Member],
        removed: &mut Vec<Named>,
        by: &Named,
        seq: u64,
    ) -> Result<(), Error> {
        let (place, since) = ((self.record().place, seq), self.step.now);
        for device in devices {
            let person = PersonId::from(&device.credential.identity());
            if !self.asks(device)? {
                continue;
            }
            for who in removed.extract_if(.., |who| who.person == person) {
                let away = Away { who, by: by.clone(), place, since };
                self.open.changed = true;
                self.open.record.away.push(away);
                self.step.wake_talk(self.id, since + BACK_WITHIN);
            }
        }
        Ok(())
    }

    fn note_back(&mut self, added: &mut Vec<Named>, seq: u64) -> Result<(), Error> {
        let away = &mut self.change().away;
        let mut back = Vec::new();
        for who in std::mem::take(added) {
            let known = away.len();
            away.retain(|gone| gone.who.person != who.person);
            if away.len() < known { back.push(who) } else { added.push(who) }
        }
        if back.is_empty() { Ok(()) } else { self.notice(Some(seq), Notice::Back { who: back }) }
    }

    /// Whoever did not come in again was removed.
    pub(super) fn tell_gone(&mut self) -> Result<(), Error> {
        let now = self.step.now;
        if !self.record().away.iter().any(|away| is_out_for_good(away.since, now)) {
            return Ok(());
        }
        let gone: Vec<Away> =
            self.change().away.extract_if(.., |away| is_out_for_good(away.since, now)).collect();
        for Away { who, by, place, .. } in gone {
            self.notice_at(Some(place), Notice::Removed { by, who: vec![who] })?;
        }
        Ok(())
    }

    /// These devices are not ours to take out and in any more: another member took them out, who may be doing
    /// just that; or they are where we are now.
    pub(in crate::engine) fn end_exchanges(&mut self, devices: &[Member]) -> Result<(), Error> {
        for (row, intent) in intents(self.step.tx, &self.id)? {
            let Intent::Readmit { device, person, .. } = intent else { continue };
            let is_it = |member: &Member| {
                member.credential.device() == device
                    && PersonId::from(&member.credential.identity()) == person
            };
            if devices.iter().any(is_it) {
                remove_intent(self.step.tx, row)?;
            }
        }
        Ok(())
    }

    /// Wishes that are true now, whoever made them so, and those that are about nobody any more.
    fn end_wishes(&mut self) -> Result<(), Error> {
        let members = self.group(|group, _| group.members())?;
        let is_in =
            |leaf: u32, key: &[u8; 32]| members.iter().any(|m| m.leaf == leaf && m.signature_key == *key);
        for (row, intent) in intents(self.step.tx, &self.id)? {
            if let Intent::Remove { leaf, signature_key, .. } = &intent
                && !is_in(*leaf, signature_key)
            {
                if self.is_waited_for(row) {
                    self.intent_done(row)?;
                } else {
                    remove_intent(self.step.tx, row)?;
                }
            }
        }
        let own_epoch = self.record().epoch;
        let record = self.change();
        // A proposal is good for the epoch that it was made in; who is still in was not taken out yet.
        record
            .leaving
            .retain(|leaver| leaver.epoch == own_epoch || is_in(leaver.leaf, &leaver.signature_key));
        Ok(())
    }

    /// Copies who the members are, and keeps what their leaves say.
    pub(in crate::engine) fn note_members(&mut self) -> Result<(), Error> {
        let (members, info) = self.group(|group, _| Ok((group.members()?, group.info().clone())))?;
        let mut named: Vec<Named> = Vec::new();
        for member in members.iter() {
            people::meet_member(self.step.tx, &member.credential, member.inbox.as_ref())?;
            let mut who = self.named(&member.credential)?;
            if named.iter().any(|known| known.handle == who.handle && known.person != who.person) {
                who.handle = people::apart(&who.handle, &who.person);
            }
            if !named.iter().any(|known| known.person == who.person) {
                named.push(who);
            }
        }
        self.tell_doubtful_names(&named)?;
        let record = self.change();
        record.members = named;
        record.name.clone_from(&info.about.name);
        Ok(())
    }

    /// A name that another is known by is told once, when its bearer comes (rule 26). Whoever is only shown
    /// with their key because no relay that is used here vouches for them is like nobody.
    fn tell_doubtful_names(&mut self, named: &[Named]) -> Result<(), Error> {
        let own = self.step.own()?;
        let known: Vec<PersonId> = self.record().members.iter().map(|member| member.person).collect();
        for who in named.iter().filter(|who| who.handle.contains('#') && !known.contains(&who.person)) {
            let is_namesake = |other: &Named| {
                other.person != who.person && people::bare(&other.handle) == people::bare(&who.handle)
            };
            let is_contradicted = people::of_named(self.step.tx, &own, who)?.known == Known::Contradicted;
            if is_contradicted || named.iter().any(is_namesake) {
                let text = format!(
                    "somebody calls themselves like a person whom you know: they are shown as {}, compare safety numbers",
                    who.handle
                );
                self.alarm(Cause::NameTwice, None, text);
            }
        }
        Ok(())
    }

    /// Who a credential's bearer is, with the name that they are shown by.
    pub(in crate::engine) fn named(&mut self, credential: &Credential) -> Result<Named, Error> {
        let own = self.step.own()?;
        let mut who = people::named(self.step.tx, &own, credential)?;
        // Of two whom nobody vouches for, the one who came first keeps the name.
        let members = &self.record().members;
        if members.iter().any(|known| known.handle == who.handle && known.person != who.person) {
            who.handle = people::apart(&who.handle, &who.person);
        }
        Ok(who)
    }

    pub(in crate::engine) fn named_all(&mut self, members: &[Member]) -> Result<Vec<Named>, Error> {
        members.iter().map(|member| self.named(&member.credential)).collect()
    }
}
