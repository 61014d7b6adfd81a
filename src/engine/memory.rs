//! The first of the two rooms where `unsafe` is allowed: the mappings that
//! hold the records and the slot tables of a core, two instructions for which there is no safe name, and what the
//! allocator is told.
//!
//! Invariant: `base..base + len` is readable, writable and owned by this value
//! alone from [`Memory::grow`] until it is dropped, so the slices handed out are
//! as safe as those of a `Vec<u8>`. Pages never written read as zeros.
//!
//! Called by [`super::arena`], [`super::slab`] and the prefetch hints of [`super::Shard`].
#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::NonNull;

/// One huge page: smaller segments gain nothing from the advice and would
/// share a page with a neighbour that has been given back.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The smallest page there is.
const SMALL_PAGE_BYTES: usize = 4 << 10;

/// The unit of `mprotect`, or a multiple of it.
const PAGE_BYTES: usize = 64 << 10;

/// Sixteen bytes, of which there are whole ones in a cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub struct Unit(pub [u32; 4]);

/// A private anonymous mapping, paged in on first touch.
pub struct Memory {
    /// What `mmap` answered, and how much it mapped.
    mapped: NonNull<u8>,
    mapped_bytes: usize,
    /// The part in use: it starts on a huge page boundary, and the first `len` of its `reach` bytes are usable.
    base: NonNull<u8>,
    reach: usize,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to the thread
// that made it, so the value may move to another thread like a `Vec<u8>`.
unsafe impl Send for Memory {}

impl Memory {
    /// Sets `reach` bytes of addresses aside, of which none can be used yet.
    ///
    /// # Errors
    /// The system's error number, such as `ENOMEM`.
    pub fn reserve(reach: usize) -> Result<Self, i32> {
        let rounded = reach.checked_next_multiple_of(PAGE_BYTES).ok_or(libc::ENOMEM)?;
        let mapped_bytes = rounded.checked_add(HUGE_PAGE_BYTES).ok_or(libc::ENOMEM)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice
        // touches no memory that anyone else uses.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), mapped_bytes, libc::PROT_NONE, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::ENOMEM));
        }
        let mapped = NonNull::new(at.cast::<u8>()).ok_or(libc::ENOMEM)?;
        let skip = mapped.as_ptr().align_offset(HUGE_PAGE_BYTES).min(HUGE_PAGE_BYTES);
        // SAFETY: `skip` is at most the huge page that was mapped beyond `reach`.
        let base = unsafe { mapped.add(skip) };
        Ok(Self { mapped, mapped_bytes, base, reach, len: 0 })
    }

    /// Makes the first `len` bytes usable: zeros that occupy no memory until
    /// they are touched. Never makes fewer usable than before.
    ///
    /// # Errors
    /// The system's error number; what was usable still is.
    pub fn grow(&mut self, len: usize) -> Result<(), i32> {
        if len > self.reach {
            return Err(libc::ENOMEM);
        }
        if len <= self.len {
            return Ok(());
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range starts at the mapping's own base and ends inside what
        // was set aside; giving access to it takes none away.
        let done = unsafe { libc::mprotect(self.base.as_ptr().cast(), len.next_multiple_of(PAGE_BYTES), access) };
        if done != 0 {
            return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::ENOMEM));
        }
        self.len = len;
        Ok(())
    }

    /// How far [`Memory::grow`] can go.
    pub fn reach(&self) -> usize {
        self.reach
    }

    /// Everything usable.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped readable as long as `self` lives, and
        // writing needs `&mut self`, which excludes this borrow.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// Everything usable, for writing.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range is mapped writable as long as `self` lives, and
        // `&mut self` excludes every other borrow.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// Everything usable but for what fills no unit. The first begins a cache line.
    #[inline]
    pub fn units(&self) -> &[Unit] {
        // SAFETY: as for `bytes`; the base is aligned to a huge page, so to units, and all bits make words.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.len / size_of::<Unit>()) }
    }

    /// The same for writing.
    #[inline]
    pub fn units_mut(&mut self) -> &mut [Unit] {
        // SAFETY: as for `bytes_mut`; alignment and values as for `units`.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast(), self.len / size_of::<Unit>()) }
    }

    /// Gives the pages of `range` back to the system; they read as zeros again. Answers `false` if the system keeps them
    /// as they are: a process may have locked its memory.
    pub fn release(&mut self, range: Range<usize>) -> bool {
        self.advise(range, libc::MADV_DONTNEED)
    }

    /// Lets every page of `range` occupy memory now, on the NUMA node of the calling thread.
    pub fn touch(&mut self, range: Range<usize>) {
        let pages = self.bytes_mut().get_mut(range).unwrap_or_default().chunks_mut(SMALL_PAGE_BYTES);
        pages.filter_map(<[u8]>::first_mut).for_each(|byte| *byte = std::hint::black_box(*byte));
    }

    /// Asks for huge pages (or, with `false`, for none) in all that is usable.
    /// Only advice: a kernel without them ignores it.
    pub fn advise_huge(&mut self, wanted: bool) {
        self.advise(0..self.len, if wanted { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE });
    }

    fn advise(&mut self, range: Range<usize>, advice: i32) -> bool {
        if range.start >= range.end || range.end > self.len {
            return false;
        }
        // SAFETY: the range lies inside the mapping, `&mut self` excludes every
        // borrow of its bytes, and private anonymous pages that are given back
        // read as zeros. Failure leaves the pages as they are.
        unsafe { libc::madvise(self.base.add(range.start).as_ptr().cast(), range.len(), advice) == 0 }
    }

    /// Starts loading the cache line at `offset`; does nothing outside the mapping.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        if let Some(byte) = self.bytes().get(offset) {
            prefetch_ref(byte);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `mmap` answered, unmapped once; no
        // borrow of it outlives `self`.
        unsafe { libc::munmap(self.mapped.as_ptr().cast(), self.mapped_bytes) };
    }
}

