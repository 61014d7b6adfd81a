//! Copies of the hottest keys at cores that do not own them.
//!
//! A key that makes up a large part of its core's load, and that plain clients of other cores read, is answered by
//! these cores too: with the reply to such a read the owner gives a copy. The owner revokes it in the operation
//! that changes the key ([`Epoch`]), so no read that begins after a write was acknowledged sees an older value, whichever
//! core serves it. A copy ends by itself after a second; the next read goes to the owner, which hears then how many
//! the copy has answered, counts them as load of the key, and gives a new one if the key is still hot.
//!
//! ```text
//! holder: read ─> copy good? ─yes─> reply         owner: forwarded read ─> hot? ─yes─> reply and copy
//!                     └─no──> forward to owner           change ─> epoch moves on
//! ```
//!
//! One connection's requests keep their order: a read is not answered by a copy while an earlier request of the
//! connection that may be about the same key is under way.

use std::sync::Arc;

use super::Node;
use super::mailbox::{Form, Parcel};
use super::session::Session;
use crate::base::{KeyHash, UnixMillis};
use crate::command::{Expiry, Lease, Leased, Op, Payload, ReplySink, Span, Value};
use crate::engine::At;
use crate::engine::copies::Epoch;
use crate::protocol;
use crate::protocol::resp::Encoder;

/// Keys that one core offers copies of, and copies that one holds.
const OFFERS_MAX: usize = 16;
const HELD_MAX: usize = 32;
/// The longest value that is copied, and the part of a core's memory that it may be at most.
const VALUE_BYTES_MAX: usize = 64 << 10;
const VALUE_PART: u64 = 4096;
/// The longest key.
const KEY_BYTES_MAX: usize = 1024;
/// How long a copy answers reads before its holder asks again.
const TERM_MS: u64 = 1000;
/// After so long without use an offer or a copy is dropped.
const IDLE_MS: u64 = 10_000;
/// A key is offered until its part of the load is below the one from which it is, divided by this.
const HYSTERESIS: u64 = 2;
/// After so many copies of a key for each core it is seen whether they were of use:
const GIVEN_EACH: u64 = 16;
/// whether each has answered so many reads. Otherwise no more are given for a while.
const READS_EACH: u64 = 2;
const PAUSE_MS: u64 = 500;

/// A copy on its way from the owner.
#[derive(Debug)]
pub struct Grant {
    at: At,
    key: Span,
    value: Span,
    terms: Terms,
}

/// What is known of a value that was copied, and for how long the copy is good.
#[derive(Debug)]
struct Terms {
    version: u64,
    flags: u32,
    expires_at: Option<u64>,
    accessed_at: Option<u32>,
    epoch: Arc<Epoch>,
    made_in: u64,
    until: UnixMillis,
}

/// A key that this core owns and gives copies of.
#[derive(Debug)]
struct Offer {
    hash: KeyHash,
    epoch: Arc<Epoch>,
    used_at: UnixMillis,
    /// Copies given, and reads that copies have answered, since that was last looked at.
    given: u64,
    answered: u64,
    /// Until then none are given.
    paused_until: UnixMillis,
    /// For each core, the epoch of the last copy given to it, and its end.
    last: Vec<(u64, UnixMillis)>,
}

impl Offer {
    /// Whether a core has got the copy that it would get now.
    fn has(&self, core: usize, now: UnixMillis) -> bool {
        let (made_in, until) = self.last[core];
        now < until && self.epoch.is(made_in)
    }
}

/// A copy that this core holds.
#[derive(Debug)]
struct Held {
    at: At,
    key: Box<[u8]>,
    value: Vec<u8>,
    terms: Terms,
    /// The number of the first copy of this key of those that followed each other here.
    number: u64,
    /// Reads answered that the owner has not heard of.
    reads: u64,
}

impl Held {
    fn is_good(&self, now: UnixMillis) -> bool {
        let Terms { expires_at, epoch, made_in, until, .. } = &self.terms;
        expires_at.is_none_or(|deadline| now.0 <= deadline) && now < *until && epoch.is(*made_in)
    }

    /// Tells the owner of the reads, which it takes in with the next request for the key.
    fn report(&mut self) {
        if self.reads > 0 {
            self.terms.epoch.add_reads(std::mem::take(&mut self.reads));
        }
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.key.len() + self.value.capacity()
    }
}

