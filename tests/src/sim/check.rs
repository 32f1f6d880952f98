//! What must be true when everything has settled.

use std::collections::BTreeMap;

use posthorn_client::conversation::{
    Body, ConversationId, ConversationState, Entry, EntryState, GroupId, Notice,
};
use posthorn_client::engine::{Command, ConversationSummary, Page};

use super::world::World;

/// One device's view of a conversation.
struct View {
    device: usize,
    summary: ConversationSummary,
    messages: Vec<Entry>,
}

/// What was asked to be sent: by which device, where, which text.
pub(super) type Sent = (usize, GroupId, String);

/// Checks all conversations of all devices; returns how many messages were compared.
pub(super) fn consistent(world: &mut World, sent: &[Sent]) -> Result<usize, String> {
    let mut by_conversation: BTreeMap<GroupId, Vec<View>> = BTreeMap::new();
    for device in 0..world.devices.len() {
        for summary in world.conversations(device) {
            let messages = history(world, device, summary.id);
            by_conversation.entry(summary.group).or_default().push(View { device, summary, messages });
        }
    }
    let mut compared = 0;
    for (id, views) in &by_conversation {
        same_group(world, id, views)?;
        compared += same_messages(world, views)?;
        everything_sent(world, id, views, sent)?;
    }
    Ok(compared)
}

pub(super) fn history(world: &mut World, device: usize, conversation: ConversationId) -> Vec<Entry> {
    let page = Page { limit: 100_000, ..Page::default() };
    world.ask(device, |reply| Command::History { conversation, page, reply }).expect("is there")
}

/// Likewise of a group, as a device has it.
pub(super) fn history_of(world: &mut World, device: usize, group: GroupId) -> Vec<Entry> {
    world.local(device, group).map(|local| history(world, device, local)).unwrap_or_default()
}

/// Whether a device is still in.
pub(super) fn goes_on(state: &ConversationState) -> bool {
    !matches!(state, ConversationState::Left | ConversationState::Removed)
}

/// Where an entry stands: in which mailbox of the conversation, and at which seq.
fn at(entry: &Entry) -> Option<(u32, u64)> {
    entry.place.zip(entry.seq)
}

fn is_active(view: &View) -> bool {
    view.summary.state == ConversationState::Active
}

/// Whoever is in is in the same epoch, with the same members, who are exactly those that are in.
fn same_group(world: &World, id: &GroupId, views: &[View]) -> Result<(), String> {
    let mut active = views.iter().filter(|view| is_active(view));
    let Some(first) = active.next() else { return Ok(()) };
    for view in active {
        if (view.summary.epoch, names(&view.summary)) != (first.summary.epoch, names(&first.summary)) {
            return Err(format!(
                "{id}: {} is in epoch {} with {:?}, {} in epoch {} with {:?}",
                world.devices[first.device].name,
                first.summary.epoch,
                names(&first.summary),
                world.devices[view.device].name,
                view.summary.epoch,
                names(&view.summary),
            ));
        }
    }
    let mut in_it: Vec<&str> =
        views.iter().filter(|v| is_active(v)).map(|v| world.devices[v.device].name.as_str()).collect();
    let members = names(&first.summary);
    in_it.sort_unstable();
    if in_it != members {
        let states = views.iter().map(|v| (&world.devices[v.device].name, &v.summary.state, v.summary.epoch));
        let states: Vec<_> = states.collect();
        return Err(format!("{id}: members are {members:?}, in are {in_it:?}: {states:?}"));
    }
    Ok(())
}

fn names(summary: &ConversationSummary) -> Vec<&str> {
    let mut names: Vec<&str> = summary.members.iter().map(|member| member.handle.as_str()).collect();
    names.sort_unstable();
    names
}

/// Texts that two devices have both read are the same at the same seqs, and none is there twice.
fn same_messages(world: &World, views: &[View]) -> Result<usize, String> {
    let mut by_seq: BTreeMap<(u32, u64), (usize, &Entry)> = BTreeMap::new();
    let mut compared = 0;
    for view in views {
        let name = &world.devices[view.device].name;
        let mut last = (0, 0);
        for message in view.messages.iter().filter(|message| message.text().is_some()) {
            let Some(seq) = at(message) else {
                if is_active(view) {
                    return Err(format!("{name} still has {:?} queued", message.body));
                }
                continue;
            };
            if !message.mine && seq <= last {
                return Err(format!("{name} has seq {seq:?} after seq {last:?}"));
            }
            if !message.mine {
                last = seq;
            }
            compared += 1;
            if let Some((other, theirs)) = by_seq.insert(seq, (view.device, message))
                && (theirs.id, &theirs.body, &theirs.author) != (message.id, &message.body, &message.author)
            {
                return Err(format!("{name} and {} differ at seq {seq:?}", world.devices[other].name));
            }
        }
    }
    Ok(compared)
}

/// Every text that an active member had sent is there exactly once for it, and for everybody who was in at
/// its seq.
fn everything_sent(world: &World, id: &GroupId, views: &[View], sent: &[Sent]) -> Result<(), String> {
    for (device, conversation, text) in sent.iter().filter(|(_, conversation, _)| conversation == id) {
        let Some(own) = views.iter().find(|view| view.device == *device && is_active(view)) else { continue };
        // Who was taken out and came back said it in the conversation that ended (rule 27): there it stands
        // with its seq, or says that it was not sent.
        let said = views.iter().filter(|view| view.device == own.device).flat_map(|view| &view.messages);
        let said: Vec<&Entry> = said.filter(|m| m.mine && m.text() == Some(text)).collect();
        if said.iter().any(|entry| matches!(entry.state, EntryState::Failed(_))) {
            continue;
        }
        let seqs: Vec<(u32, u64)> = said.iter().filter_map(|entry| at(entry)).collect();
        let [seq] = seqs[..] else {
            return Err(format!(
                "{}: {text:?} of {conversation} has seqs {seqs:?}",
                world.devices[*device].name
            ));
        };
        for view in views.iter().filter(|view| is_active(view) && view.device != *device) {
            // A device has everything since it joined last; who began the conversation never joined.
            let joined = view
                .messages
                .iter()
                .filter(|m| matches!(m.body, Body::Notice(Notice::Joined { .. } | Notice::Returned { .. })));
            let joined = joined.filter_map(at).max().unwrap_or((0, 0));
            let count = view.messages.iter().filter(|message| message.text() == Some(text)).count();
            if joined < seq && count != 1 {
                let name = &world.devices[view.device].name;
                return Err(format!("{name} has {text:?} (seq {seq:?}) {count} times, joined at {joined:?}"));
            }
        }
    }
    Ok(())
}

/// Everybody is in and has read everything that this device sent: the marks must say so.
pub(super) fn all_delivered(world: &mut World, device: usize, group: GroupId) -> Result<(), String> {
    for message in history_of(world, device, group) {
        let is_own_text = message.mine && message.text().is_some();
        if is_own_text && !matches!(message.state, EntryState::Delivered | EntryState::Read) {
            return Err(format!("{:?} is {:?} although everybody has it", message.body, message.state));
        }
    }
    Ok(())
}