/// How large a page is here: the least that the system gives or takes.
pub fn page_bytes() -> usize {
    // SAFETY: the call reads a number that never changes.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).map_or(PAGE_BYTES, |bytes| bytes.clamp(SMALL_PAGE_BYTES, PAGE_BYTES))
}

/// Allocations of more bytes than these get mappings of their own.
pub const OWN_MAPPING_BYTES: usize = 256 << 10;

/// Has the allocator, in the whole process and from now on, give large allocations mappings of their own. Such a one
/// grows by moving pages, not bytes: left alone, glibc soon takes it from its heaps, and a request buffer of 16 MiB
/// that grows is copied for 3 ms. A buffer that has grown where it was, in a heap, stays there: whoever grows one
/// moves it in time.
pub fn map_large_allocations() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call changes a number that the allocator reads under its own locks. Refused, it changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES as i32);
    }
}

/// Starts loading the cache line of `place`.
#[inline]
pub fn prefetch_ref<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint without effect on memory; SSE is part of
        // every x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Which bytes of some words are `byte`: a bit for each, the lowest of the first word first.
#[inline]
pub fn equal_bytes(words: &[u32; 4], byte: u8) -> u16 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
        // SAFETY: what is read are the 16 bytes of `words`, at any alignment, and SSE2 is part of every x86_64.
        unsafe {
            let bytes = _mm_loadu_si128(words.as_ptr().cast());
            _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8))) as u16
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    equal_bytes_portably(words, byte)
}

/// The same without the vector unit.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn equal_bytes_portably(words: &[u32; 4], byte: u8) -> u16 {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).enumerate();
    bytes.fold(0, |found, (i, other)| found | u16::from(other == byte) << i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_compare_bytes_agree() {
        let mut rng = crate::base::rng::Rng::new(1);
        for _ in 0..10_000 {
            // Few values, so that many are equal.
            let words = std::array::from_fn(|_| (0..4).fold(0, |word, _| (word << 8) | (rng.below(3) as u32 * 127)));
            for byte in [0, 127, 254, 3] {
                assert_eq!(equal_bytes(&words, byte), equal_bytes_portably(&words, byte));
            }
        }
    }

    #[test]
    fn pages_start_as_zeros_and_read_as_zeros_after_release() {
        let mut memory = Memory::reserve((1 << 20) + 1).expect("addresses for a mebibyte");
        assert_eq!((memory.bytes().len(), memory.reach()), (0, (1 << 20) + 1));
        memory.grow(1 << 19).expect("half of it can be mapped");
        memory.bytes_mut()[(1 << 19) - 1] = 1;
        memory.grow(1 << 20).expect("all of it can be mapped");
        assert_eq!(memory.bytes().len(), 1 << 20);
        assert_eq!(std::mem::take(&mut memory.bytes_mut()[(1 << 19) - 1]), 1, "growing keeps what is there");
        memory.grow(1).expect("less than before");
        assert_eq!(memory.bytes().len(), 1 << 20);
        memory.grow((1 << 20) + 1).expect("the last byte too");
        assert!(memory.grow((1 << 20) + 2).is_err(), "no more than was set aside");
        assert_eq!(memory.bytes().as_ptr().align_offset(HUGE_PAGE_BYTES), 0);
        assert_eq!(memory.units().len(), 1 << 16);
        memory.units_mut()[1].0[1] = 0x0403_0201;
        assert_eq!((&memory.bytes()[16..25], memory.units()[1].0[1]), (&[0, 0, 0, 0, 1, 2, 3, 4, 0][..], 0x0403_0201));
        memory.bytes_mut()[20..24].fill(0);
        assert!(memory.bytes().iter().all(|&b| b == 0));
        memory.bytes_mut().fill(7);
        assert!(memory.release(4096..8192));
        assert!(memory.bytes()[..4096].iter().all(|&b| b == 7));
        assert!(memory.bytes()[4096..8192].iter().all(|&b| b == 0));
        assert!(!memory.release(0..(1 << 20) + 2));
        assert_eq!(memory.bytes()[0], 7, "a range outside the mapping is left alone");
        memory.touch(0..(1 << 20) + 2);
        memory.touch(0..(1 << 20) + 1);
        assert_eq!((memory.bytes()[0], memory.bytes()[4096]), (7, 0), "touching changes nothing");
        memory.prefetch(usize::MAX);
        memory.advise_huge(false);
    }

    #[test]
    fn more_than_the_address_space_is_an_error() {
        assert!(Memory::reserve(usize::MAX).is_err());
        assert!(Memory::reserve(1 << 60).is_err());
    }
}