/// What one core offers and holds.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// The part of a core's load from which on a key is offered, in millionths; 0 for never.
    share_ppm: u64,
    /// A key seen with such a part, that may be offered with its next read.
    hot: Option<KeyHash>,
    offers: Vec<Offer>,
    /// A set that has all keys in `offers` in it, and others.
    offer_bits: u64,
    held: Vec<Held>,
    /// The same of `held`.
    held_bits: u64,
    /// How many keys have come to be held.
    numbered: u64,
}

impl Copies {
    pub fn new(share_ppm: u32) -> Self {
        Self { share_ppm: share_ppm.into(), ..Self::default() }
    }

    /// Memory held.
    pub fn held_bytes(&self) -> usize {
        self.held.iter().map(Held::bytes).sum::<usize>() + self.offers.capacity() * size_of::<Offer>()
    }

    /// How many copies there are here.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether a copy of a key is or was held lately. Others may seem so.
    #[inline]
    fn may_hold(&self, hash: KeyHash) -> bool {
        self.held_bits & hash.bit() != 0
    }

    fn note_offers(&mut self) {
        self.offer_bits = self.offers.iter().fold(0, |bits, offer| bits | offer.hash.bit());
    }

    fn note_held(&mut self) {
        self.held_bits = self.held.iter().fold(0, |bits, held| bits | held.at.hash.bit());
    }

    /// A key of this core was seen to have this part of its load.
    pub fn consider(&mut self, hash: KeyHash, share_ppm: u64) {
        if self.share_ppm > 0 && share_ppm >= self.share_ppm {
            self.hot = Some(hash);
        }
    }

    /// Whether a key is offered here, or a copy of it is held.
    #[inline]
    fn is_everywhere(&self, at: At) -> bool {
        (self.offer_bits | self.held_bits) & at.hash.bit() != 0 && self.is_known(at)
    }

    #[cold]
    fn is_known(&self, at: At) -> bool {
        self.held.iter().any(|held| held.at == at) || self.offers.iter().any(|offer| offer.hash == at.hash)
    }

    /// Whether the key is offered, or might be.
    #[inline]
    fn is_about(&self, hash: KeyHash) -> bool {
        self.hot == Some(hash) || self.offer_bits & hash.bit() != 0
    }

    /// Drops all copies that are held.
    pub fn drop_held(&mut self) {
        self.held.iter_mut().for_each(Held::report);
        self.held.clear();
        self.note_held();
    }

    fn put(&mut self, grant: Grant, bytes: &[u8]) {
        let Grant { at, key, value, terms } = grant;
        let (key, value) = (key.of(bytes), value.of(bytes));
        if let Some(held) = self.held.iter_mut().find(|held| held.at == at && *held.key == *key) {
            held.report();
            held.value.clear();
            held.value.extend_from_slice(value);
            held.terms = terms;
            return;
        }
        if self.held.len() == HELD_MAX {
            let oldest = self.held.iter().enumerate().min_by_key(|(_, held)| held.terms.until).map(|(i, _)| i);
            oldest.map(|i| self.held.swap_remove(i)).into_iter().for_each(|mut held| held.report());
        }
        self.numbered += 1;
        let (key, value, number) = (key.into(), value.to_vec(), self.numbered);
        self.held.push(Held { at, key, value, terms, number, reads: 0 });
        self.note_held();
    }
}

impl Session {
    /// Whether a copy may answer a read of this session now: no request that may be about its key is under way.
    fn may_read_copy(&mut self, number: u64, numbered: u64) -> bool {
        if self.copies_seen < number {
            // The key may be that of any request under way.
            self.copies_seen = numbered;
            self.copies_after = self.output.next_sequence().wrapping_sub(1);
        }
        self.output.has_answered(self.copies_after)
    }
}

impl Node {
    /// A request of a session for a key of another core is about to be sent there: until it is answered, copies answer no
    /// read of that key.
    #[inline]
    pub(super) fn hold_copies(&self, session: &mut Session, sequence: u32, at: At) {
        if self.copies.may_hold(at.hash) {
            session.copies_after = sequence;
        }
    }

