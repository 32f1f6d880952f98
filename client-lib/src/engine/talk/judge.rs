//! What members say of where they are, and of repairs (rule 7): what can be checked is checked, and what
//! cannot takes two persons.

use std::collections::BTreeSet;

use super::Talk;
use super::heal::{AGAIN, DAY};
use crate::content::Repaired;
use crate::conversation::heard::{Heard, heard};
use crate::engine::Error;

/// Repairs that are followed in a day on the word of the only other person.
const ON_A_WORD: u32 = 6;

impl Talk<'_, '_> {
    /// What to make of somebody who is where another repair led, where we go on ourselves.
    /// Until `late` others may say the same.
    pub(super) fn judge_repair(
        &mut self,
        repair: &Repaired,
        asked: &Heard,
        late: u64,
    ) -> Result<Judged, Error> {
        let healing = &self.record().healing;
        let (ours, is_alone) = (healing.led_by(), healing.is_alone());
        let all = heard(self.step.tx, &self.id)?;
        if repair.epoch == self.record().epoch && self.could_follow_one(&all, repair)? {
            if self.is_confirmed(&all)? {
                return Ok(Judged::Follow);
            }
            // We see nothing wrong, and nobody else says so: whoever moved away is taken back.
            let is_late = self.is_due(late, AGAIN);
            let is_known = is_late && asked.looked && self.is_caught_up();
            return Ok(if is_known { Judged::Answer } else { Judged::Look });
        }
        // What cannot be checked is a claim: it takes two persons to make us leave others.
        let wins = ours.is_none_or(|ours| repair.beats(&ours));
        Ok(if wins && self.people_at(&all, repair)? >= 2 {
            Judged::Lost
        } else if wins && is_alone {
            Judged::Better
        } else if wins && asked.stays && !self.is_due(late, AGAIN) {
            Judged::Wait
        } else {
            Judged::Answer
        })
    }

    /// Whether somebody has sent us this repair, and we could follow it.
    fn could_follow_one(&mut self, all: &[(i64, Heard)], repair: &Repaired) -> Result<bool, Error> {
        let mut there = all.iter().filter(|(_, asked)| asked.is_at == Some(*repair));
        match there.find_map(|(_, asked)| asked.repair.as_ref()) {
            Some(commit) => self.can_follow(commit),
            None => Ok(false),
        }
    }

    /// How many others say that they are where this repair leads.
    fn people_at(&mut self, all: &[(i64, Heard)], repair: &Repaired) -> Result<usize, Error> {
        let (own, now) = (self.step.own()?.person, self.step.now);
        let there = all
            .iter()
            .filter(|(_, asked)| asked.is_at == Some(*repair) && !asked.leaves)
            .filter(|(_, asked)| asked.person != own && now.saturating_sub(asked.came) < DAY);
        Ok(there.map(|(_, asked)| asked.person).collect::<BTreeSet<_>>().len())
    }

    /// Whether a repair of this epoch is to be followed although we see nothing wrong ourselves: two others
    /// say so; or, bounded, the only other person does.
    fn is_confirmed(&mut self, all: &[(i64, Heard)]) -> Result<bool, Error> {
        let (own, epoch) = (self.step.own()?.person, self.record().epoch);
        let (mut people, mut checked) = (BTreeSet::new(), Vec::new());
        for (_, asked) in all.iter().filter(|(_, asked)| asked.person != own && !asked.leaves) {
            let Some(repair) = asked.is_at.filter(|repair| repair.epoch == epoch) else { continue };
            let known = checked.iter().find(|(one, _)| *one == repair).map(|(_, leads_on)| *leads_on);
            let leads_on = known.map_or_else(|| self.could_follow_one(all, &repair), Ok)?;
            checked.push((repair, leads_on));
            if leads_on {
                people.insert(asked.person);
            }
            if people.len() >= 2 {
                return Ok(true);
            }
        }
        let today = self.step.now / DAY;
        let is_two = self.record().members.len() == 2;
        let healing = &mut self.change().healing;
        if healing.on_a_word.0 != today {
            healing.on_a_word = (today, 0);
        }
        let is_enough = is_two && people.len() == 1 && healing.on_a_word.1 < ON_A_WORD;
        healing.on_a_word.1 += u32::from(is_enough);
        Ok(is_enough)
    }

    fn is_caught_up(&self) -> bool {
        let up = self.link().and_then(|link| self.step.live.ready(&link, self.step.now));
        let opening = up.and_then(|up| up.openings.get(&self.record().mailbox));
        opening.is_some_and(|opening| opening.caught_up)
    }
}

/// What to do about one who is elsewhere.
pub(super) enum Judged {
    /// Go where it leads.
    Follow,
    /// Look at the mailbox ourselves first.
    Look,
    /// Somebody else may say so, too.
    Wait,
    /// It would win, says one person; and nobody is where we are.
    Better,
    /// It wins against where we are.
    Lost,
    /// It leads nowhere: whoever made it is taken back.
    Answer,
}
