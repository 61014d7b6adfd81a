//! Mailboxes between cores: one single-producer, single-consumer queue for each
//! ordered pair, and a flag by which a core says that it waits and must be woken.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::node::mailbox::Parcel;
use crate::node::session::Session;

/// Parcels that may wait in one mailbox. A sender whose mailbox is full keeps its
/// parcel and adds to it.
const MAILBOX_LEN: usize = 1024;

/// What travels between cores.
pub enum Mail {
    /// Requests and replies.
    Parcel(Parcel),
    /// A connection that belongs to the other core.
    Connection(Box<Session>, OwnedFd),
}

/// One core's end of the mesh.
pub struct Mesh {
    here: usize,
    outgoing: Vec<Option<Producer<Mail>>>,
    incoming: Vec<Option<Consumer<Mail>>>,
    /// Which cores wait, each in a cache line of its own.
    waiting: Arc<[Waiting]>,
    rings: Vec<RawFd>,
}

#[repr(align(64))]
#[derive(Default)]
struct Waiting(AtomicBool);

impl Mesh {
    /// The ends for all cores, in order.
    pub fn build(cores: usize) -> Vec<Mesh> {
        let waiting: Arc<[Waiting]> = (0..cores).map(|_| Waiting::default()).collect();
        let mut meshes: Vec<Mesh> = (0..cores)
            .map(|here| Mesh {
                here,
                outgoing: (0..cores).map(|_| None).collect(),
                incoming: (0..cores).map(|_| None).collect(),
                waiting: waiting.clone(),
                rings: Vec::new(),
            })
            .collect();
        for from in 0..cores {
            for to in (0..cores).filter(|&to| to != from) {
                let (producer, consumer) = RingBuffer::new(MAILBOX_LEN);
                meshes[from].outgoing[to] = Some(producer);
                meshes[to].incoming[from] = Some(consumer);
            }
        }
        meshes
    }

    /// Tells by which ring each core is woken.
    pub fn set_rings(&mut self, rings: Vec<RawFd>) {
        self.rings = rings;
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether the mailbox of `core` takes another entry.
    pub fn has_room(&self, core: usize) -> bool {
        self.outgoing[core].as_ref().is_some_and(|p| !p.is_full())
    }

    /// Puts `mail` into the mailbox of `core`, which has room.
    pub fn send(&mut self, core: usize, mail: Mail) {
        let producer = self.outgoing[core].as_mut().expect("a core sends nothing to itself");
        let sent = producer.push(mail);
        assert!(sent.is_ok(), "the caller has checked that the mailbox has room");
    }

    /// After sending: the ring to wake, if `core` waits. It is woken once only.
    pub fn ring_to_wake(&self, core: usize) -> Option<RawFd> {
        // Pairs with the fence in `begin_wait`: either this load sees that the core
        // waits, or that core's look at its mailboxes sees what was sent.
        fence(Ordering::SeqCst);
        let waiting = &self.waiting[core].0;
        (waiting.load(Ordering::Relaxed) && waiting.swap(false, Ordering::Relaxed)).then(|| self.rings[core])
    }

    /// Says that this core is about to wait. Answers whether it may: not if something
    /// has come in meanwhile.
    pub fn begin_wait(&self) -> bool {
        if self.cores() == 1 {
            return true;
        }
        self.waiting[self.here].0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.has_mail() {
            self.end_wait();
            return false;
        }
        true
    }

    /// Says that this core no longer waits.
    pub fn end_wait(&self) {
        if self.cores() > 1 {
            self.waiting[self.here].0.store(false, Ordering::Relaxed);
        }
    }

    /// Whether something waits for this core.
    #[inline]
    pub fn has_mail(&self) -> bool {
        self.incoming.iter().flatten().any(|consumer| !consumer.is_empty())
    }

    /// Takes the next thing that `core` has sent.
    #[inline]
    pub fn receive(&mut self, core: usize) -> Option<Mail> {
        self.incoming[core].as_mut()?.pop().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_arrives_in_order_and_a_waiting_core_is_woken_once() {
        let mut meshes = Mesh::build(2);
        let (mut one, mut two) = (meshes.pop().unwrap(), meshes.pop().unwrap());
        one.set_rings(vec![70, 71]);
        assert!(two.begin_wait(), "nothing has come in");
        for n in 0..3u8 {
            one.send(0, Mail::Parcel(Parcel { bytes: vec![n], ..Parcel::default() }));
        }
        assert_eq!(one.ring_to_wake(0), Some(70));
        assert_eq!(one.ring_to_wake(0), None, "one wake-up is enough");
        for n in 0..3u8 {
            let Some(Mail::Parcel(parcel)) = two.receive(1) else { panic!("mail {n} is missing") };
            assert_eq!(parcel.bytes, [n]);
        }
        assert!(two.receive(1).is_none());
        one.send(0, Mail::Parcel(Parcel::default()));
        assert!(!two.begin_wait(), "a core with mail does not wait");
        assert_eq!(one.ring_to_wake(0), None);
    }
}