    /// Whether every core may answer reads of a key: they do not say where a connection belongs.
    #[inline]
    pub(super) fn is_read_everywhere(&self, at: At, op: &Op<'_>) -> bool {
        self.copies.is_everywhere(at) && is_plain_read(op)
    }

    /// Whether there is a copy of another core's key here, or was lately: a first read does not move a connection then.
    #[inline]
    pub(super) fn is_copied_here(&self, at: At) -> bool {
        self.copies.may_hold(at.hash) && self.copies.is_known(at)
    }

    /// The copy that may answer an operation on a key of another core, if there is one.
    #[inline]
    pub(super) fn find_copy(
        &mut self,
        session: &mut Session,
        form: &Form,
        at: At,
        key: &[u8],
        op: &Op<'_>,
    ) -> Option<usize> {
        if !self.copies.may_hold(at.hash) { None } else { self.find_held(session, form, at, key, op) }
    }

    fn find_held(&mut self, session: &mut Session, form: &Form, at: At, key: &[u8], op: &Op<'_>) -> Option<usize> {
        let is_tracked = matches!(form, Form::Resp { tracked: Some(_), .. });
        if is_tracked || !is_plain_read(op) {
            return None;
        }
        let (now, numbered) = (self.now, self.copies.numbered);
        let index = self.copies.held.iter().position(|held| held.at == at && *held.key == *key)?;
        let held = &mut self.copies.held[index];
        if !held.is_good(now) {
            held.report();
            return None;
        }
        session.may_read_copy(held.number, numbered).then_some(index)
    }

    /// Writes the answer of a copy.
    pub(super) fn answer_copy(&mut self, index: usize, form: &Form, op: &Op<'_>, out: &mut Vec<u8>) {
        self.counters.copy_reads += 1;
        let held = &mut self.copies.held[index];
        held.reads += 1;
        self.shard.count_copy_read(&held.key);
        let value = Value {
            payload: Payload::Whole(&held.value),
            version: held.terms.version,
            expires_at: held.terms.expires_at,
            flags: held.terms.flags,
            was_read: true,
            // To the copy's own age, which is that exact.
            accessed_at: held.terms.accessed_at,
        };
        match form {
            Form::Resp { version, command, .. } => tell(&value, op, &mut Encoder::new(out, *version, command)),
            Form::Memcache(form) => {
                tell(&value, op, &mut protocol::memcache::Encoder::new(out, form, &held.key, self.now));
            }
            Form::Http(form) => tell(&value, op, &mut protocol::http::Encoder::new(out, form, &held.key, self.now)),
        }
    }

    /// A key of this core was read for another core: gives that one a copy if the key is hot.
    #[inline]
    pub(super) fn offer_copy(&mut self, to: usize, form: &Form, at: At, key: &[u8], op: &Op<'_>) {
        let is_tracked = matches!(form, Form::Resp { tracked: Some(_), .. });
        if self.copies.is_about(at.hash) && !is_tracked && is_plain_read(op) && key.len() <= KEY_BYTES_MAX {
            self.offer_hot(to, at, key);
        }
    }

    fn offer_hot(&mut self, to: usize, at: At, key: &[u8]) {
        let now = self.now;
        let is_new = self.copies.hot.take_if(|hot| *hot == at.hash).is_some();
        let known = self.copies.offers.iter().position(|offer| offer.hash == at.hash);
        let Some(index) = known.or_else(|| is_new.then(|| self.begin_offer(at)).flatten()) else { return };
        let bytes_max = self.copied_bytes_max();
        let offer = &mut self.copies.offers[index];
        let reads = offer.epoch.take_reads();
        offer.used_at = now;
        offer.answered += reads;
        if reads > 0 {
            self.hot.add_ops(at.hash, key, reads, now);
        }
        if now < offer.paused_until || offer.has(to, now) {
            return;
        }
        if self.hot.share_of(at.hash) < self.copies.share_ppm / HYSTERESIS {
            return self.end_offer(index);
        }
        if offer.given >= GIVEN_EACH * self.outbox.len() as u64 {
            let was_of_use = offer.answered >= READS_EACH * offer.given;
            (offer.given, offer.answered) = (0, 0);
            if !was_of_use {
                offer.paused_until = UnixMillis(now.0 + PAUSE_MS);
                return;
            }
        }
        let (made_in, until) = (offer.epoch.number(), UnixMillis(now.0 + TERM_MS));
        offer.given += 1;
        offer.last[to] = (made_in, until);
        let (epoch, parcel) = (offer.epoch.clone(), &mut self.outbox[to]);
        let shown = self.shard.show_copyable(at, key, bytes_max, now, |value| {
            let (key, value_at) = (parcel.put(key), put_payload(parcel, &value.payload));
            let Value { version, flags, expires_at, accessed_at, .. } = *value;
            let terms = Terms { version, flags, expires_at, accessed_at, epoch, made_in, until };
            parcel.copies.push(Grant { at, key, value: value_at, terms });
        });
        if !shown {
            // Not now, and not soon.
            self.copies.offers[index].paused_until = UnixMillis(now.0 + PAUSE_MS);
        }
    }

