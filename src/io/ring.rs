//! The data ring: one io_uring a core, and the second room where `unsafe` lives.
//!
//! What the kernel may touch while a request is under way is owned here and
//! nowhere else: receive buffers are lent out as [`Lent`] and taken back, and a
//! buffer to send is moved in and comes back with its completion; the address of
//! a connect is kept until it has completed. So no caller
//! can free or change memory that the kernel still uses.
//!
//! One ring belongs to one thread (`SINGLE_ISSUER`), and completions are made only
//! when that thread enters (`DEFER_TASKRUN`): no interrupt disturbs a turn.
#![allow(unsafe_code)]

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use socket2::SockAddr;

/// Submissions that fit before the ring must be entered.
const SUBMISSIONS_MAX: u32 = 1024;
/// Completions that fit before the kernel keeps them aside.
const COMPLETIONS_MAX: u32 = 4096;
/// Receive buffers. A power of two, at most 32,768.
const BUFFERS_MAX: u16 = 512;
/// The fewest that a ring works well with.
const BUFFERS_MIN: u16 = 32;
/// Bytes of one receive buffer.
const BUFFER_BYTES: usize = 8 << 10;
/// The longest buffer that is expected to be sent as it is handed over. One that the
/// peer does not take at once completes later, and no wait may count on it.
const INLINE_SEND_MAX: usize = 16 << 10;
/// Completions that are taken off the queue together: what is received by the last of them can be looked at while
/// the first is still to be handled.
const TAKEN_MAX: usize = 64;
/// The id under which the kernel knows the receive buffers.
const BUFFER_GROUP: u16 = 0;
/// Memory that a ring holds for receiving, whatever the number of connections.
pub const RECEIVE_BYTES_MAX: u64 = BUFFERS_MAX as u64 * BUFFER_BYTES as u64;
/// Memory of the smallest set of receive buffers.
pub const RECEIVE_BYTES_MIN: u64 = BUFFERS_MIN as u64 * BUFFER_BYTES as u64;

const _: () = assert!(BUFFERS_MAX.is_power_of_two() && BUFFERS_MAX <= 32_768, "the kernel's rule for buffer rings");
const _: () = assert!(BUFFERS_MIN.is_power_of_two() && BUFFERS_MIN <= BUFFERS_MAX);

/// What a request was for, with the number that its owner gave it.
///
/// ```text
/// user_data  63      56 55                        32 31                         0
///            [ kind    ][ generation (24)          ][ index                      ]
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The owner's index: a connection or a listener.
    pub index: u32,
    /// Tells it from an earlier owner of the same index; the low 24 bits count.
    pub generation: u32,
}

const KIND_SHIFT: u32 = 56;
const GENERATION_SHIFT: u32 = 32;
const GENERATION_MASK: u32 = 0xff_ffff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Accept = 1,
    Receive,
    Send,
    Cancel,
    Wake,
    Poll,
    Connect,
}

impl Kind {
    fn of(user_data: u64) -> Option<Kind> {
        use Kind::{Accept, Cancel, Connect, Poll, Receive, Send, Wake};
        const KINDS: [Kind; 7] = [Accept, Receive, Send, Cancel, Wake, Poll, Connect];
        KINDS.into_iter().find(|&kind| kind as u64 == user_data >> KIND_SHIFT)
    }
}

fn pack(kind: Kind, key: Key) -> u64 {
    (kind as u64) << KIND_SHIFT | u64::from(key.generation & GENERATION_MASK) << GENERATION_SHIFT | u64::from(key.index)
}

fn unpack(user_data: u64) -> Key {
    Key { index: user_data as u32, generation: (user_data >> GENERATION_SHIFT) as u32 & GENERATION_MASK }
}

impl Key {
    /// Whether a completion for this key is meant for an owner of `generation`.
    #[inline]
    pub fn is_generation(&self, generation: u32) -> bool {
        self.generation == generation & GENERATION_MASK
    }
}

