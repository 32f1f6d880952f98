//! What must be true when everything has settled.

use std::collections::BTreeMap;

use posthorn_client::conversation::{Body, ConversationId, ConversationState, Message, MessageState, Notice};
use posthorn_client::sync::{Answer, Command, ConversationSummary};

use super::world::World;

/// One device's view of a conversation.
struct View {
    device: usize,
    summary: ConversationSummary,
    messages: Vec<Message>,
}

/// What was asked to be sent: by which device, where, which text.
pub(super) type Sent = (usize, ConversationId, String);

/// Checks all conversations of all devices; returns how many messages were compared.
pub(super) fn consistent(world: &mut World, sent: &[Sent]) -> Result<usize, String> {
    let mut by_conversation: BTreeMap<ConversationId, Vec<View>> = BTreeMap::new();
    for device in 0..world.devices.len() {
        for summary in conversations(world, device) {
            let messages = history(world, device, summary.id);
            by_conversation.entry(summary.id).or_default().push(View { device, summary, messages });
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

fn conversations(world: &mut World, device: usize) -> Vec<ConversationSummary> {
    match world.ask(device, Command::Conversations) {
        Ok(Answer::Conversations(list)) => list,
        other => panic!("Conversations answers a list, not {other:?}"),
    }
}

pub(super) fn history(world: &mut World, device: usize, conversation: ConversationId) -> Vec<Message> {
    match world.ask(device, Command::History { conversation, before: None, limit: 100_000 }) {
        Ok(Answer::History(list)) => list,
        other => panic!("History answers a list, not {other:?}"),
    }
}

fn is_active(view: &View) -> bool {
    view.summary.state == ConversationState::Active
}

/// Whoever is in is in the same epoch, with the same members, who are exactly those that are in.
fn same_group(world: &World, id: &ConversationId, views: &[View]) -> Result<(), String> {
    let mut active = views.iter().filter(|view| is_active(view));
    let Some(first) = active.next() else { return Ok(()) };
    for view in active {
        if (view.summary.epoch, &view.summary.members) != (first.summary.epoch, &first.summary.members) {
            return Err(format!(
                "{id}: {} is in epoch {} with {:?}, {} in epoch {} with {:?}",
                world.devices[first.device].name,
                first.summary.epoch,
                first.summary.members,
                world.devices[view.device].name,
                view.summary.epoch,
                view.summary.members,
            ));
        }
    }
    let mut names: Vec<&str> =
        views.iter().filter(|v| is_active(v)).map(|v| world.devices[v.device].name.as_str()).collect();
    let mut members: Vec<&str> = first.summary.members.iter().map(String::as_str).collect();
    names.sort_unstable();
    members.sort_unstable();
    if names != members {
        return Err(format!("{id}: members are {members:?}, in are {names:?}"));
    }
    Ok(())
}

/// Texts that two devices have both read are the same at the same seqs, and none is there twice.
fn same_messages(world: &World, views: &[View]) -> Result<usize, String> {
    let mut by_seq: BTreeMap<u64, (usize, &Message)> = BTreeMap::new();
    let mut compared = 0;
    for view in views {
        let name = &world.devices[view.device].name;
        let mut last = 0;
        for message in view.messages.iter().filter(|message| matches!(message.body, Body::Text(_))) {
            let Some(seq) = message.seq else {
                if is_active(view) {
                    return Err(format!("{name} still has {:?} queued", message.body));
                }
                continue;
            };
            if !message.mine && seq <= last {
                return Err(format!("{name} has seq {seq} after seq {last}"));
            }
            if !message.mine {
                last = seq;
            }
            compared += 1;
            if let Some((other, theirs)) = by_seq.insert(seq, (view.device, message))
                && (theirs.id, &theirs.body, &theirs.sender) != (message.id, &message.body, &message.sender)
            {
                return Err(format!("{name} and {} differ at seq {seq}", world.devices[other].name));
            }
        }
    }
    Ok(compared)
}

/// Every text that an active member had sent is there exactly once for it, and for everybody who was in at
/// its seq.
fn everything_sent(world: &World, id: &ConversationId, views: &[View], sent: &[Sent]) -> Result<(), String> {
    for (device, conversation, text) in sent.iter().filter(|(_, conversation, _)| conversation == id) {
        let Some(own) = views.iter().find(|view| view.device == *device && is_active(view)) else { continue };
        let body = Body::Text(text.clone());
        let seqs: Vec<u64> = own.messages.iter().filter(|m| m.body == body).filter_map(|m| m.seq).collect();
        let [seq] = seqs[..] else {
            return Err(format!(
                "{}: {text:?} of {conversation} has seqs {seqs:?}",
                world.devices[*device].name
            ));
        };
        for view in views.iter().filter(|view| is_active(view) && view.device != *device) {
            // A device has everything since it joined last; who began the conversation never joined.
            let joined =
                view.messages.iter().filter(|m| matches!(m.body, Body::Notice(Notice::Joined { .. })));
            let joined = joined.filter_map(|message| message.seq).max().unwrap_or(0);
            let count = view.messages.iter().filter(|message| message.body == body).count();
            if joined < seq && count != 1 {
                let name = &world.devices[view.device].name;
                return Err(format!("{name} has {text:?} (seq {seq}) {count} times, joined at {joined}"));
            }
        }
    }
    Ok(())
}

/// Everybody is in and has read everything that this device sent: the marks must say so.
pub(super) fn all_delivered(
    world: &mut World,
    device: usize,
    conversation: ConversationId,
) -> Result<(), String> {
    for message in history(world, device, conversation) {
        let is_own_text = message.mine && matches!(message.body, Body::Text(_));
        if is_own_text && !matches!(message.state, MessageState::Delivered | MessageState::Read) {
            return Err(format!("{:?} is {:?} although everybody has it", message.body, message.state));
        }
    }
    Ok(())
}
