//! Parts in RAM, for tests and for a relay that keeps nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Arriving, Owner, PartError, Parts, Place, Soon};

type Shared = Arc<Mutex<BTreeMap<(Owner, u32), Bytes>>>;

/// All parts.
#[derive(Debug, Default)]
pub(crate) struct MemoryParts(Shared);

struct InMemory {
    all: Shared,
    bytes: Vec<u8>,
    _place: Place,
}

fn ready<'a, T: Send + 'a>(result: Result<T, PartError>) -> Soon<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Parts for MemoryParts {
    fn begin(&self, place: Place) -> Soon<'_, Box<dyn Arriving>> {
        ready(Ok(Box::new(InMemory { all: self.0.clone(), bytes: Vec::new(), _place: place })))
    }

    fn first_missing(&self, owner: Owner, _: u64, mut parts: Range<u32>) -> Soon<'_, Option<u32>> {
        let all = self.0.lock();
        ready(Ok(parts.find(|part| !all.contains_key(&(owner, *part)))))
    }

    fn read(&self, owner: Owner, part: u32, range: Range<u32>) -> Soon<'_, Bytes> {
        let (start, end) = (range.start as usize, range.end as usize);
        let part = self.0.lock().get(&(owner, part)).cloned().ok_or(PartError::Missing);
        ready(part.and_then(|part| {
            if end <= part.len() && start <= end {
                Ok(part.slice(start..end))
            } else {
                Err(PartError::Failed)
            }
        }))
    }

    fn remove(&self, owner: Owner, most: usize) -> Soon<'_, bool> {
        let mut all = self.0.lock();
        let of_it = (owner, 0)..=(owner, u32::MAX);
        let gone: Vec<_> = all.range(of_it.clone()).take(most).map(|(name, _)| *name).collect();
        gone.iter().for_each(|name| drop(all.remove(name)));
        ready(Ok(all.range(of_it).next().is_some()))
    }

    fn shelf(&self, shelf: u8) -> Soon<'_, Vec<Owner>> {
        let mut owners: Vec<Owner> = self.0.lock().keys().map(|(owner, _)| *owner).collect();
        owners.dedup();
        owners.retain(|owner| owner.blob.0[0] == shelf);
        ready(Ok(owners))
    }
}

impl Arriving for InMemory {
    fn write(&mut self, bytes: Vec<u8>) -> Soon<'_, ()> {
        self.bytes.extend(bytes);
        ready(Ok(()))
    }

    fn store(self: Box<Self>, owner: Owner, part: u32) -> Soon<'static, ()> {
        let mut all = self.all.lock();
        let stored = all.entry((owner, part)).or_insert_with(|| self.bytes.clone().into());
        ready(if *stored == self.bytes { Ok(()) } else { Err(PartError::Differs) })
    }
}