/// A receive buffer with bytes in it. Give it back with [`Ring::recycle`].
#[derive(Debug)]
#[must_use = "a buffer that is not given back is lost to the ring"]
pub struct Lent {
    id: u16,
    len: u32,
}

/// What became of a receive.
#[derive(Debug)]
pub enum Received {
    /// Bytes arrived.
    Data(Lent),
    /// The peer has closed its side.
    End,
    /// All receive buffers in use were lent out. More are in use now, if there are more.
    Starved,
    /// It was cancelled.
    Cancelled,
    /// The connection is broken.
    Failed(io::Error),
}

/// Something that happened.
#[derive(Debug)]
pub enum Completion {
    /// A connection, or why there is none. `armed`: whether more will follow by themselves.
    Accepted {
        /// The listener.
        key: Key,
        /// The connection.
        result: io::Result<OwnedFd>,
        /// Whether the accept goes on.
        armed: bool,
    },
    /// A connection that was asked for is there, or why it is not.
    Connected {
        /// The connection.
        key: Key,
        /// Whether it is there.
        result: io::Result<()>,
    },
    /// Something about receiving. `armed`: whether more will follow by themselves.
    Received {
        /// The connection.
        key: Key,
        /// What it was.
        outcome: Received,
        /// Whether the receive goes on.
        armed: bool,
    },
    /// All of a buffer was sent, or the connection is broken. The buffer comes back.
    Sent {
        /// The connection.
        key: Key,
        /// What was to be sent.
        buffer: Vec<u8>,
        /// Whether it was.
        result: io::Result<()>,
    },
    /// Another core has put something into a mailbox.
    Woken,
    /// The watched descriptor can be read. `armed`: whether it is still watched.
    Readable {
        /// Whether the watch goes on.
        armed: bool,
    },
}

/// A send under way.
struct Sending {
    key: Key,
    fd: RawFd,
    buffer: Vec<u8>,
    sent: usize,
}

/// A connect under way. The address is boxed, so that it stays where the kernel was told it is.
struct Connecting {
    key: Key,
    address: Box<SockAddr>,
}

/// How long a wait that has an event already may go on for more of them.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// Events that end the wait at once.
    pub events: usize,
    /// Time after which fewer do.
    pub time: Duration,
}

/// One core's ring.
pub struct Ring {
    // Fields drop in order: the ring first, so that the kernel lets go of the
    // memory below before it is freed.
    ring: IoUring,
    buffers: Buffers,
    sending: Vec<Option<Sending>>,
    sending_free: Vec<u32>,
    sends_queued: usize,
    connecting: Vec<Option<Connecting>>,
    connecting_free: Vec<u32>,
    /// Completions that were taken off the queue together, and how many of them have been handed out.
    taken: Vec<cqueue::Entry>,
    handed_out: usize,
    /// Whether the kernel can wait for several events within a time.
    gathers: bool,
}

/// Memory that the kernel fills: a ring of descriptors and the buffers behind it.
struct Buffers {
    /// Page-aligned: descriptors first, then the buffers.
    base: *mut u8,
    bytes: usize,
    /// How many buffers there are: a power of two, at most [`BUFFERS_MAX`].
    count: u16,
    /// How many of them are in use. The others take no memory yet.
    offered: u16,
    tail: u16,
}

const PAGE_BYTES: usize = 4096;
const DESCRIPTOR_BYTES: usize = (BUFFERS_MAX as usize * size_of::<BufRingEntry>()).next_multiple_of(PAGE_BYTES);

