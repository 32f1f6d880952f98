//! Leaving: said by the person who goes, with a proposal that proves it, and made true by somebody else's
//! commit (rule 32).

use super::Talk;
use crate::content::{Leave, Named, Said};
use crate::conversation::{ConversationState, Intent, Leaver, MessageId, Notice};
use crate::engine::Error;
use crate::group::Member;
use crate::identity::PersonId;

impl Talk<'_, '_> {
    /// The person leaves. What cannot be told to the others ends here at once.
    pub(in crate::engine) fn leave(&mut self) -> Result<(), Error> {
        match &self.record().state {
            // Nobody else is in, or will be.
            ConversationState::Active if self.record().epoch == 0 => self.end(ConversationState::Left),
            ConversationState::Active => {
                self.change().state = ConversationState::Leaving;
                let message = MessageId::random(self.step.rng);
                self.say(message, said_leave(Vec::new())?)?;
                self.tell();
                Ok(())
            }
            ConversationState::Creating | ConversationState::Suspended(_) => {
                self.note_own_leave(None)?;
                self.end(ConversationState::Left)
            }
            ConversationState::Invited => self.forget(),
            state => Err(Error::NotActive(state.in_words().to_owned())),
        }
    }

    /// We are out: the history says so. `seq` is where that was said, if it was.
    pub(in crate::engine) fn note_own_leave(&mut self, seq: Option<u64>) -> Result<(), Error> {
        let own = self.step.own()?;
        let who = Named { person: own.person, handle: own.profile.handle()?.to_string() };
        self.notice(seq, Notice::Left { who })
    }

    /// What is said, with the proof that only this epoch can give.
    pub(in crate::engine) fn proven(&mut self, said: &Said) -> Result<Said, Error> {
        if said.read().act().is_none() {
            return Ok(said.clone());
        }
        let own = self.step.own()?;
        let leaf = own.leaf()?;
        let proposal = self.group(|group, _| group.propose_leave(&leaf, b""))?;
        said_leave(proposal)
    }

    pub(in crate::engine) fn note_leaver(&mut self, leaver: &Member, proposal: &[u8]) -> Result<(), Error> {
        let epoch = self.record().epoch;
        // One that is none, or another's, proves nothing; the removal does without it then.
        let proven = self.group(|group, _| Ok(group.check_leave(proposal)))?;
        let proven = proven.is_ok_and(|member| member.leaf == leaver.leaf);
        self.change().leaving.push(Leaver {
            person: PersonId::from(&leaver.credential.identity()),
            leaf: leaver.leaf,
            signature_key: leaver.signature_key,
            epoch,
            proposal: if proven { proposal.to_vec() } else { Vec::new() },
        });
        Ok(())
    }

    /// Proofs of this epoch, as every member that read so far has them.
    pub(in crate::engine) fn leave_proposals(&self, epoch: u64) -> Vec<Vec<u8>> {
        let leaving = self.record().leaving.iter();
        leaving
            .filter(|leaver| leaver.epoch == epoch && !leaver.proposal.is_empty())
            .map(|leaver| leaver.proposal.clone())
            .collect()
    }

    /// The proof for a removal, if it is of somebody who leaves.
    pub(in crate::engine) fn leave_proposals_of(&self, intent: &Intent, epoch: u64) -> Vec<Vec<u8>> {
        let Intent::Remove { leaf, signature_key, .. } = intent else { return Vec::new() };
        let leaving = self.record().leaving.iter();
        leaving
            .filter(|leaver| leaver.epoch == epoch && !leaver.proposal.is_empty())
            .filter(|leaver| leaver.leaf == *leaf && leaver.signature_key == *signature_key)
            .map(|leaver| leaver.proposal.clone())
            .collect()
    }
}

fn said_leave(proposal: Vec<u8>) -> Result<Said, Error> {
    Said::new(Leave { proposal }).map_err(|error| Error::BadContent(error.to_string()))
}