    fn begin_offer(&mut self, at: At) -> Option<usize> {
        if self.copies.offers.len() == OFFERS_MAX {
            let (index, oldest) = self.copies.offers.iter().enumerate().min_by_key(|(_, offer)| offer.used_at)?;
            if self.now.since(oldest.used_at) < TERM_MS {
                return None;
            }
            self.end_offer(index);
        }
        let epoch = Arc::new(Epoch::default());
        self.shard.begin_copies(at.hash, epoch.clone());
        self.copies.offers.push(Offer {
            hash: at.hash,
            epoch,
            used_at: self.now,
            given: 0,
            answered: 0,
            paused_until: UnixMillis(0),
            last: vec![(0, UnixMillis(0)); self.outbox.len()],
        });
        self.copies.note_offers();
        Some(self.copies.offers.len() - 1)
    }

    fn end_offer(&mut self, index: usize) {
        let offer = self.copies.offers.swap_remove(index);
        self.shard.end_copies(&offer.epoch);
        self.copies.note_offers();
    }

    /// Takes in the copies that a parcel brought.
    pub(super) fn accept_copies(&mut self, copies: impl Iterator<Item = Grant>, bytes: &[u8]) {
        // Another core may have more memory than this.
        let bytes_max = self.copied_bytes_max();
        let fits = |grant: &Grant| grant.value.of(bytes).len() <= bytes_max;
        copies.filter(fits).for_each(|grant| self.copies.put(grant, bytes));
    }

    /// The longest value that is copied from this core, or to it.
    fn copied_bytes_max(&self) -> usize {
        VALUE_BYTES_MAX.min((self.shard.budget_bytes() / VALUE_PART) as usize)
    }

    /// Drops what was not used for long.
    pub(super) fn tidy_copies(&mut self) {
        if self.copies.offers.is_empty() && self.copies.held.is_empty() {
            return;
        }
        let now = self.now;
        while let Some(index) = self.copies.offers.iter().position(|offer| now.since(offer.used_at) > IDLE_MS) {
            self.end_offer(index);
        }
        let before = self.copies.held.len();
        self.copies.held.retain_mut(|held| {
            let stays = now.since(held.terms.until) <= IDLE_MS;
            if !stays {
                held.report();
            }
            stays
        });
        if self.copies.held.len() < before {
            self.copies.note_held();
        }
    }
}

/// Whether an operation is a read that a copy of a fresh value answers as its owner would.
#[inline]
pub(super) fn is_plain_read(op: &Op<'_>) -> bool {
    match op {
        Op::Get => true,
        Op::Fetch { expiry: Expiry::Keep, ask, .. } => ask.is_none_or(|ask| ask.renew_below_ms == 0),
        _ => false,
    }
}

/// Answers a read with a value that is fresh and that nobody is to fill.
fn tell(value: &Value<'_>, op: &Op<'_>, out: &mut impl ReplySink) {
    match op {
        Op::Fetch { ask: Some(_), .. } => {
            out.leased(&Leased { value: Some(value), is_stale: false, lease: Lease::None });
        }
        _ => out.value(value),
    }
}

fn put_payload(parcel: &mut Parcel, payload: &Payload<'_>) -> Span {
    let start = parcel.bytes.len();
    payload.append_to(&mut parcel.bytes);
    Span::new(start, parcel.bytes.len())
}