impl Buffers {
    fn map(count: u16) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= BUFFERS_MAX);
        let bytes = DESCRIPTOR_BYTES + usize::from(count) * BUFFER_BYTES;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), bytes, count, offered: 0, tail: 0 })
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        assert!(id < self.count);
        // SAFETY: `id` is below the count, so the offset stays inside the mapping made by `map`.
        unsafe { self.base.add(DESCRIPTOR_BYTES + usize::from(id) * BUFFER_BYTES) }
    }

    /// Puts a buffer at the tail of the ring, for the kernel to see at the next [`Buffers::publish`].
    fn offer(&mut self, id: u16) {
        let address = self.buffer(id) as u64;
        let at = usize::from(self.tail & (self.count - 1));
        // SAFETY: `at` is below the count, a power of two, so the entry lies in the descriptor part of the mapping, which is
        // page-aligned and zeroed at first; the kernel reads an entry only after the tail has passed it.
        let entry = unsafe { &mut *self.base.cast::<BufRingEntry>().add(at) };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Puts twice as many buffers into use as are now, as far as there are so many.
    fn offer_more(&mut self) {
        let wanted = (self.offered * 2).clamp(BUFFERS_MIN, self.count);
        (self.offered..wanted).for_each(|id| self.offer(id));
        self.offered = wanted;
        self.publish();
    }

    /// Makes the offered buffers visible to the kernel.
    fn publish(&mut self) {
        // SAFETY: `base` is the address of the first entry of the ring, as `tail` demands, and lives as long as
        // self; the kernel reads this word concurrently, hence the atomic store.
        let tail = unsafe { &*BufRingEntry::tail(self.base.cast()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// Leaves the memory mapped for ever.
    fn leak(&mut self) {
        self.bytes = 0;
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        // SAFETY: the mapping was made by `map` with this length. The ring is closed before (field order in
        // `Ring`) and its requests were cancelled, so the kernel no longer writes here.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

impl Ring {
    /// A ring for the calling thread, with as many receive buffers as are ever useful.
    ///
    /// # Errors
    /// The kernel does not allow it, or lacks what the ring needs (Linux 6.1).
    pub fn new() -> io::Result<Self> {
        Self::receiving(RECEIVE_BYTES_MAX)
    }

    /// A ring for the calling thread, with receive buffers of at most about `bytes` bytes, as far as that
    /// makes sense. They come into use as receives find none that is free.
    ///
    /// # Errors
    /// The kernel does not allow it, or lacks what the ring needs (Linux 6.1).
    pub fn receiving(bytes: u64) -> io::Result<Self> {
        let wanted = bytes.clamp(RECEIVE_BYTES_MIN, RECEIVE_BYTES_MAX) / BUFFER_BYTES as u64;
        let count = 1 << wanted.ilog2();
        let build = |no_array: bool| {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(COMPLETIONS_MAX).setup_clamp().setup_submit_all();
            builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            if no_array {
                builder.setup_no_sqarray();
            }
            builder.build(SUBMISSIONS_MAX)
        };
        // The indirection array costs a cache line a submission; kernels before 6.6 insist on it.
        let ring = build(true).or_else(|_| build(false))?;
        let mut buffers = Buffers::map(count)?;
        // SAFETY: the descriptors are page-aligned, `count` long, and stay mapped until the ring is closed.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(buffers.base as u64, count, BUFFER_GROUP, 0)?;
        }
        buffers.offer_more();
        let gathers = ring.params().is_feature_min_timeout();
        Ok(Self {
            ring,
            buffers,
            sending: Vec::new(),
            sending_free: Vec::new(),
            sends_queued: 0,
            connecting: Vec::new(),
            connecting_free: Vec::new(),
            taken: Vec::with_capacity(TAKEN_MAX),
            handed_out: 0,
            gathers,
        })
    }

    /// Receive buffers that are in use: more receives than these cannot take bytes at once.
    pub fn receive_buffers(&self) -> usize {
        usize::from(self.buffers.offered)
    }

    /// Memory of the receive buffers that are in use.
    pub fn receive_bytes(&self) -> u64 {
        u64::from(self.buffers.offered) * BUFFER_BYTES as u64
    }

    /// The ring's descriptor, by which other cores wake it.
    pub fn descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Lets `eventfd` be signalled when something completes, while [`Ring::notify`] is on.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn register_eventfd(&self, eventfd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd)
    }

    /// Switches the eventfd on or off. Off while the core turns: then a completion costs no signal.
    pub fn notify(&mut self, on: bool) {
        let completions = self.ring.completion();
        if on {
            completions.enable_eventfd()
        } else {
            completions.disable_eventfd()
        }
        // The caller looks for news next: that look must not be older than the switch.
        fence(Ordering::SeqCst);
    }

    #[inline]
    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: every entry built in this file refers only to descriptors by number and to memory owned by
            // `self.sending`, `self.connecting` or `self.buffers`, which outlives the request.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // The queue is full: hand over what there is. An error here shows up at the next enter.
            let _ = self.ring.submit();
        }
    }

    /// Accepts connections until cancelled or failed.
    pub fn accept(&mut self, key: Key, listener: RawFd) {
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.push(&entry.user_data(pack(Kind::Accept, key)));
    }

    /// Connects `socket` to `address`; completes with [`Completion::Connected`].
    pub fn connect(&mut self, key: Key, socket: RawFd, address: SockAddr) {
        let index = self.connecting_free.pop().unwrap_or_else(|| {
            self.connecting.push(None);
            (self.connecting.len() - 1) as u32
        });
        let connecting = self.connecting[index as usize].insert(Connecting { key, address: Box::new(address) });
        let (pointer, len) = (connecting.address.as_ptr(), connecting.address.len());
        let entry = opcode::Connect::new(Fd(socket), pointer.cast(), len).build();
        self.push(&entry.user_data(pack(Kind::Connect, Key { index, generation: 0 })));
    }

    /// Receives into lent buffers until cancelled, failed or starved.
    #[inline]
    pub fn receive(&mut self, key: Key, socket: RawFd) {
        let entry = opcode::RecvMulti::new(Fd(socket), BUFFER_GROUP).build();
        self.push(&entry.user_data(pack(Kind::Receive, key)));
    }

    /// Stops the receive of `key`; its last completion says so.
    pub fn cancel_receive(&mut self, key: Key) {
        self.cancel(pack(Kind::Receive, key), key);
    }

    /// Stops the accept of `key`.
    pub fn cancel_accept(&mut self, key: Key) {
        self.cancel(pack(Kind::Accept, key), key);
    }

    fn cancel(&mut self, user_data: u64, key: Key) {
        let entry = opcode::AsyncCancel::new(user_data).build();
        self.push(&entry.user_data(pack(Kind::Cancel, key)).flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// Sends all of `buffer`, however many pieces the kernel takes it in.
    #[inline]
    pub fn send(&mut self, key: Key, socket: RawFd, buffer: Vec<u8>) {
        debug_assert!(!buffer.is_empty());
        let index = self.sending_free.pop().unwrap_or_else(|| {
            self.sending.push(None);
            (self.sending.len() - 1) as u32
        });
        self.sending[index as usize] = Some(Sending { key, fd: socket, buffer, sent: 0 });
        self.queue_send(index);
    }

    #[inline]
    fn queue_send(&mut self, index: u32) {
        let sending = self.sending[index as usize].as_ref().expect("queued sends are under way");
        let rest = &sending.buffer[sending.sent..];
        let len = rest.len().min(i32::MAX as usize) as u32;
        let entry = opcode::Send::new(Fd(sending.fd), rest.as_ptr(), len).flags(libc::MSG_NOSIGNAL).build();
        if sending.sent == 0 && sending.buffer.len() <= INLINE_SEND_MAX {
            self.sends_queued += 1;
        }
        self.push(&entry.user_data(pack(Kind::Send, Key { index, generation: 0 })));
    }

    /// Makes another core's ring complete a wait.
    pub fn wake(&mut self, ring: RawFd) {
        let wake = pack(Kind::Wake, Key { index: 0, generation: 0 });
        let entry = opcode::MsgRingData::new(Fd(ring), 0, wake, None).build();
        self.push(
            &entry.user_data(pack(Kind::Cancel, Key { index: 0, generation: 0 })).flags(squeue::Flags::SKIP_SUCCESS),
        );
    }

    /// Completes with [`Completion::Readable`] each time `fd` can be read.
    pub fn watch(&mut self, fd: RawFd) {
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).multi(true).build();
        self.push(&entry.user_data(pack(Kind::Poll, Key { index: 0, generation: 0 })));
    }

    /// Whether something may have completed: a look at shared memory, no system call.
    #[inline]
    pub fn has_news(&mut self) -> bool {
        self.handed_out < self.taken.len() || !self.ring.completion().is_empty() || self.ring.submission().taskrun()
    }

    /// Whether something is queued that the kernel has not taken yet.
    pub fn has_queued(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Hands over what was queued and runs deferred work, without waiting.
    ///
    /// # Errors
    /// As the kernel says; interruptions are not errors.
    pub fn submit(&mut self) -> io::Result<()> {
        self.sends_queued = 0;
        let (nothing_queued, deferred) = {
            let queue = self.ring.submission();
            (queue.is_empty(), queue.taskrun() || queue.cq_overflow())
        };
        if nothing_queued && !deferred {
            return Ok(());
        }
        forgive(self.ring.submit())
    }

    /// Hands over what was queued and waits for news, at most `timeout`. Sends
    /// complete as they are handed over, so the wait is for events beyond them: one,
    /// or with `gather` so many of them as come within its time (Linux 6.12; earlier
    /// kernels wait for one).
    ///
    /// # Errors
    /// As the kernel says; interruptions and the time running out are not errors.
    pub fn submit_and_wait(&mut self, timeout: Duration, gather: Option<Gather>) -> io::Result<()> {
        let time = Timespec::from(timeout);
        let mut args = SubmitArgs::new().timespec(&time);
        let mut want = 1 + std::mem::take(&mut self.sends_queued);
        if let Some(gather) = gather.filter(|_| self.gathers) {
            want += gather.events.saturating_sub(1);
            args = args.min_wait_usec(gather.time.as_micros() as u32);
        }
        forgive(self.ring.submitter().submit_with_args(want, &args))
    }

    /// Moves what has completed into `news`.
    #[inline]
    pub fn reap(&mut self, news: &mut Vec<Completion>) {
        news.extend(std::iter::from_fn(|| self.next_news()));
    }

    /// Takes the oldest of what has completed. What is not taken stays for the next time, in order.
    #[inline]
    pub fn next_news(&mut self) -> Option<Completion> {
        loop {
            if self.handed_out == self.taken.len() && !self.take() {
                return None;
            }
            let entry = self.taken[self.handed_out].clone();
            self.handed_out += 1;
            if let Some(completion) = self.complete(&entry) {
                return Some(completion);
            }
        }
    }

    /// Takes what has completed off the queue, a piece of it, if all that was taken before has been handed out. Answers whether
    /// anything was.
    #[inline]
    pub fn take(&mut self) -> bool {
        if self.handed_out < self.taken.len() {
            return false;
        }
        self.taken.clear();
        self.handed_out = 0;
        self.taken.extend(self.ring.completion().take(TAKEN_MAX));
        !self.taken.is_empty()
    }

    /// What was received, of the completions that were taken and not handed out yet, in order.
    pub fn upcoming(&self) -> impl Iterator<Item = &[u8]> {
        self.taken[self.handed_out..].iter().filter_map(|entry| {
            let is_receive = Kind::of(entry.user_data()) == Some(Kind::Receive) && entry.result() > 0;
            let id = cqueue::buffer_select(entry.flags()).filter(|_| is_receive)?;
            // Not recycled: that takes a `Lent`, which is made when the completion is handed out.
            Some(self.filled(id, entry.result() as usize))
        })
    }

    #[inline]
    fn complete(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let (user_data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
        let (key, armed) = (unpack(user_data), cqueue::more(flags));
        match Kind::of(user_data)? {
            Kind::Receive => {
                let outcome = match result {
                    0 => Received::End,
                    1.. => match cqueue::buffer_select(flags) {
                        Some(id) => Received::Data(Lent { id, len: result as u32 }),
                        None => Received::Failed(io::Error::other("data without a buffer")),
                    },
                    code if code == -libc::ENOBUFS => {
                        self.buffers.offer_more();
                        Received::Starved
                    }
                    code if code == -libc::ECANCELED => Received::Cancelled,
                    code => Received::Failed(io::Error::from_raw_os_error(-code)),
                };
                Some(Completion::Received { key, outcome, armed })
            }
            Kind::Send => self.complete_send(key.index, result),
            Kind::Accept => {
                let result = if result >= 0 {
                    // SAFETY: a non-negative result of accept is a new descriptor that nobody else owns.
                    Ok(unsafe { OwnedFd::from_raw_fd(result) })
                } else {
                    Err(io::Error::from_raw_os_error(-result))
                };
                Some(Completion::Accepted { key, result, armed })
            }
            Kind::Connect => {
                let done = self.connecting[key.index as usize].take()?;
                self.connecting_free.push(key.index);
                let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
                Some(Completion::Connected { key: done.key, result })
            }
            Kind::Wake => Some(Completion::Woken),
            Kind::Poll => Some(Completion::Readable { armed }),
            Kind::Cancel => None,
        }
    }

    #[inline]
    fn complete_send(&mut self, index: u32, result: i32) -> Option<Completion> {
        let sending = self.sending[index as usize].as_mut()?;
        let result = match result {
            // A send of something that takes nothing would be asked for again for ever.
            0 => Err(io::ErrorKind::WriteZero.into()),
            1.. => {
                sending.sent += result as usize;
                if sending.sent < sending.buffer.len() {
                    self.queue_send(index);
                    return None;
                }
                Ok(())
            }
            code if code == -libc::EINTR || code == -libc::EAGAIN => {
                self.queue_send(index);
                return None;
            }
            code => Err(io::Error::from_raw_os_error(-code)),
        };
        let done = self.sending[index as usize].take()?;
        self.sending_free.push(index);
        Some(Completion::Sent { key: done.key, buffer: done.buffer, result })
    }

    /// The bytes of a lent buffer.
    #[inline]
    pub fn bytes(&self, lent: &Lent) -> &[u8] {
        self.filled(lent.id, lent.len as usize)
    }

    /// The first `len` bytes of a buffer whose completion has been taken, and that has not been recycled since.
    fn filled(&self, id: u16, len: usize) -> &[u8] {
        let len = len.min(BUFFER_BYTES);
        // SAFETY: the buffer is mapped as long as self and `len` at most its size. The kernel has filled it before it told of
        // the completion, and writes to it again only after `recycle`, which takes self exclusively, so not during this borrow.
        unsafe { std::slice::from_raw_parts(self.buffers.buffer(id), len) }
    }

    /// Takes a buffer back, for the kernel to fill again.
    #[inline]
    pub fn recycle(&mut self, lent: Lent) {
        self.buffers.offer(lent.id);
        self.buffers.publish();
    }

    /// Bytes of send buffers that the kernel still uses.
    pub fn sending_bytes(&self) -> usize {
        self.sending.iter().flatten().map(|s| s.buffer.capacity()).sum()
    }
}

/// A counter in the kernel that wakes whoever polls it: non-blocking.
///
/// # Errors
/// As the system says.
pub fn eventfd() -> io::Result<File> {
    // SAFETY: the call takes no memory of ours.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Resets an eventfd.
pub fn drain(mut eventfd: &File) {
    // A counter that is zero needs no reset.
    let _ = eventfd.read(&mut [0u8; 8]);
}

/// A wait that ended without news is not a failure.
fn forgive(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Requests under way refer to memory of ours: wait until they are gone.
        let cancelled = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        let gone = match cancelled {
            Ok(()) => true,
            Err(error) => error.raw_os_error() == Some(libc::ENOENT),
        };
        if !gone {
            // Better lost than freed under the kernel's hands.
            std::mem::forget(std::mem::take(&mut self.sending));
            std::mem::forget(std::mem::take(&mut self.connecting));
            self.buffers.leak();
        }
    }
}
