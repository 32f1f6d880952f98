//! What the app is told of conversations.

use super::Talk;
use crate::conversation::{Conversation, ConversationId, ConversationState, Entry, Intent, history, intents};
use crate::engine::mailbox::reading::Reading;
use crate::engine::people;
use crate::engine::{ConversationSummary, Error, Event, Link, MemberSummary, Page, Step, SyncState};
use crate::identity::PersonId;
use crate::outbox;

impl Talk<'_, '_> {
    /// An entry as it is shown now.
    pub(in crate::engine) fn entry(&mut self, row: u64) -> Result<Option<Entry>, Error> {
        Ok(history::entry(self.step.tx, &self.id, row, &self.open.record.marks())?)
    }

    /// Puts it away, or takes it out again.
    pub(in crate::engine) fn archive(&mut self, archived: bool) -> Result<(), Error> {
        if self.record().archived != archived {
            self.change().archived = archived;
            let conversation = self.id;
            self.step.event(Event::Conversation { conversation });
        }
        Ok(())
    }

    fn members(&mut self) -> Result<Vec<MemberSummary>, Error> {
        if !self.has_group() {
            // It is over for us, and who is in it now is not ours to know.
            return Ok(Vec::new());
        }
        let own = self.step.own()?;
        let members = self.group(|group, _| group.members())?;
        let mut summaries = Vec::new();
        for member in members.iter() {
            let who = self.named(&member.credential)?;
            let person = people::of_named(self.step.tx, &own, &who)?;
            let me = person.person == own.person;
            summaries.push(MemberSummary {
                device: member.credential.device(),
                joined: me || member.inbox.is_some(),
                me,
                person,
            });
        }
        Ok(summaries)
    }
}

impl Step<'_> {
    pub(in crate::engine) fn conversations(&mut self) -> Result<Vec<ConversationSummary>, Error> {
        self.flush()?;
        let own = self.own()?;
        let mut list = Vec::new();
        for (id, record) in Conversation::all(self.tx)? {
            let foreign_relay =
                record.state == ConversationState::Invited && !self.uses_relay(&record.relay_identity)?;
            let members = record.members.iter().map(|who| people::of_named(self.tx, &own, who));
            let adding = intents(self.tx, &id)?.into_iter().flat_map(|(_, intent)| match intent {
                Intent::Add(candidates) => candidates,
                _ => Vec::new(),
            });
            list.push(ConversationSummary {
                id,
                group: record.group,
                queued: if record.is_read() { history::queued_count(self.tx, &id)? } else { 0 },
                unread: history::unread_count(self.tx, &id)?,
                first_unread: history::first_unread(self.tx, &id)?,
                last: history::last(self.tx, &id, &record.marks())?,
                members: members.collect::<Result<_, _>>()?,
                adding: adding.map(|candidate| candidate.name()).collect(),
                inviter: record
                    .inviter
                    .as_ref()
                    .map(|who| people::of_named(self.tx, &own, who))
                    .transpose()?,
                name: record.name,
                relay: record.relay_url,
                foreign_relay,
                state: record.state,
                archived: record.archived,
                epoch: record.epoch,
            });
        }
        list.sort_by_key(|summary| std::cmp::Reverse(summary.last.as_ref().map(|last| last.row)));
        Ok(list)
    }

    pub(in crate::engine) fn members(&mut self, id: &ConversationId) -> Result<Vec<MemberSummary>, Error> {
        self.talk_known(id, |talk| talk.members())
    }

    pub(in crate::engine) fn history(
        &mut self,
        id: &ConversationId,
        page: Page,
    ) -> Result<Vec<Entry>, Error> {
        self.talk_known(id, |talk| {
            let marks = talk.record().marks();
            Ok(history::page(talk.step.tx, &talk.id, page.before, page.after, page.limit, &marks)?)
        })
    }

    pub(in crate::engine) fn state(&mut self) -> Result<SyncState, Error> {
        let Some(own) = self.own_or_none()? else { return Ok(SyncState::default()) };
        self.flush()?;
        let links = [own.link(Link::Account)?, own.link(Link::Mailboxes)?, own.link(Link::Inbox)?];
        let connected = links.iter().all(|link| self.live.known(link).is_some());
        let mut caught_up = connected;
        for (mailbox, reading) in Reading::all(self.tx)? {
            if reading.pause.is_some() {
                continue;
            }
            let link = reading.link();
            if link.as_ref().is_some_and(|id| self.live.unreachable.contains_key(&id.relay)) {
                continue;
            }
            let up = link.and_then(|id| self.live.links.get(&id)).and_then(|link| link.up());
            caught_up &= up.and_then(|up| up.openings.get(&mailbox)).is_some_and(|opening| opening.caught_up);
        }
        let mut parcels =
            outbox::count_in_inboxes(self.tx, |relay| self.live.why_unreachable(relay).is_none())?;
        let mut wanted = 0;
        for (id, record) in Conversation::all(self.tx)? {
            // What has ended may have had the mailbox that another conversation has now.
            if !record.is_read() || matches!(record.state, ConversationState::Suspended(_)) {
                continue;
            }
            if self.live.why_unreachable(&record.relay_url).is_some() {
                continue;
            }
            parcels += outbox::count(self.tx, &record.mailbox)?;
            let due =
                intents(self.tx, &id)?.iter().filter(|(_, intent)| intent.not_before() <= self.now).count();
            wanted += due as u64 + u64::from(record.state == ConversationState::Creating);
        }
        let refused = links.iter().find_map(|link| self.live.known(link)?.refused.as_ref());
        Ok(SyncState {
            connected,
            caught_up,
            outbox: parcels,
            intents: wanted,
            registered: own.profile.complete(),
            unknown: own.profile.unknown,
            waiting: self.live.held_back.values().next().or(refused).cloned(),
            unreachable: self.live.all_unreachable(),
        })
    }

    /// The person of an id, as they are known. Errors: [`Error::UnknownPerson`].
    pub(in crate::engine) fn known_person(
        &mut self,
        person: &PersonId,
    ) -> Result<crate::engine::Person, Error> {
        let own = self.own()?;
        let contact = people::load(self.tx, person)?;
        let contact = contact.ok_or_else(|| Error::UnknownPerson(person.to_string()))?;
        people::of_contact(self.tx, &own, &contact)
    }
}
